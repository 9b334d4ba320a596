"""Raw records of a data file, whatever its kind: JSON lines, a JSON list, Parquet, a data set, tar shards. Recognised by content.

A record that cannot be read is a DataError in its place, so that the records around it stay.
"""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omnivision.data.pictures import MAX_BYTES, TablePicture, TarPicture
from omnivision.data.tables import HUB, is_table_folder, open_table
from omnivision.errors import DataError

MAX_LINE = 16_000_000  # bytes of one JSON line; longer ones are never held in memory
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


class Record(NamedTuple):
    """One record, or what is wrong with it."""

    raw: Any  # None where there is an error
    source: str  # file:line, file[number] or shard::key
    error: DataError | None = None


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of one source, in order.

    Args:
        path: a file, a folder written by `datasets`, or hub:NAME[:SPLIT].

    Raises:
        DataError: there is no such source, or nothing of it can be read.
    """
    if str(path).startswith(HUB):
        return _table(str(path))
    path = Path(path)
    if path.is_dir() and is_table_folder(path):
        return _table(str(path))
    try:
        if not path.is_file():
            raise OSError(0, "It is no file" if path.exists() else "No such file or directory")
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError("The data file cannot be read", str(path), f"{error.strerror}; check `data` in the config.") from error
    if head[:4] == b"PAR1":
        return _table(str(path))
    if head[257:262] == b"ustar":
        return _shard(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"[" or (start == b"{" and _is_one_object(path)):
        return _list(path)
    return _lines(path)


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


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            source = f"{path}:{number}"
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield Record(None, source, _broken(f"the line has more than {MAX_LINE:,} bytes", source))
            elif line.strip():
                yield _parsed(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, source)


def _parsed(line: bytes, source: str) -> Record:
    try:
        return Record(parse(line.decode("utf-8")), source)
    except UnicodeDecodeError as error:
        return Record(None, source, _broken(f"it is not UTF-8 text (byte {error.start})", source))
    except ValueError as error:
        return Record(None, source, _broken(str(error), source))


def _broken(what: str, source: str) -> DataError:
    return DataError(f"The row cannot be read: {what}", source, "Mend or remove the line.")


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
    return (Record(raw, f"{path}[{number}]") for number, raw in enumerate(found))


def _table(source: str) -> Iterator[Record]:
    table = open_table(source)
    for number in range(len(table)):
        try:
            raw = {name: _cell(value, source, number, name) for name, value in table[number].items() if value is not None}
        except Exception as error:  # noqa: BLE001 - a broken page of a column
            yield Record(None, f"{source}[{number}]", _broken(" ".join(str(error).split())[:200], f"{source}[{number}]"))
        else:
            yield Record(raw, f"{source}[{number}]")


def _cell(value: Any, source: str, row: int, column: str) -> Any:
    """The cell with pictures named, not held; missing keys of nested records, which Arrow fills with null, taken out."""
    if isinstance(value, list):
        return [_picture(one, TablePicture(source, row, column, at)) for at, one in enumerate(value)]
    return _picture(value, TablePicture(source, row, column, 0))


def _picture(value: Any, place: TablePicture) -> Any:
    if isinstance(value, bytes):
        return place
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return place if value["bytes"] else value["path"]
    return _without_null(value)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    return [_without_null(one) for one in value] if isinstance(value, list) else value


def _shard(path: Path) -> Iterator[Record]:
    """webdataset's layout: members that share a name up to the first dot are one record."""
    gathered: _Gathered | None = None
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isdir():
                    continue
                name, _, suffix = Path(member.name).name.partition(".")
                key = str(Path(member.name).parent / name)
                if gathered is not None and gathered.key != key:
                    yield gathered.record(path)
                    gathered = None
                gathered = gathered or _Gathered(key)
                gathered.add(shard, member, f".{suffix.lower()}", path)
            _check_end(path, shard.offset)
    except (tarfile.TarError, EOFError, OSError) as broken:
        raise DataError(f"The shard is broken: {broken}", f"{path}::{gathered.key if gathered else ''}", "Copy the shard again.") from broken
    if gathered is not None:
        yield gathered.record(path)


def _check_end(path: Path, offset: int) -> None:
    """tarfile takes a damaged header for the end, and what follows would be lost in silence."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(512)
        if len(rest) < 512 or any(rest) or any(any(block) for block in iter(lambda: file.read(1 << 20), b"")):
            raise tarfile.ReadError("it has no end mark, or goes on behind it")


class _Gathered:
    """The members of one key."""

    def __init__(self, key: str) -> None:
        self.key, self.raw, self.pictures, self.error = key, {}, [], None

    def record(self, path: Path) -> Record:
        """What they are together: pictures of the shard stand for the names in its JSON."""
        source = f"{path}::{self.key}"
        if self.error:
            return Record(None, source, self.error)
        raw = {"id": self.key, **self.raw}
        if self.pictures:
            raw = {name: value for name, value in raw.items() if name not in ("image", "images")} | {"images": self.pictures}
        return Record(raw, source)

    def add(self, shard: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, path: Path) -> None:
        """Takes a member in, or keeps what is wrong with it."""
        source, most = f"{path}::{member.name}", MAX_LINE if suffix in (".json", ".txt") else MAX_BYTES
        if not member.isfile():
            self.error = _broken("the member is a link or a device", source)
        elif member.size > most:
            self.error = _broken(f"the member has {member.size:,} bytes; at most {most:,}", source)
        elif suffix.endswith(PICTURES):
            self.pictures.append(TarPicture(str(path), member.name, member.offset_data, member.size))
        elif suffix in (".json", ".txt"):  # webdataset keeps anything beside: classes, embeddings
            self._add_text(shard.extractfile(member).read(), suffix, source)

    def _add_text(self, data: bytes, suffix: str, source: str) -> None:
        try:
            value = parse(data.decode("utf-8")) if suffix == ".json" else {"caption": data.decode("utf-8").strip()}
        except ValueError as error:
            self.error = _broken(str(error), source)
            return
        if isinstance(value, dict):
            self.raw.update(value)
        else:
            self.error = _broken("the member is no JSON object", source)
