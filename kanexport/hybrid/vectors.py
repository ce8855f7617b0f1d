"""Products of matrices and vectors, written so that onnxruntime's optimiser leaves them right.

From ORT_ENABLE_EXTENDED on, onnxruntime 1.32 makes one operator of a Transpose and the MatMul behind it, also if the
second operand is a vector [n]; it then leaves the transposition out, without an error. A vector that is written as a
matrix [n, 1], whose axis is squeezed out of the product, means the same and is computed right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

LAST = "vectors/last"


def as_columns(graph: Any) -> None:
    """Write every vector that a MatMul multiplies from the right as a matrix of one column."""
    ranks = _ranks(graph)
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.domain in ("", "ai.onnx") and ranks.get(node.input[1]) == 1:
            nodes.extend(_column(node))
        else:
            nodes.append(node)
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), LAST))


def _column(node: Any) -> list[Any]:
    x, vector = node.input
    (y,) = node.output
    column, product = f"{y}/column", f"{y}/product"
    return [
        onnx.helper.make_node("Unsqueeze", [vector, LAST], [column], name=column),
        onnx.helper.make_node("MatMul", [x, column], [product], name=product),
        onnx.helper.make_node("Squeeze", [product, LAST], [y], name=f"{y}/vector"),
    ]


def _ranks(graph: Any) -> dict[str, int]:
    """How many axes the tensors have of which that is known."""
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            held = {part.name: part for part in node.attribute}
            if "value" in held:
                ranks[node.output[0]] = len(held["value"].t.dims)
            elif held.keys() & {"value_ints", "value_floats"}:
                ranks[node.output[0]] = 1
    return ranks
