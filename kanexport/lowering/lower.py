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
from kanexport.lowering import splines, uniform
from kanexport.lowering.contributions import Anchor
from kanexport.lowering.edges import edge_graph
from kanexport.lowering.serving import INPUT, naming, serving_graph
from kanexport.manifest import ANY
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
class Many:
    """The serving graph in another form, made for runs of `rows` rows or more."""

    graph: bytes
    rows: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """Serialised ONNX models. `edges[l]` is layer l's edge graph; `node_tensors[l]` names the tensor of `model` that
    feeds layer l, and the input of its edge graph. `weights`: the file that all of them take large constants from,
    if there is one. `explained`: if the user asked for it. `many`: if another form is faster in runs of many rows.
    `kernel`: `model` by the operator of `shared.kernel`, if the user asked for it. `optimization`: how far a runtime
    may change the graphs, `manifest.ANY` or `BASIC`."""

    model: bytes
    edges: tuple[bytes, ...]
    node_tensors: tuple[str, ...]
    weights: Weights | None = None
    explained: Explained | None = None
    many: Many | None = None
    kernel: bytes | None = None
    optimization: str = ANY


def lower(
    kan: Kan,
    dtype: str,
    *,
    rows: int = 1,
    many: int = 0,
    kernel: bool = False,
    near: Collection[int] = (),
    curves: Kan | None = None,
) -> Lowered:
    """Lower a network in "float32" or "float64", to be fast in runs of so many rows; and once more, where that makes
    another graph, for runs of `many`; with `kernel` also by the operator of `shared.kernel`, where a layer has splines
    that it takes. `near`: layers whose knots are taken for uniform, of those that `uniform.layers` finds; the operator
    has them as they are. `curves`: the network whose edges are told, if not the same one. Raises InvalidKan, naming the
    layer, where a weight is too large for it."""
    read, kan = kan, uniform.taken(kan, near)
    weights = shared(kan.layers, dtype)
    names = tuple(INPUT if at == 0 else f"layer{at}_in" for at in range(len(kan.layers)))
    edges = []
    told = (curves or kan).layers
    for at, (layer, name, width) in enumerate(zip(told, names, kan.widths(), strict=False)):
        with naming(at):
            edges.append(edge_graph(layer, name, width, dtype, weights))
    model = serving_graph(kan, names, dtype, weights, rows=rows)
    other = serving_graph(kan, names, dtype, weights, rows=many) if many else model
    takes = kernel and any(splines.layers(read.layers, dtype))
    return Lowered(
        model,
        tuple(edges),
        names,
        weights,
        many=Many(other, many) if other != model else None,
        kernel=serving_graph(read, names, dtype, weights, kernel=True) if takes else None,
    )


def shared(layers: Iterable[Layer], dtype: str) -> Weights | None:
    """The file for the constants of a model with these layers, still empty; None where each graph keeps its own."""
    numbers = sum(term.coef.size for layer in layers for term in layer.terms)
    return Weights() if numbers * np.dtype(dtype).itemsize >= SHARED_FROM else None
