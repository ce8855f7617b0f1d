"""Changes to a traced graph that keep onnxruntime's results right.

`keep` preserves small values that onnxruntime's Sigmoid loses, if later operators use all their digits.

`as_columns` rewrites products of matrices and vectors. From ORT_ENABLE_EXTENDED on, onnxruntime 1.32 fuses a Transpose
with the MatMul behind it. If the second operand is a vector [n], it omits the transposition, without an error. The
product with a matrix [n, 1], squeezed afterwards, has the same meaning, and onnxruntime computes it right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

# Of what they are given first, divide by or compare, a small value matters as much as a large one.
FIRST = ("Pow", "Log", "Sqrt", "Reciprocal", "Sign")
COMPARED = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
ONE = "tails/one"
LAST = "tails/last"


def keep(graph: Any) -> None:
    """Write the logistic function as 1 / (1 + exp(-x)) where a power, a logarithm, a root or a quotient is taken of
    it, or it is compared: onnxruntime's Sigmoid is exact to 1e-8, so that x^0.5 of it is exact to 1e-4, and 0 where
    a branch asks for x > 0."""
    wanted = set(_looked_at(graph))
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "Sigmoid" and node.output[0] in wanted:
            nodes.extend(_logistic(node.input[0], node.output[0]))
        else:
            nodes.append(node)
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), ONE))


def _looked_at(graph: Any) -> Iterator[str]:
    """Names of tensors all whose digits matter."""
    for node in graph.node:
        if node.op_type in FIRST:
            yield node.input[0]
        elif node.op_type == "Div":
            yield node.input[1]
        elif node.op_type in COMPARED:
            yield from node.input


def _logistic(x: str, y: str) -> list[Any]:
    steps = [("Neg", [x]), ("Exp", [f"{y}/Neg"]), ("CastLike", [ONE, x]), ("Add", [f"{y}/Exp", f"{y}/CastLike"])]
    nodes = [onnx.helper.make_node(kind, given, [f"{y}/{kind}"], name=f"{y}/{kind}") for kind, given in steps]
    return [*nodes, onnx.helper.make_node("Reciprocal", [f"{y}/Add"], [y], name=f"{y}/Reciprocal")]


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
    """The number of axes of each tensor, if the graph states it."""
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
