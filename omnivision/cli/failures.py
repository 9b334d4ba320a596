"""Turns whatever a verb raised into an exit code and one paragraph: what, where, what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

from omnivision_cli.terminal import for_terminal

UNEXPECTED, USAGE, OUT_OF_MEMORY, RESUMABLE, INTERRUPTED, TERMINATED = 1, 2, 4, 6, 130, 143
RESUMES = "A run that has a folder resumes from its last checkpoint; an export starts anew."
NO_MEMORY_TEXT = ("can't allocate memory", "CUDA out of memory", "Cannot allocate memory")


class Failure(NamedTuple):
    """What the user is told; `where` and `remedy` may be empty."""

    kind: str
    what: str
    where: str
    remedy: str
    exit_code: int

    def paragraph(self) -> str:
        """The whole message on one line."""
        place = f" ({self.where})" if self.where else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.what.rstrip('.')}{place}.{remedy}"


def describe(error: BaseException) -> Failure:
    """The failure that an exception stands for, looking through the errors that caused it."""
    for one in _chain(error):
        failure = _known(one)
        if failure is not None:
            return failure
    name = type(error).__name__
    text = " ".join(str(error).split()) or "no message"
    return Failure(name, f"{name}: {text[:600]}", "", "Run the same command with --debug for the traceback.", UNEXPECTED)


def report(failure: Failure, as_json: bool) -> int:
    """Prints the failure (stderr; with `as_json` also one object on stdout) and returns its exit code."""
    print(f"omnivision: {for_terminal(failure.paragraph())}", file=sys.stderr)
    if as_json:
        body = {"type": failure.kind, "what": failure.what, "where": failure.where,
                "remedy": failure.remedy, "exit_code": failure.exit_code}
        print(json.dumps({"error": body}, ensure_ascii=False))
    return failure.exit_code


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _known(error: BaseException) -> Failure | None:
    from omnivision.errors import OmniError, says_disk_full

    kind, text = type(error).__name__, str(error)
    if isinstance(error, OmniError):
        return Failure(kind, error.what, error.where, error.remedy, error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure(kind, "Interrupted", "", RESUMES, INTERRUPTED)
    if says_disk_full(error):
        where = str(getattr(error, "filename", None) or "")
        return Failure(kind, "The disk is full", where,
                       "Free some space (df -h shows where) or choose another --out, then run the same command again.", RESUMABLE)
    if isinstance(error, PermissionError) and error.filename:
        return Failure(kind, "Access is denied", str(error.filename), "Run the command as its owner, or change the rights of the file or folder.", USAGE)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or any(mark in text for mark in NO_MEMORY_TEXT):
        return Failure(kind, f"Out of memory: {' '.join(text.split())[:300] or 'the system refused an allocation'}", "",
                       "Use a smaller batch, a smaller preset or more accumulation; `omnivision plan` shows what a stage needs.", OUT_OF_MEMORY)
    return None
