"""A raw record, and the strict JSON that records are written in."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from omnivision.errors import DataError

MAX_LINE = 16_000_000  # bytes of one JSON text; longer ones are never held in memory


class Record(NamedTuple):
    """One record, or what is wrong with it."""

    raw: Any  # None where there is an error
    source: str  # file:line, file[number] or shard::key
    error: DataError | None = None


def broken(what: str, source: str) -> Record:
    """In the place of a record that cannot be read."""
    return Record(None, source, bad_row(what, source))


def bad_row(what: object, source: str) -> DataError:
    """What is said of such a record, in letters that every file and terminal takes."""
    return DataError(f"The row cannot be read: {printable(str(what))}", source, "Fix or remove the line.")


def printable(text: str) -> str:
    """A text whose lone surrogates, of broken JSON and of names that are no UTF-8, are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def writable(text: str) -> str:
    """The same for answers: a question mark in place of half a surrogate pair, which JSON can spell and no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def parse(text: str) -> Any:
    """Strict JSON: a key given twice, NaN and numbers beyond a double are errors, where Python's default takes them.

    Raises:
        ValueError: what is wrong.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _no_number(word: str):
    raise ValueError(f"{word} is no JSON number")


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"the number {word[:20]} is beyond a double")
    return value
