"""Questions of the real benchmarks: what every loader returns, and how their published files are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from omnivision.data.records import parse, read_records
from omnivision.data.sources import source_hash
from omnivision.data.tables import HUB, is_table_folder
from omnivision.errors import DataError

_PART = re.compile(r"-of-(\d+)(?:-[0-9a-f]+)?$")  # of a table of several files; older ones of the hub end in a hash


class Questions(NamedTuple):
    """The questions of one task, in the order of the published file.

    Attributes:
        rows: one a question, with `question_id`, `image`, `text` and `label`, with `unit` where the standard error is not
            over images, and with the keys of its tables; `alias` is a second id, `question` the bare question; what is shown is
            `image_file` (or None), or `pictures` where it can be several or lies in a table.
        files: what was read, for `data_hash`.
        beside: ids of questions that a predictions file may hold as well -> the split they belong to.
        notes: what must be said beside the score.
    """

    rows: list[dict]
    files: list[Path | str]
    beside: dict[str, str] = {}
    notes: dict[str, Any] = {}


def first_file(folder: Path, names: Iterable[str], what: str, source: str) -> Path:
    """The first of several names that is there.

    Args:
        folder: where to look.
        names: paths below it, in order of preference.
        what: what the file holds, for the message.
        source: where it is published.

    Raises:
        DataError: there is none; which file to put where.
    """
    names = list(names)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise DataError(f"{what} are missing", str(folder), f"Put {' or '.join(names)} there, from {source}.")
    return found


def read_json(path: Path) -> Any:
    """A whole JSON file, read strictly.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is no JSON (a key given twice, for example).
    """
    try:
        return parse(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError("The file cannot be read", str(path), f"{error.strerror}.") from error
    except ValueError as error:  # UnicodeDecodeError too
        raise DataError(f"The file is no JSON: {error}", str(path), "Copy it again.") from error


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        DataError: as `read_json`, or it holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise DataError(f"The file holds no {what} by id", str(path), "Copy it again.")
    return found


def read_rows(path: Path | str, needed: Iterable[str], renamed: Callable[[dict], dict] = dict) -> list[dict]:
    """The rows of a JSON-lines file, a JSON list, a Parquet file or a data set, each with the keys it needs.

    Args:
        needed: keys. renamed: a row of another layout with these keys.

    Raises:
        DataError: broken rows, counted, the first one named; or columns that no row has.
    """
    rows, broken, lacking, needed = [], [], [], set(needed)
    for record in read_records(path):
        row = renamed(record.raw) if isinstance(record.raw, dict) else {}
        if record.error is not None:
            broken.append(f"{record.source}: {record.error.what}")
        elif lacks := sorted(needed - row.keys()):
            broken.append(f"{record.source} lacks {', '.join(lacks)}")
            lacking.append((lacks, record.raw))
        else:
            rows.append(row)
    if lacking and not rows and all(lacks == lacking[0][0] for lacks, _ in lacking):
        lacks, there = lacking[0]
        has = ", ".join(map(str, there)) if isinstance(there, dict) else type(there).__name__
        raise DataError(f"The questions have no {', '.join(lacks)}; they have {has}", str(path), "This is another layout: give the published files, or rename the columns.")
    if broken or not rows:
        what = f"{len(broken)} rows of the questions are broken" if broken else "There is no question"
        raise DataError(what, broken[0] if broken else str(path), "Copy the file again.")
    return rows


def no_id_twice(rows: list[dict], path: Path | str) -> None:
    """Checks that ids tell questions apart.

    Raises:
        DataError: an id stands twice.
    """
    ids = [row["question_id"] for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(one for at, one in enumerate(ids) if one in ids[:at])
        raise DataError(f"The question id {twice!r} stands twice", str(path), "Copy the file again.")


def image_file(folder: Path, places: Iterable[str], name: str) -> str:
    """Where a picture lies: below the first of these folders that holds it; where none does, the place it belongs.

    Raises:
        DataError: a name that leads out of the folder.
    """
    places = list(places)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"The picture's name {name!r} leads out of the folder", str(folder), "Copy the questions again.")
    place = next((place for place in places if (folder / place / name).is_file()), places[0])
    return str(folder / place / name)


def test_tables(folder: Path) -> list[str]:
    """Those of the split `test`, in the folder itself or else in data/."""
    return tables(folder, "test-*.parquet") or tables(folder, "data/test-*.parquet")


def tables(folder: Path, *patterns: str) -> list[str]:
    """The Parquet files of a benchmark, or the `datasets` source itself.

    Args:
        folder: local, written by `datasets`, or hub:NAME[:SPLIT].
        patterns: of the files, below the folder.

    Raises:
        DataError: a part of a table's files is missing.
    """
    if str(folder).startswith(HUB) or is_table_folder(folder):
        return [str(folder)]
    found = [sorted(folder.glob(pattern)) for pattern in patterns]
    for files in found:
        wanted = {int(part[1]) for one in files if (part := _PART.search(one.stem))}
        if wanted and wanted != {len(files)}:
            raise DataError(f"{len(files)} of {max(wanted)} files of a table are there", str(files[0].parent), "Copy all of them.")
    return [str(path) for files in found for path in files]


def hashes(files: Iterable[Path | str]) -> dict[str, str]:
    """Name of a file or data set, with its folder where two have one name -> its hash."""
    paths = [Path(source) for source in files]
    alike = len({path.name for path in paths}) < len(paths)
    return {f"{path.parent.name}/{path.name}" if alike else path.name: source_hash(str(path)) for path in paths}
