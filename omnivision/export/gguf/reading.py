"""A GGUF file as numbers and settings, with errors a user can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from omnivision.errors import ConfigError, DataError, one_line
from omnivision.export.gguf.packages import gguf


class GgufFile:
    """Settings and tensors of one file.

    Raises:
        ConfigError: no such file. DataError: no whole GGUF file.
    """

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise ConfigError("it is a folder" if file.is_dir() else "no such file", str(file), "Give a .gguf file.")
        self.file = file
        try:
            reader = gguf().GGUFReader(file)
            self.settings: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        except (ValueError, IndexError, KeyError, OSError, OverflowError, TypeError) as error:  # what a cut or foreign file leads to
            raise DataError(f"no whole GGUF file: {one_line(error)}", str(file), "Fetch it again.") from error

    @property
    def names(self) -> set[str]:
        """Of the tensors."""
        return set(self._tensors)

    def setting(self, name: str) -> Any:
        """A key's value.

        Raises:
            DataError: it is not there.
        """
        if name in self.settings:
            return self.settings[name]
        raise DataError(f"the key {name} is missing", str(self.file), "Give a file of the right kind.")

    def shape(self, name: str) -> tuple[int, ...]:
        """Rows first."""
        self._check(name)
        return tuple(int(one) for one in reversed(self._tensors[name].shape))

    def load(self, name: str) -> torch.Tensor:
        """A tensor in fp32, unpacked where it is quantised."""
        self._check(name)
        tensor = self._tensors[name]
        values = gguf().quants.dequantize(tensor.data, tensor.tensor_type).reshape(self.shape(name))
        return torch.from_numpy(values.astype("float32", copy=True))

    def _check(self, name: str) -> None:
        if name not in self._tensors:
            raise DataError(f"the tensor {name} is missing", str(self.file), "Fetch the file again, or give one of the right kind.")
