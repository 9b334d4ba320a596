"""`omnivision eval`: benchmarks on a model."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from .benchmarks import GROUPS, MODULES

EXAMPLE = "example: omnivision eval pope chartqa --model runs/NAME/sft/final --data world --out runs/NAME/sft/eval"
HEADLINES = ("f1", "relaxed_accuracy", "judged", "right", "valid_rate")  # in the table already


def main(argv: list[str]) -> int | None:
    """Evaluates and prints a table on stderr, or with --json one object on stdout."""
    options = _parser().parse_args(argv)
    from omnivision.errors import ConfigError

    from .run import evaluate

    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit} leaves no question", "--limit", "Give 1 or more.")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size is {options.batch_size}", "--batch-size", "Give 1 or more.")
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed's logger, which lm-eval's imports start, writes to stdout
        found = evaluate(options.model, options.data, options.tasks, options.out, limit=options.limit,
                         batch_size=options.batch_size, blank=options.blank, split=options.split)
    if options.json:
        print(json.dumps({"tasks": found, "scores": {task: one["score"] for task, one in found.items()}}, ensure_ascii=False))
    show(found, f"{options.model}, {options.split}" + (", blind" if options.blank else ""))
    return 0


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


def figure(value: float | None) -> str:
    """One decimal, or a dash."""
    return "–" if value is None else f"{value:.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="omnivision eval", description="Run benchmarks on a model.", epilog=EXAMPLE)
    parser.add_argument("tasks", nargs="+", metavar="TASK", help=f"one of {', '.join([*GROUPS, *MODULES])}")
    parser.add_argument("--model", required=True, type=Path, help="a checkpoint folder")
    parser.add_argument("--data", required=True, type=Path, help="the embedded world's folder")
    parser.add_argument("--out", type=Path, help="folder for <task>/samples.jsonl and results.json")
    parser.add_argument("--limit", type=int, help="only the first N questions of each task")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--blank", action="store_true", help="show a grey picture instead of every image (the blind row)")
    parser.add_argument("--split", default="eval", help="eval (seen styles) or eval_held_out (the held-out style)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser
