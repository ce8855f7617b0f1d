"""A layer's edge graph: from the node vector that feeds it to the value of every edge."""

from __future__ import annotations

import functools

import numpy as np

from kanexport.form.ir import EdgeTerm, Layer
from kanexport.lowering import simplify, terms
from kanexport.operators.graph import Graph, Value

EDGES = "edges"


def edge_graph(layer: Layer, name: str, width: int, dtype: str) -> bytes:
    """A layer's input vector [B, width], called `name`, to the values of its edges [B, I, O],
    called EDGES; in "float32" or "float64". Raises InvalidKan where a weight is too large."""
    g = Graph("edges", dtype)
    g.small_values = False
    x = g.input(name, width)
    for step in layer.before:
        x = step.emit(g, x)
    shape = (layer.sources, layer.destinations)
    return g.build({EDGES: (_edge_values(g, simplify.live(layer), x), shape)})


def _edge_values(g: Graph, layer: Layer, x: Value) -> Value:
    """[B, I] -> [B, I, O]: every edge by itself."""
    parts = []
    for term in layer.terms:
        if isinstance(term, EdgeTerm):
            parts.append(terms.edge_term(g, layer, term, x))
            continue
        basis, coef = terms.basis_term(g, layer, term, x)
        if term.basis.functions == 1:
            column = g.reshape(basis, 0, layer.sources, 1)
            product = g.mul(column, g.const(coef[None, :, :, 0]))
        else:
            by_source = g.transpose(basis, 2, 0, 1)  # [I, B, K]
            product = g.transpose(g.op("MatMul", by_source, g.const(coef.transpose(0, 2, 1))), 1, 0, 2)
        parts.append(product)
    if layer.symbolic:
        parts.append(_symbolic_edges(g, layer, x))
    parts = parts or [g.const(np.zeros((1, layer.sources, layer.destinations)))]
    total = functools.reduce(g.add, parts)
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
