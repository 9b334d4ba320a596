"""Raw records of a data file, whatever its kind: JSON lines, a JSON list, Parquet, a data set, tar shards. Recognised by content.

A record that cannot be read is a DataError in its place, so that the records around it stay.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from omnivision.data.raw import MAX_LINE, Record, broken, parse
from omnivision.data.shards import read_shard
from omnivision.data.tables import HUB, is_table_folder, read_table
from omnivision.errors import DataError

MOST_TRIED = 2**31  # bytes of a file that is read whole to find out whether it is one object
BOM = b"\xef\xbb\xbf"
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "Zstandard", b"PK\x03\x04": "zip"}  # by a file's first bytes
UTF16 = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"[\0", b"\0{", b"\0[")
CSV = re.compile(rb"""["']?[\w .-]+["']?([,;\t]["']?[\w .-]+["']?)+\s*\n\s*[^\s{]""")  # names with commas between, and no record below


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
            raise OSError(0, "It is a folder that `datasets` did not save" if path.is_dir() else "It is no file" if path.exists() else "No such file or directory")
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError("The data file cannot be read", str(path), f"{error.strerror}; check the name.") from error
    if head[:4] == b"PAR1":
        return read_table(str(path))
    if head[257:262] == b"ustar":
        return read_shard(path)
    if (found := _of_another_kind(path, head)) is not None:
        raise DataError(f"The data file cannot be read: it is {found[0]}", str(path), found[1])
    start = head.removeprefix(BOM).lstrip()[:1]
    if start == b"[" or (start == b"{" and _is_one_object(path)):
        return _list(path)
    return _lines(path)


def separator_of(head: bytes) -> str | None:
    """What stands between the cells of a table of text (CSV); None for another file.

    Args:
        head: how the file begins.
    """
    table = CSV.match(head.removeprefix(BOM).lstrip())
    return table and table[1][:1].decode()


def _of_another_kind(path: Path, head: bytes) -> tuple[str, str] | None:
    """What a file that holds no records for us is, and what to do with it."""
    if head.startswith(b"PK") and (path.suffix == ".xlsx" or _holds_a_sheet(path)):
        return "an Excel table", "Save it there as CSV UTF-8; or pandas.read_excel(OLD).to_csv(NEW, index=False), which needs openpyxl."
    for start, name in PACKED.items():
        if head.startswith(start):
            return f"packed ({name})", "Unpack it and give what was in it."
    if head.startswith(UTF16):
        return "UTF-16 text, not UTF-8", "Convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW."
    if separator := separator_of(head):
        return "a table of text (CSV), not JSON", f"Convert it: datasets.Dataset.from_csv(OLD, sep={separator!r}).to_json(NEW)."
    return None


def _holds_a_sheet(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as packed:
            return "xl/workbook.xml" in packed.namelist()
    except zipfile.BadZipFile:
        return False


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            line = line.removeprefix(BOM) if number == 1 else line
            source = f"{path}:{number}"
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield broken(f"the line has more than {MAX_LINE:,} bytes", source)
            elif line.strip():
                yield _parsed(line, source)


def _parsed(line: bytes, source: str) -> Record:
    try:
        return Record(parse(line.decode("utf-8")), source)
    except UnicodeDecodeError as error:
        return broken(f"it is not UTF-8 text (byte {error.start})", source)
    except ValueError as error:
        return broken(str(error), source)


def _is_one_object(path: Path) -> bool:
    """A file that begins with { holds lines, unless its first line alone is no object and the whole is one; blank lines aside."""
    with path.open("rb") as file:
        lines = (line.removeprefix(BOM).strip() for line in iter(lambda: file.readline(MAX_LINE), b""))
        filled = filter(None, lines)
        first, more = next(filled), next(filled, b"")
    try:
        value = json.loads(first)
    except json.JSONDecodeError as error:
        goes_on = error.pos == len(error.doc) and len(first) < MAX_LINE and path.stat().st_size < MOST_TRIED  # nothing is wrong with it but its end
        return first == b"{" or (goes_on and _is_json(path.read_bytes()))
    except (ValueError, RecursionError):
        return False
    return not more and isinstance(value, dict) and len(value) > 0 and all(isinstance(one, dict) for one in value.values())


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode("utf-8-sig"))
        return True
    except (ValueError, RecursionError):
        return False


def _list(path: Path) -> Iterator[Record]:
    try:
        found = parse(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError("The data file cannot be read", str(path), f"It is not UTF-8 text (byte {error.start}).") from error
    except ValueError as error:
        raise DataError(f"The data file is no JSON: {error}", str(path), "Fix it, or write one row a line: then only broken lines are lost.") from error
    if isinstance(found, dict):  # by id, as ScienceQA and MM-Vet have it
        found = [{"id": key, **value} if isinstance(value, dict) else value for key, value in found.items()]
    return _in_turn(found, str(path))


def _in_turn(found: list, path: str) -> Iterator[Record]:
    """Each is let go once it is read, so that raw records and rows are never there both."""
    for number, raw in enumerate(found):
        found[number] = None
        yield Record(raw, f"{path}[{number}]")
