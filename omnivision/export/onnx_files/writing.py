"""The graphs as files, in every variant that is asked for."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from omnivision.export.checkpoint import Checkpoint
from omnivision.export.onnx_files.graphs import graphs
from omnivision.export.onnx_files.runner import SUFFIXES
from omnivision.export.onnx_files.storage import store_fp16, store_int8

REWRITES = {"fp32": lambda graph: None, "fp16": store_fp16, "int8": store_int8}
ONE_FILE = 1 << 28  # bytes of weights that a graph's own file holds: protobuf builds it in memory, and cannot pass 2 GiB


def write_graphs(folder: Path, checkpoint: Checkpoint, variants: list[str]) -> list[str]:
    """Writes every graph in every variant; of the weights, one at a time is held in memory.

    Args:
        folder: the new folder. variants: names of REWRITES.

    Returns:
        The files whose weights lie beside them, in a file of the same name with "_data".

    Raises:
        ConfigError: an architecture that cannot be expressed.
    """
    folder.mkdir()
    external = []
    for name, graph in graphs(checkpoint):
        for variant in variants:
            one = graph.clone()
            REWRITES[variant](one)
            file = f"{name}{SUFFIXES[variant]}.onnx"
            large = sum(value.const_value.nbytes for value in one.graph.initializers.values()) > ONE_FILE
            ir.save(one, folder / file, external_data=f"{file}_data" if large else None)
            external += [file] * large
    return external
