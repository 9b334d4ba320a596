"""`scripts/compare_calls.py`: functional tokens beside descriptions in the prompt, on one model, machine and set of questions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivision.data.flags import within
from omnivision.errors import ConfigError
from omnivision.runs import HAND_OVER, RunLock, environment, file_hash, read_json, write_json, write_text

from . import material, plot, retrieval, summary, table, training
from .arms import ARMS, open_retrievers
from .measure import measure, peak_memory

EXAMPLE = "example: python scripts/compare_calls.py --start runs/quickstart/sft/final --out runs/calls"


@dataclass(frozen=True)
class Plan:
    """What a comparison does."""

    start: str
    out: Path
    sizes: tuple[int, ...] = (20, 100, 500, 1000)
    rows: int = 8000  # that train, whatever the size
    each: bool = False  # whether descriptions are trained at every size; else once, on the largest
    questions: int = 150
    k: int = 5
    seed: int = 7
    overrides: tuple[str, ...] = ()  # key=value for the stage `functions`
    files: material.Files | None = None


QUICK = {"sizes": (4, 6), "rows": 16, "questions": 6, "overrides": ("max_steps=2",)}


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="compare_calls", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--start", required=True, metavar="DIR", help="final/ of `sft`, from which every arm is trained")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run; what is finished there is kept")
    parser.add_argument("--sizes", type=_numbers, metavar="N,N,…", help="numbers of functions (default 20,100,500,1000)")
    parser.add_argument("--rows", type=within("--rows", int, 1), metavar="N", help="that train every checkpoint (default 8000)")
    parser.add_argument("--each", action="store_true", help="train the arms with descriptions at every size, not once on the largest")
    parser.add_argument("--questions", type=within("--questions", int, 1), metavar="N", help="a size (default 150)")
    parser.add_argument("--k", type=within("--k", int, 1), metavar="N", help="descriptions that are retrieved (default 5)")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--functions", type=Path, metavar="FILE", help="a function table, instead of the made catalogue; with --train and --eval")
    parser.add_argument("--train", type=Path, metavar="FILE", help="rows with request and one call")
    parser.add_argument("--eval", type=Path, metavar="FILE", help="rows of the same kind that are asked")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes and two steps, to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for the stage `functions`, all arms alike")
    options = parser.parse_intermixed_args(argv)
    result = compare(_plan(options))
    print(json.dumps(result) if options.json else table.table(result))


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(one) for one in words.split(","))


def _plan(options: argparse.Namespace) -> Plan:
    given = {key: getattr(options, key) for key in ("sizes", "rows", "questions", "k", "seed") if getattr(options, key) is not None}
    quick = QUICK if options.quick else {}
    given["overrides"] = (*quick.get("overrides", ()), *options.overrides)
    named = (options.functions, options.train, options.eval)
    if any(named) and not all(named):
        raise ConfigError("--functions, --train and --eval go together", "command line", "Give all three, or none for the made catalogue.")
    files = material.Files(*named) if all(named) else None
    return Plan(options.start, options.out, each=options.each, files=files, **{**quick, **given})


def compare(plan: Plan, run: training.Run = training.command, memory: Callable[..., float] = peak_memory) -> dict[str, Any]:
    """Trains, asks and sums up; writes results.json, table.md and plot.svg into the folder.

    Args:
        run: does a command of training. memory: measures what an arm holds.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    with RunLock(plan.out):
        _same_plan(plan)
        sizes = {}
        for size in plan.sizes:
            sizes[str(size)] = _one_size(plan, size, run, memory)
            result = {"start": plan.start, "k": plan.k, "rows": plan.rows, "each": plan.each, "environment": environment(), "sizes": sizes}
            write_json(plan.out / "results.json", result)
            write_text(plan.out / "table.md", table.table(result) + "\n")
            write_text(plan.out / "plot.svg", plot.draw(result))
    return result


def _same_plan(plan: Plan) -> None:
    """A folder belongs to one comparison; only its sizes and questions may change.

    Raises:
        ConfigError: it began with another start, seed, k, rows, settings or files.
    """
    note = plan.out / "plan.json"
    files = [file_hash(one) for one in (plan.files.functions, plan.files.train, plan.files.questions)] if plan.files else None
    own = {"start": file_hash(Path(plan.start) / HAND_OVER), "rows": plan.rows, "largest": None if plan.each else max(plan.sizes), "seed": plan.seed,
           "k": plan.k, "overrides": list(plan.overrides), "files": files}
    if note.is_file() and (began := read_json(note)) != own:
        changed = ", ".join(key for key in own if began.get(key) != own[key])
        raise ConfigError(f"The folder holds a comparison with another {changed}", str(note), "Give another --out.")
    write_json(note, own)


def _material(plan: Plan, size: int) -> material.Material:
    sizes = (size, plan.rows, plan.questions, plan.seed)
    return material.made(*sizes) if plan.files is None else material.read(plan.files, *sizes)


def _one_size(plan: Plan, size: int, run: training.Run, memory: Callable[..., float]) -> dict[str, Any]:
    folder = plan.out / f"{size}-functions"
    done = folder / f"{plan.questions}-questions.json"
    if done.is_file():
        return read_json(done)
    given, largest = _material(plan, size), size if plan.each else max(plan.sizes)
    checkpoints, trained = {}, {}
    for kind in training.FORMATS:
        its = size if kind == training.FORMATS[0] else largest
        print(f"{size} functions: trains {kind}", file=sys.stderr)
        checkpoints[kind] = training.train(plan.out / f"{its}-functions", plan.start, given if its == size else _material(plan, its), kind, plan.k,
                                           plan.seed, plan.overrides, run)
        trained[kind] = {"functions": its, **training.facts(checkpoints[kind])}
    print(f"{size} functions: asks {len(given.questions)} questions", file=sys.stderr)
    arms = summary.summary(measure(folder, checkpoints, given, plan.k))
    for name, retriever in open_retrievers(ARMS, given).items():
        arms[name]["recall"] = retrieval.recall(retriever, given.questions, plan.k)
    for name in ARMS:
        arms[name]["peak_gib"] = memory(checkpoints, given, plan.k, name)
    found = {"trained": trained, "questions": len(given.questions), "arms": arms}
    write_json(done, found)
    return found
