"""`omnivision eval`: benchmarks on a model, or on saved answers."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from omnivision.data.raw import parse
from omnivision.endpoint.flags import is_address
from omnivision.errors import ConfigError, DataError

from . import action_table
from .benchmarks import GROUPS, MODULES
from .judge import add_judge_arguments, check_judge
from .task_data import PICTURES

EXAMPLE = """examples:
  omnivision eval pope chartqa --model runs/NAME/sft/final --data world --out runs/NAME/sft/eval
  omnivision eval pope --model HuggingFaceTB/SmolVLM-500M-Instruct --data pope --out eval/smolvlm
  omnivision eval pope --model http://127.0.0.1:8080/v1 --model-name omnivision --export phone --data pope --out eval/gguf
  omnivision eval actions --model runs/NAME/functions/final --data world --counterfactuals --out runs/NAME/functions/eval
  omnivision eval mmvet --predictions answers.json --data mm-vet --grades grades.json"""
WIDTH, WIDEST = 140, 100_000  # of what is no terminal: at least, and at most
HEADLINES = ("f1", "relaxed_accuracy", "judged", "accuracy", "right", "missing", "valid_rate")  # in the table already
DTYPES = ("float32", "bfloat16", "float16", "int8")
FOR_AN_ENDPOINT = ("model_name", "export", "key_variable", "concurrency", "timeout", "request_fields")
FOR_OPEN_WEIGHTS = ("batch_size", "processes", "dtype", "constrain")
FOR_A_MODEL = ("limit", "blank", "split", "pictures", "counterfactuals", *FOR_OPEN_WEIGHTS, *FOR_AN_ENDPOINT)


def main(argv: list[str]) -> int | None:
    """Evaluates and prints tables on stderr, with --json one object on stdout; 3 where a headline is refused."""
    options = _parser().parse_args(argv)
    if (options.model is None) == (options.predictions is None):
        raise ConfigError("One of --model and --predictions is needed, not both", "omnivision eval", "Name a checkpoint or a file of saved answers.")
    if options.judge:
        if "mmvet" not in options.tasks:
            raise ConfigError("A judge grades mmvet only", "--judge", "Add the task mmvet, or leave it out.")
        if is_address(options.judge) and options.out is None:
            raise ConfigError("The judge's ledger needs a folder: what is paid is kept", "--judge", "Add --out DIR.")
        check_judge(options)
    found = _saved(options) if options.predictions else _answered(options)
    if options.json:
        print(json.dumps({"tasks": found, "scores": {task: one["score"] for task, one in found.items()}}, ensure_ascii=False))
    title = f"{options.predictions}, saved answers" if options.predictions else ", ".join(filter(None, [options.model, options.split]))
    show(found, title + (", blind" if options.blank else ""))
    return _tell_missing(found)


def _answered(options: argparse.Namespace) -> dict[str, dict]:
    from .run import Settings, evaluate

    if options.grades:
        raise ConfigError("Grades belong to saved answers", "--grades", "Give --predictions instead of --model.")
    served = is_address(options.model)
    _refuse(options, FOR_OPEN_WEIGHTS if served else FOR_AN_ENDPOINT, "a model that is opened here" if served else "a model behind an endpoint")
    for flag in ("limit", "batch_size", "processes"):
        if getattr(options, flag) is not None and getattr(options, flag) < 1:
            raise ConfigError(f"--{flag.replace('_', '-')} is {getattr(options, flag)}", f"--{flag.replace('_', '-')}", "Give 1 or more.")
    settings = Settings(options.limit, options.batch_size or 32, options.split, options.pictures or "first", options.processes or 1,
                        options.counterfactuals)
    with contextlib.redirect_stdout(sys.stderr), _counter() as count:  # libraries' logs: stdout is for the result
        return evaluate(_model(options), options.data, options.tasks, options.out, settings, options, count)


def _model(options: argparse.Namespace) -> Any:
    """What `--model` names: an address, a checkpoint of ours, or any model that takes pictures."""
    from .models import source_of

    if not is_address(options.model):
        return source_of(options.model, options.blank, options.dtype, constrain=options.constrain)
    from omnivision.endpoint import Endpoint

    from .served import Served, picture_settings

    if not options.model_name or options.out is None:
        raise ConfigError("An endpoint needs the model's name and a folder for its ledger", f"--model {options.model}", "Add --model-name NAME and --out DIR.")
    given = {name: getattr(options, name) for name in ("concurrency", "timeout") if getattr(options, name) is not None}
    fields = _fields(options.request_fields) if options.request_fields else {}
    endpoint = Endpoint(options.model, options.model_name, key_variable=options.key_variable, extra=fields, **{"timeout": 120.0, **given})
    return Served(endpoint, options.out / "answers", options.blank, picture_settings(options.export) if options.export else None)


def _fields(text: str) -> dict[str, Any]:
    """What `--request-fields` says."""
    try:
        found = parse(text)
        if not isinstance(found, dict):
            raise ValueError(f"it is {text[:60]}")
    except ValueError as error:
        raise ConfigError(f"The fields are no JSON object: {error}", "--request-fields", """Give one such as '{"max_tokens": 2048}'.""") from error
    return found


@contextlib.contextmanager
def _counter():
    """A bar of answers on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("answers", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _saved(options: argparse.Namespace) -> dict[str, dict]:
    from .saved import score_saved

    _refuse(options, FOR_A_MODEL, "a model that answers")
    return score_saved(options.tasks, options.predictions, options.data, options.grades, options.out, options)


def _refuse(options: argparse.Namespace, flags: tuple[str, ...], whose: str) -> None:
    """Flags that would do nothing."""
    for flag in flags:
        if getattr(options, flag) not in (None, False):
            raise ConfigError(f"--{flag.replace('_', '-')} is for {whose}", "omnivision eval", "Leave it out.")


def _tell_missing(found: dict[str, dict]) -> int:
    """Says on stderr what is missing; 3 where that refuses a headline."""
    code = 0
    for task, one in found.items():
        if one["missing"]:
            said = "above 1 %, so there is no score" if one["score"] is None else "left out of the score"
            print(f"omnivision: {task}: {one['missing']} of {one['n']} answers or grades are missing, {said}.", file=sys.stderr)
        code = DataError.exit_code if one["score"] is None else code
    return code


def show(found: dict[str, dict], title: str) -> None:
    """The table on stderr."""
    from rich.table import Table

    console, table = screen(), Table(title=title)
    for name in ("task", "variant", "n", "score", "stderr", "valid %"):
        table.add_column(name, justify="left" if name in ("task", "variant") else "right", no_wrap=True)
    for task, one in found.items():
        for variant, part in {one["variant"]: one, **one["variants"]}.items():
            table.add_row(task, variant, str(part["n"]), *[figure(part[key]) for key in ("score", "stderr", "valid_rate")])
    console.print(table)
    for task, one in found.items():
        if "table" in one:
            if one["task"] == task:  # a condition's figures stand in the table of its task
                action_table.show(console, task, one)
            continue
        others = {k: v for k, v in one["metrics"].items() if k not in HEADLINES} | {k: one[k] for k in ("oos_auroc",) if k in one}
        if others:
            console.print(f"{task}: " + ", ".join(f"{k} {figure(v)}" for k, v in others.items()), highlight=False)
        if "notes" in one:  # the real benchmarks: how the parts fare, and what was read
            _show_parts(console, task, one)


def screen():
    """A console on stderr; a file or a pipe has no width, and 80 columns would break cells."""
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal else Console(stderr=True, width=WIDTH)


def show_whole(console, *tables) -> None:
    """Prints the first of these tables that fits, else the last with its cells broken; a file or a pipe is made wide enough for the first."""
    from rich.measure import Measurement

    widths = [Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum for table in tables]
    if not console.is_terminal:
        console.width = max(console.width, widths[0])
    at = next((at for at, width in enumerate(widths) if width <= console.width), -1)
    if at < 0:
        for column in tables[-1].columns:
            column.no_wrap, column.overflow = False, "fold"
    console.print(tables[at])


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
    parser.add_argument("tasks", nargs="+", metavar="TASK", help=", ".join([*GROUPS, *MODULES]))
    parser.add_argument("--model", metavar="M", help="a checkpoint folder, an ONNX export, a hub id of any model that takes pictures, or the address of an endpoint")
    parser.add_argument("--predictions", type=Path, help="saved answers: a file, or a folder of one a split or subject")
    parser.add_argument("--grades", type=Path, help="MM-Vet's official grades file, for saved answers")
    parser.add_argument("--data", required=True, type=Path, help="the benchmark's folder as published, or a data set; the embedded world's folder; of actions also a file of rows")
    parser.add_argument("--out", type=Path, help="folder for <task>/results.json and what a killed run resumes from")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each task")
    parser.add_argument("--batch-size", type=int, metavar="N", help="questions at a time (32)")
    parser.add_argument("--processes", type=int, metavar="N", help="that share the questions, one a GPU (1)")
    parser.add_argument("--dtype", choices=DTYPES, help="what the model computes in (as saved; float32 on a CPU); of an ONNX export what it is stored in")
    parser.add_argument("--pictures", choices=PICTURES, help="of MMMU's questions with several (first)")
    parser.add_argument("--blank", action="store_true", help="show a grey picture instead of every image (the blind row)")
    parser.add_argument("--constrain", action="store_true", help="hold the answers of actions and clinc150 to the grammar of the functions")
    parser.add_argument("--counterfactuals", action="store_true", help="ask actions again about a grey picture, and about another request's")
    parser.add_argument("--split", help="of the embedded world: eval (seen styles, the default) or eval_held_out (the held-out style)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    endpoint = parser.add_argument_group("a model behind an endpoint")
    endpoint.add_argument("--model-name", metavar="NAME", help="the name that the server knows it by")
    endpoint.add_argument("--export", type=Path, metavar="DIR", help="the GGUF export that it runs: pictures are sent as it wants them")
    endpoint.add_argument("--key-variable", metavar="NAME", help="environment variable with the key")
    endpoint.add_argument("--concurrency", type=int, metavar="N", help="requests at once (4)")
    endpoint.add_argument("--timeout", type=float, metavar="S", help="of one request (120)")
    endpoint.add_argument("--request-fields", metavar="JSON", help="an object that each request holds as well, such as {\"max_tokens\": 2048}; null takes a field out")
    add_judge_arguments(parser)
    return parser
