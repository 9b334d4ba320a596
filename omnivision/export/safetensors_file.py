"""Writes a safetensors file tensor by tensor; the library's own writer takes all of them at once.

The format: eight bytes of the header's length, the header in JSON, the numbers in its order.
Source: huggingface/safetensors, README.md, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

TYPES = {torch.float32: "F32", torch.float16: "F16"}
ALIGNMENT = 8  # bytes: the header is filled up with spaces


class Planned(NamedTuple):
    """One tensor of a file to be."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]


def write_safetensors(file: Path, plan: dict[str, Planned]) -> None:
    """Writes tensors by their names; one of them stands in memory at a time."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, one in plan.items():
        size = torch.Size(one.shape).numel() * one.dtype.itemsize
        header[name] = {"dtype": TYPES[one.dtype], "shape": list(one.shape), "data_offsets": [at, at + size]}
        at += size
    said = json.dumps(header, ensure_ascii=False).encode()
    said += b" " * (-len(said) % ALIGNMENT)
    with file.open("wb") as out:
        out.write(len(said).to_bytes(8, "little") + said)
        for one in plan.values():
            out.write(memoryview(one.load().to(one.dtype).contiguous().numpy()).cast("B"))
