"""`omnivision call`: a request about a picture becomes calls of functions; they run only where asked and allowed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from omnivision.data.flags import output_file
from omnivision.errors import ConfigError
from omnivision_cli.failures import INTERRUPTED
from omnivision_cli.terminal import for_terminal

EXAMPLE = 'example: omnivision call --model runs/quickstart/functions/final --image photo.jpg "Throw this away."'


def main(argv: list[str]) -> int:
    """Prints one line for each call and what became of it. 1 where something is malformed or was not done."""
    options = _options(argv)

    from omnivision.acting.audit import Audit
    from omnivision.acting.executor import Executor
    from omnivision.acting.policy import Policy
    from omnivision.data.image import open_image
    from omnivision.functions import parse_calls
    from omnivision.model.checkpoints import load_checkpoint, model_folder

    folder = model_folder(options.model)  # every input is judged before anything slow begins
    picture = open_image(options.image) if options.image else None
    functions = read_functions(options.functions, folder)
    policy = Policy.read(options.policy, functions) if options.policy else None
    model, processor = load_checkpoint(folder)
    ids = call_ids(model, processor, functions, picture, options)
    calls = parse_calls(ids, processor.tokenizer, functions)
    about = {"model": options.model, "image": options.image, "request": options.request}
    audit = Audit(options.audit, about) if options.audit else None
    executor = Executor(functions, policy, execute=options.execute, ask=_ask(functions), audit=audit)
    deeds = []
    for deed in _acted(executor, calls):
        deeds.append(deed)
        if not options.json:
            print(_line(deed, functions), flush=True)  # at once: should the next one's audit fail, this one has been told
    errors = [{"kind": error.kind, "message": error.message, "span": list(error.span), "name": error.name} for error in calls.errors]
    if options.json:
        print(json.dumps({**about, "calls": [deed.to_dict() for deed in deeds], "errors": errors}, ensure_ascii=False))
    else:
        for error in errors:
            print(for_terminal(f"malformed ({error['kind']}): {error['message']}"), file=sys.stderr)
        if errors and len(ids) == options.max_new_tokens:
            print(f"The answer was cut at {len(ids)} tokens: give --max-new-tokens more.", file=sys.stderr)
    return 0 if deeds and not errors and all(deed.outcome in ("done", "dry run", "nothing to do") for deed in deeds) else 1


def _acted(executor, calls):
    """What became of each call; whoever stops us learns what has begun to run."""
    try:
        yield from executor.act_all(calls)
    except (KeyboardInterrupt, SystemExit) as stop:
        if executor.ran:
            with contextlib.suppress(OSError):  # a terminal that was closed
                print(f"omnivision: stopped, and {', '.join(executor.ran)} HAS run, the last perhaps in part; the same command would run it again. The audit says what had begun.",
                      file=sys.stderr)
        raise SystemExit(INTERRUPTED if isinstance(stop, KeyboardInterrupt) else stop.code) from stop


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="omnivision call", description="Calls of functions for a request about a picture; a dry run unless told.",
                                     epilog=EXAMPLE)
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint of the stage functions")
    parser.add_argument("--functions", metavar="FILE", help="its functions, as a JSON list of tools (default: the table beside the model)")
    parser.add_argument("--image", metavar="FILE", help="JPEG, PNG or WebP")
    parser.add_argument("--policy", metavar="FILE", help="what may run: JSON, one rule for each function; others never run")
    parser.add_argument("--execute", action="store_true", help="run what the policy allows")
    parser.add_argument("--audit", type=_audit_file, metavar="FILE", help="JSON lines of what was called and what became of it (with --execute: call-audit.jsonl)")
    parser.add_argument("--nested", action="store_true", help="an argument's value may be a call")
    parser.add_argument("--most-calls", type=int, default=8, metavar="N", help="calls in one answer (default 8): small models repeat themselves")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="longest answer (default 256)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("request")
    options = parser.parse_args(argv)
    for flag, number in (("--max-new-tokens", options.max_new_tokens), ("--most-calls", options.most_calls)):
        if number < 1:
            parser.error(f"{flag} is {number}; at least 1 is needed")
    if options.execute and not options.policy:
        parser.error("--execute needs --policy FILE: what it does not name never runs")
    check_request(parser, options.request)
    options.audit = options.audit or (_audit_file("call-audit.jsonl") if options.execute else None)
    return options


def check_request(parser: argparse.ArgumentParser, text: str, name: str = "request") -> None:
    """A usage error where nobody can see any of the text, or it is no text, before anything slow begins."""
    from omnivision.data.rows import says_something

    if any("\ud800" <= letter <= "\udfff" for letter in text):
        parser.error(f"the {name} is not UTF-8")
    if not says_something(text):
        parser.error(f"the {name} is empty")


def _audit_file(name: str) -> Path:
    """A `type` for argparse: where the audit can be written, judged before anything slow begins."""
    path = output_file(name)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError("The audit cannot be written", name, "Give a file that can be, with --audit.")
    return path


def read_functions(file: str | None, folder):
    """The function set: the file's, which must not have moved a function of the checkpoint's own."""
    from omnivision.functions import FunctionSet

    own = FunctionSet.beside(folder)
    if file is None and own is None:
        raise ConfigError("The model has no functions", str(folder), "Train the stage functions first, or give --functions FILE.")
    if file is None:
        return own
    given = FunctionSet.from_json(file)
    return given if own is None else given.keeping(own)


def call_ids(model, processor, functions, picture, options: argparse.Namespace) -> list[int]:
    """What the model answers, kept to calls."""
    from omnivision.functions.constraint import CallConstraint
    from omnivision.generation import generate_ids, stop_ids

    stops = stop_ids(model) or [processor.tokenizer.eos_token_id]
    constraint = CallConstraint(processor.tokenizer, functions, most_calls=options.most_calls, nested=options.nested, stop_token_ids=stops)
    constraint.check_all_can_be_called()
    return generate_ids(model, processor, [options.request], [picture], options.max_new_tokens, stop_token_ids=stops, constrain=constraint)[0]


def _line(deed, functions) -> str:
    from omnivision.functions.literals import literal

    reason = for_terminal(deed.reason).replace("\n", " ")
    result = f"  {literal(deed.result, 'result')}" if deed.outcome == "done" else ""
    return f"{_shown(deed.action, functions)}  [{deed.outcome}{': ' if reason else ''}{reason}]{result}"


def _shown(action, functions) -> str:
    """The call as it would be written in Python; literals escape what a terminal would act on."""
    from omnivision.functions.arguments import write_arguments

    pieces, inside = write_arguments(functions[action.name], action.arguments, action.nested)
    shown = [_shown(action.nested[name], functions) for name in inside] + [""]
    return action.name + "".join(piece + call for piece, call in zip(pieces, shown))


def _forget_typed() -> None:
    """What was typed before a question is no answer to it; nothing where the terminal is none of the system's."""
    try:
        import termios
    except ImportError:  # Windows has none
        return
    with contextlib.suppress(OSError, ValueError, termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def _ask(functions):
    """Asks the person at the terminal; None where there is none."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(action, arguments: dict) -> bool:
        from omnivision.functions import format_call

        _forget_typed()
        print(f"{action.name}{format_call(action.name, arguments, functions)}\nRun it? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return ask
