"""Small values that a runtime's operator loses, where what follows looks at all their digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

# Of what they are given first, or divide by, a small value matters as much as a large one.
FIRST = ("Pow", "Log", "Sqrt", "Reciprocal")
ONE = "tails/one"


def keep(graph: Any) -> None:
    """Write the logistic function as 1 / (1 + exp(-x)) where a power, a logarithm, a root or a quotient is taken of
    it: onnxruntime's Sigmoid is exact to 1e-8 and never below, so that x^0.5 of it is exact to 1e-4."""
    wanted = {node.input[0] for node in graph.node if node.op_type in FIRST}
    wanted |= {node.input[1] for node in graph.node if node.op_type == "Div"}
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


def _logistic(x: str, y: str) -> list[Any]:
    steps = [("Neg", [x]), ("Exp", [f"{y}/Neg"]), ("CastLike", [ONE, x]), ("Add", [f"{y}/Exp", f"{y}/CastLike"])]
    nodes = [onnx.helper.make_node(kind, given, [f"{y}/{kind}"], name=f"{y}/{kind}") for kind, given in steps]
    return [*nodes, onnx.helper.make_node("Reciprocal", [f"{y}/Add"], [y], name=f"{y}/Reciprocal")]
