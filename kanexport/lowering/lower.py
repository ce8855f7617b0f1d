"""A Kan becomes graphs: one for inference, and one for each layer's edges.

The serving graph has the output `y` and, as further outputs, the input vector
of every layer but the first. Those cost nothing: they exist anyway. Edge values
are in graphs of their own, because onnxruntime computes outputs nobody asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from kanexport.form.ir import Kan
from kanexport.lowering.edges import edge_graph
from kanexport.lowering.serving import INPUT, naming, serving_graph


@dataclass(frozen=True, slots=True)
class Lowered:
    """Serialised ONNX models. `edges[l]` is layer l's edge graph; `node_tensors[l]` names the tensor
    of `model` that feeds layer l, and the input of its edge graph."""

    model: bytes
    edges: tuple[bytes, ...]
    node_tensors: tuple[str, ...]


def lower(kan: Kan, dtype: str) -> Lowered:
    """Lower a network in "float32" or "float64". Raises InvalidKan, naming the layer, where a weight
    is too large for it."""
    names = tuple(INPUT if at == 0 else f"layer{at}_in" for at in range(len(kan.layers)))
    edges = []
    for at, (layer, name, width) in enumerate(zip(kan.layers, names, kan.widths(), strict=False)):
        with naming(at):
            edges.append(edge_graph(layer, name, width, dtype))
    return Lowered(serving_graph(kan, names, dtype), tuple(edges), names)
