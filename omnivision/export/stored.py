"""The tensors of a checkpoint on disk, read one at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from omnivision.errors import ConfigError, DataError, one_line

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"


class StoredTensors:
    """Names, shapes and values of a folder's safetensors.

    Every read opens the file anew: a mapping that stays open counts every page it ever touched, and a whole checkpoint
    would stand in memory in the end.

    Raises:
        ConfigError: no weights. DataError: weights that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}  # as safetensors calls them
        self._files: dict[str, Path] = {}
        for file in _files(folder):
            with self._open(file) as opened:
                for name in opened.keys():
                    self._files[name] = file
                    found = opened.get_slice(name)
                    self.shapes[name], self.types[name] = tuple(found.get_shape()), found.get_dtype()

    def load(self, name: str) -> np.ndarray:
        """One tensor in fp32."""
        with self._open(self._files[name]) as opened:
            return opened.get_tensor(name).to(torch.float32, copy=True).numpy()

    def _open(self, file: Path):
        try:
            return safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            what = f"the weights cannot be read: {one_line(error)}"
            raise DataError(what, str(file), "Copy or train the checkpoint again.") from error


def _files(folder: Path) -> list[Path]:
    """The one file, else the shards: transformers chooses so, and saving one file leaves an older index where it is."""
    index = folder / INDEX
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not index.is_file():
        raise ConfigError(f"the checkpoint holds no {WHOLE}", str(folder), "Copy or train it again.")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not all(isinstance(name, str) for name in names):
            raise TypeError("weight_map names no files")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{INDEX} is broken", str(folder), "Copy the checkpoint again.") from error
    gone = [name for name in names if not (folder / name).is_file() or Path(name).name != name]
    if gone:
        raise DataError(f"{len(gone)} of {len(names)} weight files are missing, the first is {gone[0]}", str(folder), "Copy it again.")
    return [folder / name for name in names]
