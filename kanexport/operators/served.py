"""Whether a server would take a graph as it usually is set up: told when it is exported, not when it is deployed."""

from __future__ import annotations

import onnx

from kanexport.shared import operators


def notes(model: bytes) -> tuple[str, ...]:
    """A sentence for each kind of operator that a server's screen does not let pass."""
    opened = onnx.load_model_from_string(model)
    found = {(node.domain, node.op_type): "" for node in opened.graph.node}
    for kind in found:
        found[kind] = operators.why_not(*kind)
    return tuple(
        f"the graph has the operator {name}, which {why}: kanserve takes it with --graph-screen relaxed only"
        for (_, name), why in found.items()
        if why
    )


def outputs(graph: bytes) -> dict[str, tuple[int, ...]]:
    """What a graph's outputs are called, and the shape of each after its rows."""
    return {
        output.name: tuple(axis.dim_value for axis in output.type.tensor_type.shape.dim[1:])
        for output in onnx.load_model_from_string(graph).graph.output
    }
