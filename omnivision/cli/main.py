"""`omnivision VERB ...`: finds the verb, runs it, and ends every error in one paragraph and a documented exit code.

Nothing heavy is imported here: `omnivision --help` and `omnivision version` answer at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import traceback

from omnivision_cli import failures
from omnivision_cli.failures import Failure
from omnivision_cli.verbs import VERBS, Verb, help_text


class Terminated(SystemExit):
    """A signal that no verb has caught: one that says itself where it stopped raises a plain SystemExit."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
        argv: the arguments after the program's name; None reads sys.argv.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    argv = list(sys.argv[1:] if argv is None else argv)
    ours = argv[: argv.index("--")] if "--" in argv else argv  # what follows "--" is the launcher's
    debug, as_json = "--debug" in ours, "--json" in ours
    argv = [word for word in ours if word != "--debug"] + argv[len(ours):]
    try:
        return _finish(_dispatch(argv))
    except SystemExit as stop:
        return _stopped(stop, argv, as_json)
    except BrokenPipeError:
        # The reader of stdout left (`| head`): not an error of ours, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except BaseException as error:  # noqa: BLE001 - the one place where every error ends
        if debug:
            traceback.print_exc()
        return failures.report(failures.describe(error), as_json)


def _dispatch(argv: list[str]) -> int | None:
    if not argv:
        print(help_text(), file=sys.stderr)
        return failures.USAGE
    if argv[0] in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if argv[0] in ("version", "--version"):
        return _version("--json" in argv)
    table: dict = VERBS
    for depth, word in enumerate(argv):
        if depth and word in ("--help", "-h"):
            print(f"usage: omnivision {argv[0]} {{{','.join(table)}}} ...\n")
            print("\n".join(f"  {name}  {verb.summary}" for name, verb in table.items()))
            print(f"\nexample: omnivision {argv[0]} {next(iter(table))} --help")
            return 0
        entry = table.get(word)
        if entry is None:
            return failures.report(_unknown(argv[:depth], word, table), "--json" in argv)
        if isinstance(entry, Verb):
            return _call(entry, argv[depth + 1:])
        table = entry
    missing = Failure("UsageError", f"`omnivision {argv[0]}` needs one of: {', '.join(table)}", "", "", failures.USAGE)
    return failures.report(missing, "--json" in argv)


def _call(verb: Verb, rest: list[str]) -> int | None:
    module, function = verb.target.split(":")
    signal.signal(signal.SIGTERM, _terminated)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a terminal that is closed; nohup ignores it, Windows has none
        signal.signal(signal.SIGHUP, _terminated)
    return getattr(importlib.import_module(module), function)(rest)


def _terminated(signum: int, frame: object) -> None:
    if signum != signal.SIGTERM:
        signal.signal(signum, signal.SIG_IGN)  # a closed terminal's comes twice: from the shell and from the system
    raise Terminated(failures.TERMINATED)  # unwinds, so that locks and partial files are put away


def _finish(code: int | None) -> int:
    sys.stdout.flush()
    return int(code or 0)


def _stopped(stop: SystemExit, argv: list[str], as_json: bool) -> int:
    code = stop.code if isinstance(stop.code, int) else (0 if stop.code is None else failures.UNEXPECTED)
    if isinstance(stop.code, str):
        print(stop.code, file=sys.stderr)
    if isinstance(stop, Terminated):
        return failures.report(Failure("Terminated", "Terminated", "", failures.RESUMES, code), as_json)
    if as_json and code == failures.USAGE:  # argparse has already printed the usage on stderr
        failure = Failure("UsageError", "The command line was not understood", " ".join(["omnivision", *argv]),
                          "The usage stands on stderr; --help shows an example.", code)
        return failures.report(failure, as_json)
    return code


def _unknown(path: list[str], word: str, table: dict) -> Failure:
    near = difflib.get_close_matches(word, [*table, "version"], n=1)
    hint = f"Did you mean `{' '.join([*path, near[0]])}`? " if near else ""
    return Failure("UsageError", f"`{word}` is no verb of `{' '.join(['omnivision', *path])}`", "",
                   f"{hint}Known: {', '.join(table)}.", failures.USAGE)


def _version(as_json: bool) -> int:
    import json
    from importlib.metadata import version

    number = version("omnivision")
    print(json.dumps({"version": number}) if as_json else f"omnivision {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
