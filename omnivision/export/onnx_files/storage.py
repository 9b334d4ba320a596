"""Smaller weights in a graph: FP16 that is cast before use, or bytes with a scale for each block.

Only large tables change. They are converted one at a time, while the file is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

LEAST = 1024  # numbers in a table that is stored otherwise. Vectors stay in fp32: they are small, and rotary frequencies need it
ZERO = 128  # the byte that stands for 0
BLOCK = 32  # inputs of a product that share a scale
SLAB = 4096  # rows that are converted at a time: an embedding table is half a gigabyte
CONTRIB = "com.microsoft"  # onnxruntime's own operators
FLOAT, HALF, BYTE = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.UINT8


def store_fp16(model: ir.Model) -> None:
    """Stores large tables in FP16, rounded to nearest; everything is computed in fp32 as before."""
    for table in _tables(model.graph):
        half = _weight(model.graph, table, "fp16", HALF, lambda values: values.astype(np.float16))
        for node, place in table.uses():
            if node.op_type == "Gather":  # the rows that were gathered are cast, not the table
                gather = ir.node("Gather", [half, node.inputs[1]], {"axis": 0})
                _put(node, [gather, ir.node("Cast", gather.outputs, {"to": FLOAT})])
            else:
                cast = ir.node("Cast", [half], {"to": FLOAT})
                model.graph.insert_before(node, cast)
                node.replace_input_with(place, cast.outputs[0])
        del model.graph.initializers[table.name]


def store_int8(model: ir.Model) -> None:
    """Stores tables in bytes. In a product, blocks of 32 inputs share a scale, as in Q8_0 of llama.cpp, and onnxruntime multiplies
    whole numbers. One scale for a column, and one for the activations, changed 12 of 50 answers of the tiny preset, this changes 4.
    Of embeddings, each row has its scale.
    """
    model.graph.opset_imports[CONTRIB] = 1
    for table in _tables(model.graph):
        kinds = {(use.node.op_type, use.idx) for use in table.uses()}
        if kinds == {("MatMul", 1)}:
            _store_blocks(model.graph, table)
        elif kinds == {("Gather", 0)}:
            _store_rows(model.graph, table)


def _store_blocks(graph: ir.Graph, table: ir.Value) -> None:
    inputs, outputs = table.const_value.shape
    shape = ir.Shape([outputs, -(-inputs // BLOCK), BLOCK])
    packed = _weight(graph, table, "int8", BYTE, lambda values_KN: _in_slabs(values_KN.T, lambda rows: _bytes(_in_blocks(rows))), shape)
    scale = _constant(graph, f"{table.name}_scale", _in_slabs(table.const_value.numpy().T, lambda rows: _scales(_in_blocks(rows))[..., 0]))
    about = {"K": inputs, "N": outputs, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}  # 4: whole numbers
    for node in table.consumers():
        _put(node, [ir.node("MatMulNBits", [node.inputs[0], packed, scale], about, domain=CONTRIB)])
    del graph.initializers[table.name]


def _store_rows(graph: ir.Graph, table: ir.Value) -> None:
    packed = _weight(graph, table, "int8", BYTE, lambda rows: _in_slabs(rows, _bytes))
    scale = _constant(graph, f"{table.name}_scale", _in_slabs(table.const_value.numpy(), _scales))
    zero = _constant(graph, f"{table.name}_zero", np.array(ZERO, np.float32))
    for node in table.consumers():
        rows, steps = (ir.node("Gather", [one, node.inputs[1]], {"axis": 0}) for one in (packed, scale))
        real = ir.node("Cast", rows.outputs, {"to": FLOAT})
        moved = ir.node("Sub", [real.outputs[0], zero])
        _put(node, [rows, steps, real, moved, ir.node("Mul", [moved.outputs[0], steps.outputs[0]])])
    del graph.initializers[table.name]


def _tables(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.initializers.values()
            if (array := value.const_value) is not None and array.dtype == FLOAT and is_large(array) and value.uses()]


def is_large(table: Any) -> bool:
    """Whether a table (anything with a shape) is stored otherwise."""
    return len(table.shape) >= 2 and math.prod(table.shape) >= LEAST


def _in_slabs(rows: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([convert(rows[start:start + SLAB]) for start in range(0, len(rows), SLAB)])


def _in_blocks(rows_NK: np.ndarray) -> np.ndarray:
    """Rows (outputs, inputs) as (outputs, blocks, BLOCK), the last block filled up with zeros."""
    rest = -rows_NK.shape[1] % BLOCK
    return np.pad(rows_NK, ((0, 0), (0, rest))).reshape(len(rows_NK), -1, BLOCK)


def _scales(values: np.ndarray) -> np.ndarray:
    """The step between two bytes for each last dimension, which stays with length 1."""
    most = np.maximum(values.max(-1, keepdims=True), -values.min(-1, keepdims=True)) / 127
    return np.where(most > 0, most, 1).astype(np.float32)


def _bytes(values: np.ndarray) -> np.ndarray:
    steps = values / _scales(values)
    np.rint(steps, out=steps)
    np.clip(steps, -127, 127, out=steps)
    steps += ZERO
    return steps.astype(np.uint8)


def _weight(graph: ir.Graph, table: ir.Value, name: str, kind: ir.DataType, convert: Callable[[np.ndarray], np.ndarray],
            shape: ir.Shape | None = None) -> ir.Value:
    """A new weight that is made from the old one when it is written."""
    old = table.const_value
    return _register(graph, f"{table.name}_{name}", ir.LazyTensor(lambda: ir.tensor(convert(old.numpy())), kind, shape or old.shape))


def _constant(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    return _register(graph, name, ir.tensor(values))


def _register(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    tensor.name = name
    value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def _put(node: ir.Node, new: list[ir.Node]) -> None:
    """Puts nodes in the place of one; the last one's output takes over the name, the shape and the readers."""
    old, now = node.outputs[0], new[-1].outputs[0]
    node.graph.insert_before(node, new)
    now.name, now.shape, now.type = old.name, old.shape, old.type
    old.replace_all_uses_with(now, replace_graph_outputs=True)
    old.name = None
    node.graph.remove(node, safe=True)
