"""Writes a GGUF file tensor by tensor: one of them stands in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnivision.errors import DataError
from omnivision.export.fp16_limits import FP16_LARGEST, FROM_BEFORE, KEEP_THEM
from omnivision.export.gguf.packages import gguf, quantized


@dataclass(frozen=True)
class Planned:
    """One tensor of a file to be."""

    name: str
    shape: tuple[int, ...]  # rows first, as numpy has it
    kind: int  # a GGMLQuantizationType
    load: Callable[[], np.ndarray]  # in fp32

    @property
    def bytes(self) -> int:
        """In the file, without padding."""
        block, size = gguf().GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // block * size


def write_gguf(file: Path, arch: str, describe: Callable[[object], None], plan: list[Planned]) -> None:
    """Write a file.

    Args:
        file: the new file.
        arch: general.architecture.
        describe: adds the keys to the writer that it is given.
        plan: the tensors, in order.

    Raises:
        DataError: a tensor with numbers that its type cannot hold.
    """
    writer = gguf().GGUFWriter(file, arch)
    try:
        describe(writer)
        for one in plan:
            writer.add_tensor_info(one.name, one.shape, np.dtype(np.float32), one.bytes, one.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in plan:
            writer.write_tensor_data(_packed(one))
    finally:
        writer.close()


def _packed(one: Planned) -> np.ndarray:
    """The tensor's bytes in its type."""
    values = np.ascontiguousarray(one.load(), dtype=np.float32)
    if values.shape != one.shape:
        raise DataError(f"{one.name} has shape {values.shape}, expected {one.shape}", "checkpoint", "Copy or train it again.")
    largest = float(np.abs(values).max(initial=0.0))
    kinds = gguf().GGMLQuantizationType
    if not np.isfinite(largest):
        raise DataError(f"{one.name} holds numbers that are not finite", "checkpoint", FROM_BEFORE)
    if one.kind != kinds.F32 and largest > FP16_LARGEST:
        raise DataError(f"{one.name}: {largest:.4g} is beyond FP16", "checkpoint", KEEP_THEM)
    if one.kind == kinds.F32:
        return values
    if one.kind == kinds.F16:
        return values.astype(np.float16)
    return quantized(values.reshape(-1, values.shape[-1]), one.kind)
