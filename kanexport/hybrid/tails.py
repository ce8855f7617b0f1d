"""Small values that a runtime's operator loses, where what follows looks at all their digits."""

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
