"""Sums of symbolic edges by two matrix products: one selects and scales the sources, one adds up the edges.

Between them are the functions, one operator or a few for all edges that have the same one. A product with zeros adds
nothing only if all numbers are finite. So only functions without poles and gaps take part, where a source that is not
finite makes all destinations NaN anyway. The others are gathered edge by edge.

Measured on two cores, one thread, eight functions: the time of gathered edges divided by the time of this form.

| network | 1 row | 64 rows | 256 rows | 1024 rows |
|---|---|---|---|---|
| [8, 8, 1] | 1.9 | 3.5 | 4.5 | 5.5 |
| [16, 16, 4] | 2.0 | 4.8 | 6.0 | 5.2 |
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt

from kanexport.functions.elementwise import SYMBOLIC
from kanexport.graph.builder import Graph, Value
from kanexport.ir.model import Layer, SymbolicEdge
from kanexport.lowering import passes

# Functions of pykan's table that are finite for each finite number: those that stay small, and those that may overflow.
BOUNDED = ("0", "abs", "arctan", "cos", "gaussian", "sgn", "sigmoid", "sin", "tanh", "x")
GROWING = ("cosh", "exp", "x^2", "x^3", "x^4", "x^5")
Array = npt.NDArray[np.float64]

# Operators of this form, besides one for each function, and of gathered edges for each function and for their sum.
PRODUCTS, OVERFLOW, GATHERED, SUMMED = 4, 12, 5, 6
MANY = 64  # edges, of which the operators themselves take longer in the other form
NUMBERS = 2**15  # in the two matrices; more make files larger than the time is worth


def split(layer: Layer) -> tuple[Layer, tuple[SymbolicEdge, ...]]:
    """The layer with the symbolic edges that are gathered, and the other ones, whose constants its bias has."""
    chosen = tuple(edge for edge in layer.symbolic if _fits(edge))
    names = {edge.function.name for edge in chosen}
    growing = OVERFLOW if names & set(GROWING) else 0
    faster = len(names) + PRODUCTS + growing < GATHERED * len(names) + SUMMED or len(chosen) >= MANY
    small = len(chosen) * (layer.sources + layer.destinations) <= NUMBERS
    if not (layer.nan_spreads.all() and chosen and small and faster):
        return layer, ()
    bias = layer.bias.copy()
    for edge in chosen:
        bias[edge.destination] += edge.mask * edge.d
    others = tuple(edge for edge in layer.symbolic if not _fits(edge))
    return dataclasses.replace(layer, symbolic=others, bias=bias), chosen


def _fits(edge: SymbolicEdge) -> bool:
    name = edge.function.name
    return name in BOUNDED + GROWING and edge.function is SYMBOLIC.get(name)


def summed(g: Graph, layer: Layer, edges: tuple[SymbolicEdge, ...], x: Value, total: Value) -> Value:
    """[B, I] and the sums so far -> [B, O]: these edges without their constants, summed over the sources."""
    ordered = sorted(edges, key=lambda edge: (edge.function.name in GROWING, edge.function.name))
    places = np.arange(len(ordered))
    select = np.zeros((layer.sources, len(ordered)))
    select[[edge.source for edge in ordered], places] = [edge.a for edge in ordered]
    weights = np.zeros((len(ordered), layer.destinations))
    weights[places, [edge.destination for edge in ordered]] = passes.outer(ordered)[0]
    inner = g.gemm(x, g.const(select), g.const([[edge.b for edge in ordered]]))
    bounded = sum(edge.function.name in BOUNDED for edge in ordered)
    values = _functions(g, ordered[:bounded], inner, 0, len(ordered))
    growing = _functions(g, ordered[bounded:], inner, bounded, len(ordered))
    if growing:
        grown = _joined(g, growing)
        largest = float(np.finfo(g.dtype).max)
        values.append(g.clip(grown, -largest, largest))  # an infinity times zero would be NaN
        at = [edge.destination for edge in ordered[bounded:]]
        total = g.add(total, _overflow(g, g.sub(grown, values[-1]), weights[bounded:], at))
    return g.gemm(_joined(g, values), g.const(weights), total)


def _overflow(g: Graph, excess: Value, weights: Array, destinations: list[int]) -> Value:
    """[B, O]: an infinity for each destination with an infinite `excess` [B, E] of an edge, NaN for both infinities or
    for a weight of zero, and zero elsewhere."""
    edges = np.zeros(weights.shape)
    edges[np.arange(len(edges)), destinations] = 2
    sign = g.clip(excess, -1.0, 1.0)
    both = g.gemm(g.op("Abs", sign), g.const(edges))
    difference = g.gemm(sign, g.const(edges * np.sign(weights)))
    largest = g.const(float(np.finfo(g.dtype).max))
    up, down = (g.mul(count, largest) for count in (g.add(both, difference), g.sub(both, difference)))
    return g.sub(up, down)


def _functions(g: Graph, edges: list[SymbolicEdge], inner: Value, start: int, count: int) -> list[Value]:
    """The values of each function, of the columns of `inner` from `start` on; it has `count` columns."""
    values = []
    for _, group in itertools.groupby(edges, key=lambda edge: edge.function.name):
        same = list(group)
        own = inner if len(same) == count else g.slice(inner, start, start + len(same), axis=1)
        values.append(same[0].function.emit(g, own))
        start += len(same)
    return values


def _joined(g: Graph, values: list[Value]) -> Value:
    return g.op("Concat", *values, axis=1) if len(values) > 1 else values[0]
