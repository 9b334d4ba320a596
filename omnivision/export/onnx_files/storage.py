"""Smaller weights in a graph: FP16 that is cast before use, or bytes with products of whole numbers.

Only large tables change. They are converted one at a time, while the file is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

LEAST = 1024  # numbers in a table that is stored otherwise. Vectors stay in fp32: they are small, and rotary frequencies need it
ZERO = 128  # the byte that stands for 0. Signed bytes overflow in the 16-bit sums of processors without VNNI
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
    """Stores the tables of products and of embeddings in bytes, with a scale for each output; activations are scaled as they come.

    A product of a table W (in, out) becomes round(x / a) @ bytes(W) in whole numbers, times a times the scale of the column.
    """
    taken: dict[ir.Value, ir.Node] = {}  # a value that several products read is scaled once
    for table in _tables(model.graph):
        if not all((use.node.op_type, use.idx) in (("MatMul", 1), ("Gather", 0)) for use in table.uses()):
            continue  # a convolution of patches, a table that is added: little, and not worth a kernel of its own
        axis = 0 if all(node.op_type == "MatMul" for node in table.consumers()) else 1
        scale = _constant(model.graph, f"{table.name}_scale", _scales(table.const_value.numpy(), axis))
        zero = _constant(model.graph, f"{table.name}_zero", np.array(ZERO, np.uint8))
        packed = _weight(model.graph, table, "int8", BYTE, lambda values, axis=axis: _bytes(values, axis))
        for node in table.consumers():
            _put(node, _gather_bytes(node, packed, scale, zero) if axis else _multiply_bytes(node, packed, scale, zero, taken))
        del model.graph.initializers[table.name]


def _multiply_bytes(node: ir.Node, packed: ir.Value, scale: ir.Value, zero: ir.Value, taken: dict[ir.Value, ir.Node]) -> list[ir.Node]:
    """The chain that onnxruntime fuses into one kernel."""
    x, new = node.inputs[0], []
    if x not in taken:
        taken[x] = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
        new.append(taken[x])
    whole, step, middle = taken[x].outputs
    product = ir.node("MatMulInteger", [whole, packed, middle, zero])
    real = ir.node("Cast", product.outputs, {"to": FLOAT})
    steps = ir.node("Mul", [step, scale])
    return [*new, product, real, steps, ir.node("Mul", [real.outputs[0], steps.outputs[0]])]


def _gather_bytes(node: ir.Node, packed: ir.Value, scale: ir.Value, zero: ir.Value) -> list[ir.Node]:
    rows, steps = (ir.node("Gather", [table, node.inputs[1]], {"axis": 0}) for table in (packed, scale))
    real, middle = (ir.node("Cast", [value], {"to": FLOAT}) for value in (rows.outputs[0], zero))
    moved = ir.node("Sub", [real.outputs[0], middle.outputs[0]])
    return [rows, steps, real, middle, moved, ir.node("Mul", [moved.outputs[0], steps.outputs[0]])]


def _tables(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.initializers.values()
            if (array := value.const_value) is not None and array.dtype == FLOAT and is_large(array) and value.uses()]


def is_large(table: Any) -> bool:
    """Whether a table (anything with a shape) is stored otherwise."""
    return len(table.shape) >= 2 and math.prod(table.shape) >= LEAST


def _scales(values: np.ndarray, axis: int) -> np.ndarray:
    """The step between two bytes, for each column (axis 0) or, as a column, for each row (axis 1)."""
    most = np.abs(values).max(axis, keepdims=axis == 1) / 127
    return np.where(most > 0, most, 1).astype(np.float32)


def _bytes(values: np.ndarray, axis: int) -> np.ndarray:
    return (np.rint(values / _scales(values, axis)).clip(-127, 127) + ZERO).astype(np.uint8)


def _weight(graph: ir.Graph, table: ir.Value, name: str, kind: ir.DataType, convert: Callable[[np.ndarray], np.ndarray]) -> ir.Value:
    """A new weight that is made from the old one when it is written."""
    old = table.const_value
    return _register(graph, f"{table.name}_{name}", ir.LazyTensor(lambda: ir.tensor(convert(old.numpy())), kind, old.shape))


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
