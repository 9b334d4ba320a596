"""Raw records of a data file, whatever its kind: JSON lines, a JSON list, Parquet, a data set, tar shards. Recognised by content.

A record that cannot be read is a DataError in its place, so that the records around it stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from omnivision.data.raw import MAX_LINE, Record, broken, parse
from omnivision.data.shards import read_shard
from omnivision.data.tables import HUB, is_table_folder, read_table
from omnivision.errors import DataError


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of one source, in order.

    Args:
        path: a file, a folder written by `datasets`, or hub:NAME[:SPLIT].

    Raises:
        DataError: there is no such source, or nothing of it can be read.
    """
    if str(path).startswith(HUB):
        return read_table(str(path))
    path = Path(path)
    if path.is_dir() and is_table_folder(path):
        return read_table(str(path))
    try:
        if not path.is_file():
            raise OSError(0, "It is no file" if path.exists() else "No such file or directory")
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError("The data file cannot be read", str(path), f"{error.strerror}; check `data` in the config.") from error
    if head[:4] == b"PAR1":
        return read_table(str(path))
    if head[257:262] == b"ustar":
        return read_shard(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"[" or (start == b"{" and _is_one_object(path)):
        return _list(path)
    return _lines(path)


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            source = f"{path}:{number}"
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield broken(f"the line has more than {MAX_LINE:,} bytes", source)
            elif line.strip():
                yield _parsed(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, source)


def _parsed(line: bytes, source: str) -> Record:
    try:
        return Record(parse(line.decode("utf-8")), source)
    except UnicodeDecodeError as error:
        return broken(f"it is not UTF-8 text (byte {error.start})", source)
    except ValueError as error:
        return broken(str(error), source)


def _is_one_object(path: Path) -> bool:
    """A file that begins with { holds lines, unless its first line alone is no object and the whole is one."""
    with path.open("rb") as file:
        first = file.readline(MAX_LINE)
        more = file.readline(MAX_LINE)
    try:
        value = json.loads(first)
        return not more.strip() and isinstance(value, dict) and len(value) > 0 and all(isinstance(one, dict) for one in value.values())
    except (ValueError, RecursionError):
        return first.strip() == b"{"


def _list(path: Path) -> Iterator[Record]:
    try:
        found = parse(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError("The data file cannot be read", str(path), f"It is not UTF-8 text (byte {error.start}).") from error
    except ValueError as error:
        raise DataError(f"The data file is no JSON: {error}", str(path), "Mend it, or write one row a line: then only broken lines are lost.") from error
    if isinstance(found, dict):  # by id, as ScienceQA and MM-Vet have it
        found = [{"id": key, **value} if isinstance(value, dict) else value for key, value in found.items()]
    return _in_turn(found, str(path))


def _in_turn(found: list, path: str) -> Iterator[Record]:
    """Each is let go once it is read, so that raw records and rows are never there both."""
    for number, raw in enumerate(found):
        found[number] = None
        yield Record(raw, f"{path}[{number}]")
