"""`omnivision compare`: several runs in one table, with paired differences, beside the published rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from omnivision.errors import ConfigError, DataError

from . import results
from .benchmarks import MODULES
from .bootstrap import paired_difference
from .main import figure
from .published import BENCHMARKS, NOTE, PUBLISHED

EXAMPLE = "example: omnivision compare runs/NAME/sft/eval runs/NAME/dpo/eval --plot compare.png"


def main(argv: list[str]) -> int | None:
    """Prints the table on stderr, or with --json one object on stdout; draws a bar chart where asked."""
    parser = argparse.ArgumentParser(prog="omnivision compare", epilog=EXAMPLE,
                                     description="Compare runs: one table, paired differences against the first run.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder with <task>/results.json, or a run with eval/")
    parser.add_argument("--plot", type=Path, help="write a bar chart (PNG)")
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
        `runs` (name -> task -> results.json), `differences` (name -> task -> paired difference from the first run)
        and `published`.

    Raises:
        DataError: a folder without results.
    """
    names = _names(folders)
    folders = [folder / "eval" if (folder / "eval").is_dir() else folder for folder in folders]
    runs = {name: _read_run(folder) for name, folder in zip(names, folders, strict=True)}
    differences = {}
    for name, folder in list(zip(names, folders, strict=True))[1:]:
        shared = [task for task in runs[name] if task in runs[names[0]]]
        pairs = {task: _difference(folders[0] / task, folder / task, runs[name][task]["task"]) for task in shared}
        differences[name] = {task: pair for task, pair in pairs.items() if pair}
    return {"runs": runs, "differences": differences, "published": {"note": NOTE, "rows": PUBLISHED}}


def _names(folders: list[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart; `eval` at the end says nothing."""
    parts = [folder.resolve().parts for folder in folders]
    parts = [p[:-1] if p[-1] == "eval" else p for p in parts]
    if len(set(parts)) < len(parts):
        raise ConfigError("A run is named twice", ", ".join(map(str, folders)), "Name each run once.")
    depth = next(d for d in range(1, max(map(len, parts)) + 1) if len({p[-d:] for p in parts}) == len(parts))
    return ["/".join(p[-depth:]) for p in parts]


def _read_run(folder: Path) -> dict[str, dict]:
    found = {}
    for file in sorted(folder.glob("*/results.json")):
        try:
            found[file.parent.name] = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise DataError(f"The results are not JSON ({error})", str(file), "Run the evaluation again.") from error
    if not found:
        raise DataError("The folder has no <task>/results.json", str(folder), "Run `omnivision eval ... --out` first.")
    return found


def _difference(first: Path, second: Path, task: str) -> dict | None:
    """Paired over the questions that both runs answered (a saved answer may be missing)."""
    benchmark = MODULES.get(task)
    if benchmark is None:  # the mean of POPE's splits has no samples of its own
        return None
    a, b = _samples(first), _samples(second)
    shared = [key for key in a if key in b and a[key]["answer"] is not None and b[key]["answer"] is not None]
    if not shared:
        return None
    variant = benchmark.VARIANTS[0]
    # the questions of both in one order, so that row i of both matrices is the same image
    _, counts_a = results.counts_of(benchmark, [a[key] for key in shared], variant)
    _, counts_b = results.counts_of(benchmark, [b[key] | {"image": a[key]["image"]} for key in shared], variant)
    return {"n": len(shared), **paired_difference(counts_a, counts_b, benchmark.headline)}


def _samples(folder: Path) -> dict[str, dict]:
    file = folder / "samples.jsonl"
    if not file.is_file():
        raise DataError("The samples of a run are missing", str(file), "Run the evaluation again.")
    with file.open(encoding="utf-8") as lines:
        return {str(sample["question_id"]): sample for sample in map(json.loads, lines)}


def _show(found: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console, first = Console(stderr=True), next(iter(found["runs"]))
    tasks = list(dict.fromkeys(task for run in found["runs"].values() for task in run))
    table = Table(title="measured: score ± stderr; (difference from the first run, * where its 95 % interval excludes 0)")
    table.add_column("run")
    for task in tasks:
        table.add_column(task, justify="right")
    for name, run in found["runs"].items():
        table.add_row(name, *[_cell(run.get(task), found["differences"].get(name, {}).get(task)) for task in tasks])
    console.print(table)
    table = Table(title=NOTE)
    for column in ("published", *BENCHMARKS):
        table.add_column(column, justify="left" if column == "published" else "right")
    for name, row in PUBLISHED.items():
        table.add_row(name, *[figure(row[benchmark]) for benchmark in BENCHMARKS])
    console.print(table)
    if len(found["runs"]) > 1:
        console.print(f"Differences are paired by image against {first}.")


def _cell(one: dict | None, pair: dict | None) -> str:
    if one is None:
        return "–"
    text = f"{figure(one['score'])} ± {figure(one['stderr'])}"
    if pair is None:
        return text
    sure = pair["low"] is not None and (pair["low"] > 0 or pair["high"] < 0)
    return f"{text} ({pair['difference']:+.1f}{'*' if sure else ''})"
