"""Parquet files and data sets of the `datasets` library, memory-mapped, with pictures left undecoded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from omnivision.errors import DataError

HUB = "hub:"  # hub:NAME or hub:NAME:SPLIT


@lru_cache(maxsize=16)
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
    except Exception as error:  # noqa: BLE001 - pyarrow, fsspec and the hub raise a dozen kinds
        raise DataError(f"The table cannot be read: {' '.join(str(error).split())[:300]}", source, "Copy it again, or check its name.") from error
    if isinstance(table, dict):
        raise DataError(f"The data set has the splits {', '.join(table)}", source, "Name one: a split's folder, or hub:NAME:SPLIT.")
    for column, feature in table.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.Image):
            kind = datasets.Image(decode=False)
            table = table.cast_column(column, kind if feature is inner else datasets.List(kind))
    return table


def is_table_folder(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def _load(source: str, datasets):
    if source.startswith(HUB):
        name, _, split = source.removeprefix(HUB).partition(":")
        return datasets.load_dataset(name, split=split or None)
    if Path(source).is_dir():
        return datasets.load_from_disk(source)
    return datasets.Dataset.from_parquet(source)
