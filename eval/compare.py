"""`omnivision compare`: several runs in one table, with paired differences, beside the published rows."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import Any

from omnivision.data.flags import output_file
from omnivision.errors import ConfigError, DataError

from . import action_table, pope, results
from .actions import real_calls, strict_form
from .benchmarks import MODULES, POPE_SPLITS
from .bootstrap import paired_difference
from .main import WIDTH, figure, screen, show_whole
from .pope_splits import mean_f1, side_by_side
from .published import BENCHMARKS, NOTE, PUBLISHED, SAME

NARROW = 4  # letters that a published column's name may have on a line where the screen is narrow: as many as "59.2"
# settings that leave the shared questions and how they are asked as they are (of a split, the rows or the data hash tell)
SAME_QUESTION = ("batch_size", "dtype", "limit", "split", "predictions", results.SAVED, "answers", "beside")
# notes on what a model answered, on how many questions were asked, and on what is told elsewhere: the setting `pictures`, the judges
ANSWERED = re.compile(r"(pope_\w+ )?(cut off|empty|without an answer|part|pictures|judge|judge (prompt|failures|first failure|possibly billed))")
FILE_NAME = re.compile(r"^.*(, |: )(?=[\d,]+ (lines|runs|tokens)$|a piece)")  # or the judge's place: how notes on questions, grades and the judge begin
EXAMPLE = "example: omnivision compare runs/NAME/sft/eval runs/NAME/dpo/eval --plot compare.png"


def main(argv: list[str]) -> int | None:
    """Prints the table on stderr, or with --json one object on stdout; draws a bar chart where asked."""
    parser = argparse.ArgumentParser(prog="omnivision compare", epilog=EXAMPLE,
                                     description="Compare runs: one table, paired differences against the first run.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder with <task>/results.json, or a run with eval/")
    parser.add_argument("--plot", type=output_file, metavar="FILE", help="write a bar chart (PNG)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    found = compare(options.runs)
    if options.plot:
        from .bars import draw

        draw({name: {t: (r["score"], r["stderr"]) for t, r in tasks.items()} for name, tasks in found["runs"].items()}, options.plot)
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    _show(found)
    return 0


def compare(folders: list[Path]) -> dict:
    """Reads runs and pairs each with the first.

    Args:
        folders: run folders; a stage's folder with `eval/` inside works too.

    Returns:
        `runs` (name -> task -> results.json), `differences` (name -> task -> paired difference from the first run),
        `measured_otherwise` (name -> task -> `data_hash`, `settings` and `notes` that differ, as pairs: of the first run, of this one)
        and `published`.

    Raises:
        DataError: a folder without results.
    """
    names = _names(folders)
    folders = [folder / "eval" if (folder / "eval").is_dir() else folder for folder in folders]
    runs = {name: _read_run(folder) for name, folder in zip(names, folders, strict=True)}
    differences, otherwise = {}, {}
    for name, folder in list(zip(names, folders, strict=True))[1:]:
        pairs = {task: _difference(folders[0], folder, task, runs[name][task]["task"]) for task in runs[name] if task in runs[names[0]]}
        differences[name] = {task: pair for task, pair in pairs.items() if pair}
        changes = {task: _changes(runs[names[0]][task], runs[name][task]) for task in differences[name]}
        otherwise[name] = {task: change for task, change in changes.items() if change}
    return {"runs": runs, "differences": differences, "measured_otherwise": otherwise, "published": {"note": NOTE, "rows": PUBLISHED}}


def _names(folders: list[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart; `eval` at the end says nothing."""
    parts = [folder.resolve().parts for folder in folders]
    parts = [p[:-1] if p[-1] == "eval" else p for p in parts]
    if len(set(parts)) < len(parts):
        raise ConfigError("A run is named twice", ", ".join(map(str, folders)), "Name each run once.")
    depth = next(d for d in range(1, max(map(len, parts)) + 1) if len({p[-d:] for p in parts}) == len(parts))
    return ["/".join(p[-depth:]) for p in parts]


def _read_run(folder: Path) -> dict[str, dict]:
    found = {file.parent.name: results.read(file) for file in sorted(folder.glob("*/results.json"))}
    if not found:
        raise DataError("The folder has no <task>/results.json", str(folder), "Run `omnivision eval ... --out` first.")
    return found


def _difference(first: Path, second: Path, place: str, task: str) -> dict | None:
    """Paired over the questions that both runs answered (an answer may be missing).

    Args:
        first, second: the runs. place: the task's folder in both. task: its name.
    """
    if task == "mmvet" and len({_judge_of(run / place) for run in (first, second)}) > 1:
        return None  # grades of two judges differ by the judges
    if task != "pope":
        benchmark = MODULES[task]
        both = _counts(first / place, second / place, benchmark)
        return both and {"n": both[0], **paired_difference(both[1][1], both[2][1], benchmark.headline)}
    places = [place.replace("pope", split, 1) for split in POPE_SPLITS]
    if not all((run / one).is_dir() for run in (first, second) for one in places):
        return None
    splits = [_counts(first / one, second / one, pope) for one in places]
    if not all(splits):
        return None
    a, b = (side_by_side([split[run] for split in splits]) for run in (1, 2))
    return {"n": sum(split[0] for split in splits), **paired_difference(a, b, mean_f1)}


def _judge_of(folder: Path) -> str:
    notes = results.read(folder / "results.json").get("notes", {})
    return json.dumps([re.sub(r" \(\d+\)(?=,|$)", "", str(notes.get(key))) for key in ("judge", "judge prompt")])  # without how many grades


def _changes(first: dict, other: dict) -> dict[str, Any]:
    """What two results of a task, paired question by question, have different of data files, settings and notes; empty where nothing is."""
    hashes, settings, notes = ([one.get(key) or {} for one in (first, other)] for key in ("data_hash", "settings", "notes"))
    saved = [results.SAVED in one for one in settings]
    if saved[0] != saved[1]:  # how saved answers were asked for is not known
        settings = [{"saved answers": one} for one in saved]
    left_out = SAME_QUESTION if other["task"] == "mmmu" else (*SAME_QUESTION, "pictures")  # no other task has several at a question
    settings = [{key: value for key, value in one.items() if key not in left_out} for one in settings]
    notes = [{key: FILE_NAME.sub("", str(note)) for key, note in one.items() if not ANSWERED.fullmatch(key)} for one in notes]
    found = {"data_hash": hashes if all(hashes) and _files(hashes[0]) != _files(hashes[1]) else None, "settings": _unlike(*settings), "notes": _unlike(*notes)}
    return {key: value for key, value in found.items() if value}


def _unlike(first: dict, other: dict) -> dict[str, list]:
    """Key -> both values, where they differ; what is off or empty may as well not be there."""
    return {key: [first.get(key), other.get(key)] for key in first | other if (first.get(key) or None) != (other.get(key) or None)}


def _files(hashes: Any) -> list[str]:
    """The hashes of the files, whatever these are called."""
    return sorted(one for part in hashes.values() for one in _files(part)) if isinstance(hashes, dict) else [str(hashes)]


def _counts(first: Path, second: Path, benchmark: ModuleType) -> tuple[int, tuple, tuple] | None:
    """How many questions both answered, and the counts of each run with row i of both about the same image; None where there are none."""
    a, b = _samples(first), _samples(second)
    variant = benchmark.VARIANTS[0]
    shared = [key for key in a if key in b and all(one[key][variant]["score"] is not None for one in (a, b))]
    if not shared:
        return None
    for key in shared:
        if _truth(a[key]) != _truth(b[key]) or len({one[key]["text"] for one in (a, b)} - {""}) > 1:  # answers of MMMU may come without texts
            raise DataError(f"The question {key} is another in the two runs", f"{first} and {second}", "Compare runs on the same questions.")
    theirs = [b[key] | {"image": a[key]["image"]} for key in shared]
    return len(shared), results.counts_of(benchmark, [a[key] for key in shared], variant), results.counts_of(benchmark, theirs, variant)


def _truth(sample: dict) -> tuple:
    """The true answer, or the true calls of `actions` as they are graded."""
    calls = [{key: value for key, value in call.items() if value or key != "nested"} for call in real_calls(sample.get("calls") or [])]
    return sample.get("label"), strict_form(calls)


def _samples(folder: Path) -> dict[str, dict]:
    file = folder / "samples.jsonl"
    if not file.is_file():
        raise DataError("The samples of a run are missing", str(file), "Run the evaluation again.")
    with file.open(encoding="utf-8") as lines:
        try:
            return {str(sample["question_id"]): sample for sample in map(json.loads, lines)}
        except ValueError as error:
            raise DataError(f"The samples are broken ({error})", str(file), "Run the evaluation again.") from error


def _show(found: dict) -> None:
    console, first = screen(), next(iter(found["runs"]))
    tasks = list(dict.fromkeys(task for run in found["runs"].values() for task in run))
    show_whole(console, _table(found, tasks, PUBLISHED), _table(found, tasks, PUBLISHED, NARROW), _table(found, tasks, {}))
    for name, run in found["runs"].items():
        if len(models := _models(run)) > 1:
            console.print(f"{name} holds results of {len(models)} models: {', '.join(models)}.", highlight=False, markup=False)
    for task in tasks:
        if with_table := {name: run[task] for name, run in found["runs"].items() if "table" in run.get(task, ())}:
            show_whole(console, action_table.runs_table(task, with_table))
    for name, run in found["runs"].items():
        apart = [task for task in run if task in found["runs"][first] and name != first and task not in found["differences"][name]]
        if apart:
            console.print(f"{name} and {first} answered no question in common, or were judged otherwise: their scores cannot be compared in {', '.join(apart)}.", highlight=False, markup=False)
    if any(found["differences"].values()):
        console.print(f"In brackets: the difference from {first} over the questions that both answered, paired by image; * its 95 % interval excludes 0.",
                      highlight=False)
    for line in _otherwise(found, tasks):
        console.print(line, highlight=False, markup=False)


def _otherwise(found: dict, tasks: list[str]) -> Iterator[str]:
    """A line a task whose settings or notes differ from the first run's, then a line a run with other data files."""
    first, runs = next(iter(found["runs"])), found["measured_otherwise"]
    for task in tasks:
        parts = [f"{first} | {name}: {', '.join(said)}" for name, changed in runs.items() if (said := _said(changed.get(task, {})))]
        if parts:
            yield f"{task} was measured otherwise, {'; '.join(parts)}."
    for name, changed in runs.items():
        if files := [task for task in tasks if "data_hash" in changed.get(task, ())]:
            yield f"{first} and {name} read different data files in {', '.join(files)}: paired questions have the same truth, and maybe other pictures."


def _said(change: dict) -> list[str]:
    return [f"{key} ({' | '.join(map(_word, pair))})" for kind in ("settings", "notes") for key, pair in change.get(kind, {}).items()]


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "–", False: "no", True: "yes"}[value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _models(run: dict[str, dict]) -> list[str]:
    """Whose results lie in a run's folder; one checkpoint under two paths is one model."""
    known = {one["model_hash"]: one["model"] for one in run.values() if one.get("model_hash")}
    return list(dict.fromkeys(known.get(one.get("model_hash"), one["model"]) for one in run.values() if "model" in one))


def _table(found: dict, tasks: list[str], published: dict[str, dict], widest: int = WIDTH):
    """A line a task, a column a run, then the published columns with names that are broken at so many letters."""
    from rich.table import Table

    table = Table(title="score ± standard error", caption=f"† {found['published']['note']}" if published else "published scores need a wider screen")
    table.add_column("task", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for name in found["runs"]:
        table.add_column(name, justify="right", no_wrap=True)
    for name in published:
        table.add_column("\n".join(wrap(f"{name} †", widest)), justify="right", style="dim", no_wrap=True)
    shown = set()
    for task in tasks:
        measured = [_cell(run.get(task), found["differences"].get(name, {}).get(task)) for name, run in found["runs"].items()]
        key = _benchmark(found["runs"], task)
        shown.add(key)
        sizes = dict.fromkeys(f"{run[task]['n']:,}" for run in found["runs"].values() if task in run)
        table.add_row(task, "\n".join(sizes), *measured, *[figure(row[key]) if key else "" for row in published.values()])
    table.add_section()
    for key in BENCHMARKS:
        if published and key not in shown:
            table.add_row(f"{key} †", "", *["" for _ in found["runs"]], *[figure(row[key]) for row in published.values()], style="dim")
    return table


def _benchmark(runs: dict[str, dict], task: str) -> str | None:
    """The published figure beside a task, where all of the real benchmark was measured (only its results have notes)."""
    real = all("part" not in run[task].get("notes", {"part": ""}) for run in runs.values() if task in run)
    return SAME.get(task) if real else None


def _cell(one: dict | None, pair: dict | None) -> str:
    if one is None:
        return "–"
    text = figure(None) if one["score"] is None else f"{figure(one['score'])} ± {figure(one['stderr'])}"
    if pair is None:
        return text
    sure = pair["low"] is not None and (pair["low"] > 0 or pair["high"] < 0)
    return f"{text}\n({pair['difference']:+.1f}{'*' if sure else ''})"
