"""The two packages of the extra `export` that GGUF needs, asked for only where they are used."""

from __future__ import annotations

import ctypes
from types import ModuleType

import numpy as np

from omnivision.export.packages import needed


def gguf() -> ModuleType:
    """The package that reads and writes GGUF files."""
    return needed("gguf", "export gguf")


def xllamacpp() -> ModuleType:
    """llama.cpp with its server, in this process."""
    return needed("xllamacpp", "export gguf")


def quantized(rows_RC: np.ndarray, kind: int) -> np.ndarray:
    """Rows of fp32 numbers in one of ggml's block types, by ggml's own code.

    Args:
        rows_RC: contiguous, C a multiple of the type's block.
        kind: a GGMLQuantizationType.

    Returns:
        Bytes, shape (R, bytes of a row).
    """
    library = ctypes.CDLL(xllamacpp().xllamacpp.__file__)
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    rows, columns = rows_RC.shape
    block, size = gguf().GGML_QUANT_SIZES[gguf().GGMLQuantizationType(kind)]
    out = np.empty((rows, columns // block * size), dtype=np.uint8)
    written = chunk(int(kind), rows_RC.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    if written != out.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {out.nbytes} in type {kind}")
    return out
