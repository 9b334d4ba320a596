"""`omnivision eval`: benchmarks on a model, or on saved answers."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from .benchmarks import GROUPS, REAL, WORLD

EXAMPLE = """examples:
  omnivision eval pope chartqa --model runs/NAME/sft/final --data world --out runs/NAME/sft/eval
  omnivision eval mmvet --predictions answers.json --data mm-vet --grades grades.json"""
HEADLINES = ("f1", "relaxed_accuracy", "judged", "accuracy", "right", "missing", "valid_rate")  # in the table already


def main(argv: list[str]) -> int | None:
    """Evaluates and prints tables on stderr, with --json one object on stdout; 3 where a headline is refused."""
    options = _parser().parse_args(argv)
    from omnivision.errors import ConfigError

    if (options.model is None) == (options.predictions is None):
        raise ConfigError("One of --model and --predictions is needed, not both", "omnivision eval", "Name a checkpoint or a file of saved answers.")
    found = _saved(options) if options.predictions else _answered(options)
    if options.json:
        print(json.dumps({"tasks": found, "scores": {task: one["score"] for task, one in found.items()}}, ensure_ascii=False))
    title = f"{options.predictions}, saved answers" if options.predictions else f"{options.model}, {options.split or 'eval'}"
    show(found, title + (", blind" if options.blank else ""))
    return _tell_missing(found) if options.predictions else 0


def _answered(options: argparse.Namespace) -> dict[str, dict]:
    from omnivision.errors import ConfigError

    from .run import evaluate

    if options.grades:
        raise ConfigError("Grades belong to saved answers", "--grades", "Give --predictions instead of --model.")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit} leaves no question", "--limit", "Give 1 or more.")
    size = 32 if options.batch_size is None else options.batch_size
    if size < 1:
        raise ConfigError(f"--batch-size is {size}", "--batch-size", "Give 1 or more.")
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed's logger, which lm-eval's imports start, writes to stdout
        return evaluate(options.model, options.data, options.tasks, options.out, limit=options.limit,
                        batch_size=size, blank=options.blank, split=options.split or "eval")


def _saved(options: argparse.Namespace) -> dict[str, dict]:
    from omnivision.errors import ConfigError

    from .saved import score_saved

    given = [flag for flag in ("limit", "batch_size", "blank", "split") if getattr(options, flag) not in (None, False)]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for a model that answers", "--predictions", "Leave it out.")
    return score_saved(options.tasks, options.predictions, options.data, options.grades, options.out)


def _tell_missing(found: dict[str, dict]) -> int:
    """Says on stderr what is missing; 3 where that refuses a headline."""
    from omnivision.errors import DataError

    code = 0
    for task, one in found.items():
        if one["missing"]:
            said = "above 1 %, so there is no score" if one["score"] is None else "left out of the score"
            print(f"omnivision: {task}: {one['missing']} of {one['n']} answers or grades are missing, {said}.", file=sys.stderr)
        code = DataError.exit_code if one["score"] is None else code
    return code


def show(found: dict[str, dict], title: str) -> None:
    """The table on stderr."""
    from rich.console import Console
    from rich.table import Table

    console, table = Console(stderr=True), Table(title=title)
    for name in ("task", "variant", "n", "score", "stderr", "valid %"):
        table.add_column(name, justify="left" if name in ("task", "variant") else "right", no_wrap=True)
    for task, one in found.items():
        for variant, part in {one["variant"]: one, **one["variants"]}.items():
            table.add_row(task, variant, str(part["n"]), *[figure(part[key]) for key in ("score", "stderr", "valid_rate")])
    console.print(table)
    for task, one in found.items():
        others = {k: v for k, v in one["metrics"].items() if k not in HEADLINES}
        if others:
            console.print(f"{task}: " + ", ".join(f"{k} {figure(v)}" for k, v in others.items()), highlight=False)
        if "notes" in one:  # the real benchmarks: how the parts fare, and what was read
            _show_parts(console, task, one)


def _show_parts(console, task: str, one: dict) -> None:
    from rich.table import Table

    for key, parts in one["by"].items():
        table = Table(title=f"{task} by {key}, {one['variant']}")
        for name in (key, "n", "missing", "score", "stderr"):
            table.add_column(name, justify="left" if name == key else "right", no_wrap=True)
        for name, part in parts.items():
            table.add_row(name, str(part["n"]), str(part["missing"]), figure(part["score"]), figure(part["stderr"]))
        console.print(table)
    for name, note in one["notes"].items():
        console.print(f"{task}: {name}: {note}", highlight=False)


def figure(value: float | None) -> str:
    """One decimal, or a dash."""
    return "–" if value is None else f"{value:.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="omnivision eval", description="Run benchmarks on a model, or score saved answers.",
                                     epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK", help=f"with --model: {', '.join([*GROUPS, *WORLD])}; "
                                                                 f"with --predictions: {', '.join([*GROUPS, *REAL])}")
    parser.add_argument("--model", type=Path, help="a checkpoint folder")
    parser.add_argument("--predictions", type=Path, help="saved answers: a file, or a folder of one a split or subject")
    parser.add_argument("--grades", type=Path, help="MM-Vet's official grades file, for saved answers")
    parser.add_argument("--data", required=True, type=Path, help="the embedded world's folder; with --predictions the benchmark's")
    parser.add_argument("--out", type=Path, help="folder for <task>/samples.jsonl and results.json")
    parser.add_argument("--limit", type=int, help="only the first N questions of each task")
    parser.add_argument("--batch-size", type=int, help="questions at a time (32)")
    parser.add_argument("--blank", action="store_true", help="show a grey picture instead of every image (the blind row)")
    parser.add_argument("--split", help="eval (seen styles, the default) or eval_held_out (the held-out style)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser
