"""A Kan becomes graphs: one for inference, and one for each layer's edges.

The serving graph has the output `y` and, as further outputs, the input vector
of every layer but the first. Those cost nothing: they exist anyway. Edge values
are in graphs of their own, because onnxruntime computes outputs nobody asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from kanexport.form.ir import Kan, Layer
from kanexport.lowering import uniform
from kanexport.lowering.contributions import Anchor
from kanexport.lowering.edges import edge_graph
from kanexport.lowering.serving import INPUT, naming, serving_graph
from kanexport.operators.weights import SHARED_FROM, Weights
from kanexport.shared.explanations import Explanations


@dataclass(frozen=True, slots=True)
class Explained:
    """The graph that tells of every answer how it came about: `model` with the edges of some layers behind it. `notes`:
    what of it is not told, and why; `anchor`: what contributions are against, if it has them."""

    graph: bytes
    about: Explanations
    notes: tuple[str, ...] = ()
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True)
class Lowered:
    """Serialised ONNX models. `edges[l]` is layer l's edge graph; `node_tensors[l]` names the tensor
    of `model` that feeds layer l, and the input of its edge graph. `weights`: the file that all of
    them take large constants from, if there is one. `explained`: if it was asked for."""

    model: bytes
    edges: tuple[bytes, ...]
    node_tensors: tuple[str, ...]
    weights: Weights | None = None
    explained: Explained | None = None


def lower(kan: Kan, dtype: str, *, rows: int = 1, near: Collection[int] = ()) -> Lowered:
    """Lower a network in "float32" or "float64", to be fast in runs of so many rows. `near`: layers whose knots
    are taken for uniform, of those that `uniform.layers` finds. Raises InvalidKan, naming the layer, where a weight
    is too large for it."""
    kan = uniform.taken(kan, near)
    weights = shared(kan.layers, dtype)
    names = tuple(INPUT if at == 0 else f"layer{at}_in" for at in range(len(kan.layers)))
    edges = []
    for at, (layer, name, width) in enumerate(zip(kan.layers, names, kan.widths(), strict=False)):
        with naming(at):
            edges.append(edge_graph(layer, name, width, dtype, weights))
    return Lowered(serving_graph(kan, names, dtype, weights, rows=rows), tuple(edges), names, weights)


def shared(layers: Iterable[Layer], dtype: str) -> Weights | None:
    """The file for the constants of a model with these layers, still empty; None where each graph keeps its own."""
    numbers = sum(term.coef.size for layer in layers for term in layer.terms)
    return Weights() if numbers * np.dtype(dtype).itemsize >= SHARED_FROM else None
