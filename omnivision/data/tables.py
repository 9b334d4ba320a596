"""Parquet files and data sets of the `datasets` library, memory-mapped: records without the bytes of their pictures, and these one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from omnivision.data.pictures import TablePicture
from omnivision.data.raw import Record, broken
from omnivision.errors import DataError, one_line

HUB = "hub:"  # hub:NAME or hub:NAME:SPLIT
AT_ONCE = 1000  # rows


@lru_cache(maxsize=None)  # a run has as many as it has files, and reads them in any order
def open_table(source: str):
    """A `datasets.Dataset`; picture columns give {"bytes", "path"}.

    Args:
        source: a Parquet file, a folder written by save_to_disk, or hub:NAME[:SPLIT].

    Raises:
        DataError: it cannot be read, or the folder holds several splits.
    """
    import datasets

    try:
        table = _load(source, datasets)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - pyarrow, fsspec and the hub raise a dozen kinds
        if isinstance(error, datasets.exceptions.DatasetGenerationError):  # says only that there was an error
            error = error.__cause__ or error
        raise DataError(f"The table cannot be read: {one_line(error)}", source, "Copy it again, or check its name.") from error
    if isinstance(table, dict):
        raise DataError(f"The data set has the splits {', '.join(table)}", source, "Name one: a split's folder, or hub:NAME:SPLIT.")
    for column, feature in table.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.Image):
            kind = datasets.Image(decode=False)
            table = table.cast_column(column, kind if feature is inner else datasets.List(kind))
    return table


def read_table(source: str) -> Iterator[Record]:
    """The records of a table; pictures are TablePictures or, where the table has no bytes of them, paths."""
    rows = _columns(source)
    for start in range(0, len(rows), AT_ONCE):
        yield from _records(rows, source, start, min(start + AT_ONCE, len(rows)))


def picture_bytes(place: TablePicture) -> bytes:
    """The bytes of one picture; no other cell of its row is read.

    Raises:
        DataError: there are none.
    """
    import pyarrow as pa

    cell = _columns(place.file)[place.row : place.row + 1].column(place.column)[0]
    cell = cell.values[place.position] if isinstance(cell, pa.ListScalar) else cell
    found = (cell["bytes"] if isinstance(cell, pa.StructScalar) else cell).as_py()
    if not isinstance(found, bytes):
        raise DataError("The cell holds no picture", str(place), "Store pictures as bytes, or paths below the image root.")
    return found


@lru_cache(maxsize=None)
def _columns(source: str):
    """The same table; slices of it are Arrow's, which copy nothing."""
    return open_table(source).with_format("arrow")


def _records(rows, source: str, start: int, stop: int) -> Iterator[Record]:
    try:
        part = rows[start:stop]
        columns = {name: _cells(part[name], source, start, name) for name in part.column_names}
        for name, feature in rows.features.items():
            columns[name] = [_labelled(cell, feature) for cell in columns[name]] if _holds_labels(feature) else columns[name]
    except Exception as error:  # noqa: BLE001 - a text that is no UTF-8, a broken page
        if stop - start > 1:
            for number in range(start, stop):
                yield from _records(rows, source, number, number + 1)
        else:
            yield broken(one_line(error), f"{source}[{start}]")
        return
    for at in range(stop - start):
        yield Record({name: cells[at] for name, cells in columns.items() if cells[at] is not None}, f"{source}[{start + at}]")


def _cells(column, source: str, start: int, name: str) -> list:
    """A column's cells with pictures named, not held; missing keys of nested records, which Arrow fills with null, taken out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if _holds_pictures(column.type):
        return [TablePicture(source, start + at, name, 0) if one is True else one for at, one in enumerate(_pictures(column))]
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    if not is_list or not _holds_pictures(column.type.value_type):
        return [_without_null(value) for value in column.to_pylist()]
    flat = iter(_pictures(pc.list_flatten(column)))
    counts = pc.list_value_length(column).to_pylist()
    return [None if count is None else [TablePicture(source, start + at, name, place) if one is True else one for place, one in zip(range(count), flat)]
            for at, count in enumerate(counts)]


def _holds_pictures(kind) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {field.name for field in kind} == {"bytes", "path"}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _pictures(column) -> list[bool | str | None]:
    """Of each picture True where its bytes are there, else its path."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type):
        return [one or None for one in pc.is_valid(column).to_pylist()]
    held = pc.greater(pc.binary_length(pc.struct_field(column, "bytes")), 0).to_pylist()  # reads lengths, no bytes
    return [held_one or path for held_one, path in zip(held, pc.struct_field(column, "path").to_pylist(), strict=True)]


def _holds_labels(feature: Any) -> bool:
    inner = feature.values() if isinstance(feature, dict) else [feature.feature] if hasattr(feature, "feature") else []
    return hasattr(feature, "names") or any(map(_holds_labels, inner))


def _labelled(value: Any, feature: Any) -> Any:
    """The value with the names of its classes in place of their numbers; None for -1, which is no class."""
    if isinstance(value, int) and hasattr(feature, "names"):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(value, list) and hasattr(feature, "feature"):
        return [_labelled(one, feature.feature) for one in value]
    return {key: _labelled(one, feature[key]) for key, one in value.items()} if isinstance(value, dict) and isinstance(feature, dict) else value


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    return [_without_null(one) for one in value] if isinstance(value, list) else value


def is_table_folder(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def _load(source: str, datasets):
    if source.startswith(HUB):
        name, _, split = source.removeprefix(HUB).partition(":")
        return datasets.load_dataset(name, split=split or None)
    if Path(source).is_dir():
        return datasets.load_from_disk(source)
    _check_parquet(source)
    found = os.stat(source)  # `datasets` knows its copy of a table by path and time of change, which tar and package managers set back; the inode's cannot be
    state = hashlib.sha256(repr((found.st_ctime_ns, found.st_size, found.st_ino)).encode()).hexdigest()[:16]
    return datasets.Dataset.from_parquet(source, cache_dir=f"{datasets.config.HF_DATASETS_CACHE}/omnivision-{state}")


def _check_parquet(source: str) -> None:
    import pyarrow.parquet as pq

    found = pq.read_metadata(source)
    names = found.schema.to_arrow_schema().names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"The table has several columns of the name {', '.join(twice)}", source, "Rename or drop all but one of each.")
    if not found.num_rows:
        raise DataError("The data file holds no rows", source, "Give a table with rows.")
