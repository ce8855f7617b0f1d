"""A layer's edge graph: from the node vector that feeds it to the value of every edge."""

from __future__ import annotations

import functools

import numpy as np

from kanexport.form.ir import Layer
from kanexport.lowering import simplify, terms
from kanexport.operators.graph import Graph, Value
from kanexport.operators.weights import Weights

EDGES = "edges"


def edge_graph(layer: Layer, name: str, width: int, dtype: str, weights: Weights | None = None) -> bytes:
    """A layer's input vector [B, width], called `name`, to the values of its edges [B, I, O],
    called EDGES, and the part of each term, called as `term_tensors` says; in "float32" or "float64".
    `weights`: as of `Graph`. Raises InvalidKan where a weight is too large."""
    g = Graph("edges", dtype, weights)
    g.small_values = False
    x = g.input(name, width)
    for step in layer.before:
        x = step.emit(g, x)
    total, parts = _edge_values(g, layer, x)
    shape: tuple[int, ...] = (layer.sources, layer.destinations)
    return g.build({name: (value, shape) for name, value in {EDGES: total, **parts}.items()})


def term_tensors(layer: Layer) -> tuple[str, ...]:
    """What the edge graph calls the part of each term; "" for one that adds nothing, and where there is one part only,
    which is all."""
    live = simplify.live(layer)
    if len(live.terms) + bool(live.symbolic) < 2:
        return ("",) * len(layer.terms)
    return tuple(f"{EDGES}_term{at}" if term in live.terms else "" for at, term in enumerate(layer.terms))


def _edge_values(g: Graph, layer: Layer, x: Value) -> tuple[Value, dict[str, Value]]:
    """[B, I] -> [B, I, O]: every edge by itself, and its parts by name."""
    live = simplify.live(layer)
    parts = [terms.apart(g, live, term, x) for term in live.terms]
    names = [name for name, term in zip(term_tensors(layer), layer.terms, strict=True) if term in live.terms]
    named = {name: value for name, value in zip(names, parts, strict=True) if name}
    if live.symbolic:
        parts.append(_symbolic_edges(g, live, x))
    parts = parts or [g.const(np.zeros((1, layer.sources, layer.destinations)))]
    return _spoilt(g, live, x, functools.reduce(g.add, parts)), named


def _spoilt(g: Graph, layer: Layer, x: Value, total: Value) -> Value:
    """NaN on the edges that become NaN for a source that is not finite."""
    if not layer.nan_spreads.any():
        return total
    if layer.nan_spreads.all():
        return g.add(total, g.reshape(g.sub(x, x), 0, layer.sources, 1))
    spoilt = g.op("And", g.reshape(terms.nonfinite(g, x), 0, layer.sources, 1), g.truth(layer.nan_spreads[None]))
    return g.op("Where", spoilt, g.nan(), total)


def _symbolic_edges(g: Graph, layer: Layer, x: Value) -> Value:
    """[B, I, O]: symbolic values where an edge has one, zero elsewhere."""
    columns, ordered = terms.symbolic_columns(g, layer, x)
    place = np.full(layer.mask.shape, len(ordered), dtype=np.int64)
    for at, edge in enumerate(ordered):
        place[edge.source, edge.destination] = at
    return g.reshape(g.gather(columns, place.reshape(-1), axis=1), 0, layer.sources, layer.destinations)
