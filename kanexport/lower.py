"""A Kan becomes graphs: one for inference, and one for each layer's edges.

The serving graph has the output `y` and, as further outputs, the input vector
of every layer but the first. Those cost nothing: they exist anyway. Edge values
are in graphs of their own, because onnxruntime computes outputs nobody asks for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan
from kanexport.graph import Graph, Value
from kanexport.ir import BasisTerm, EdgeTerm, Kan, Layer, SymbolicEdge, Term

INPUT = "x"
OUTPUT = "y"
EDGES = "edges"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lowered:
    """Serialised models. `node_tensors[l]` names the tensor that feeds layer l."""

    model: bytes
    edges: tuple[bytes, ...]
    node_tensors: tuple[str, ...]


def lower(kan: Kan, dtype: str) -> Lowered:
    """Lower a network in "float32" or "float64"."""
    names = tuple(INPUT if at == 0 else f"layer{at}_in" for at in range(len(kan.layers)))
    edges = []
    for at, (layer, name, width) in enumerate(zip(kan.layers, names, kan.widths(), strict=False)):
        with _naming(at):
            edges.append(edge_graph(layer, name, width, dtype))
    return Lowered(serving_graph(kan, names, dtype), tuple(edges), names)


@contextlib.contextmanager
def _naming(at: int) -> Iterator[None]:
    """Errors of a layer, such as a weight too large for float32, name it."""
    try:
        yield
    except InvalidKan as error:
        raise type(error)(f"layer {at}: {error.message}", hint=error.hint) from error


def serving_graph(kan: Kan, names: tuple[str, ...], dtype: str, *, whole: bool = True) -> bytes:
    """x [B, n] to y [B, m], with the input of every layer but the first under its name.
    `whole`: nothing follows; else it is a part, and a normalisation may follow."""
    g = Graph("kan", dtype)
    following = [*(layer.mixes for layer in kan.layers[1:]), not whole]
    x = g.input(INPUT, kan.n_inputs)
    outputs: dict[str, tuple[Value, tuple[int, ...]]] = {}
    for at, (layer, width) in enumerate(zip(kan.layers, kan.widths()[1:], strict=True)):
        g.small_values = following[at] or any(step.mixes for step in layer.after)
        with _naming(at):
            for step in layer.before:
                x = step.emit(g, x)
            x = _sums(g, _live(layer), x)
            for step in layer.after:
                x = step.emit(g, x)
        last = at == len(kan.layers) - 1
        name = OUTPUT if last else names[at + 1]
        x = g.rename(x, name)
        outputs[name] = (x, (width,))
    return g.build({OUTPUT: outputs.pop(OUTPUT), **outputs})


def edge_graph(layer: Layer, name: str, width: int, dtype: str) -> bytes:
    """A layer's input vector [B, width] to the values of its edges [B, I, O]."""
    g = Graph("edges", dtype)
    g.small_values = False
    x = g.input(name, width)
    for step in layer.before:
        x = step.emit(g, x)
    shape = (layer.sources, layer.destinations)
    return g.build({EDGES: (_edge_values(g, _live(layer), x), shape)})


def _live(layer: Layer) -> Layer:
    """The layer without the terms that every edge multiplies by zero: a network whose edges
    are all symbolic needs no basis. What such a term does remains: 0 * NaN is NaN."""
    idle = [term for term in layer.terms if _idle(layer, term)]
    spoils = not all(isinstance(term, BasisTerm) and term.basis.compact for term in idle)
    terms = tuple(term for term in layer.terms if term not in idle)
    return dataclasses.replace(layer, terms=terms, spread=layer.spread | spoils) if idle else layer


def _idle(layer: Layer, term: Term) -> bool:
    """Whether a term adds nothing to finite values, and to others nothing, or NaN on every edge."""
    if not isinstance(term, BasisTerm) or term.before or (term.coef * layer.mask[:, :, None]).any():
        return False
    if term.basis.compact or layer.spread.all():
        return True
    with np.errstate(all="ignore"):
        values = term.basis.evaluate(np.array([[np.nan], [np.inf], [-np.inf]]) * np.ones(layer.sources))
    return not np.isfinite(values).all(axis=1).any()


def _sums(g: Graph, layer: Layer, x: Value) -> Value:
    """[B, I] -> [B, O]: the sum over the sources of every edge, plus the bias."""
    total = _start(g, layer, x)
    for term in layer.terms:
        if isinstance(term, EdgeTerm):
            total = g.add(total, g.sum(_edge_term(g, layer, term, x), axis=1))
            continue
        basis, coef = _term(g, layer, term, x)
        if term.basis.functions > 1:
            basis = g.reshape(basis, 0, term.basis.functions * layer.sources)
        weights = coef.transpose(2, 0, 1).reshape(-1, layer.destinations)  # [K * I, O]
        total = g.gemm(basis, g.const(weights), total)
    if layer.symbolic:
        total = g.add(total, g.sum(_symbolic_table(g, layer, x), axis=1))
    if layer.spread.any() and not layer.spread.all():
        # Counted, because 0 * NaN would reach destinations that have no such edge.
        spoilt = g.gemm(g.cast(_nonfinite(g, x)), g.const(layer.spread))
        total = g.op("Where", g.op("Greater", spoilt, g.const(0.0)), g.nan(), total)
    return total


def _start(g: Graph, layer: Layer, x: Value) -> Value:
    """What the sums start from, [B, 1], [1, O] or [B, O]: the bias, and NaN in every
    row with a non-finite source where that spreads (x - x is zero or NaN)."""
    bias = g.const(layer.bias[None])
    if layer.terms and not layer.spread.all():
        return bias
    spread = g.sum(g.sub(x, x), axis=1, keepdims=True)
    if not layer.spread.all():  # no terms: only the batch axis is wanted
        spread = g.op("Where", g.op("IsNaN", spread), g.const(0.0), spread)
    return g.add(spread, bias) if layer.bias.any() or not layer.terms else spread


def _nonfinite(g: Graph, x: Value) -> Value:
    """Booleans of x's shape."""
    return g.op("IsNaN", g.sub(x, x))


def _edge_values(g: Graph, layer: Layer, x: Value) -> Value:
    """[B, I] -> [B, I, O]: every edge by itself."""
    parts = []
    for term in layer.terms:
        if isinstance(term, EdgeTerm):
            parts.append(_edge_term(g, layer, term, x))
            continue
        basis, coef = _term(g, layer, term, x)
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
    if layer.spread.all():
        return g.add(total, g.reshape(g.sub(x, x), 0, layer.sources, 1))
    spoilt = g.op("And", g.reshape(_nonfinite(g, x), 0, layer.sources, 1), g.truth(layer.spread[None]))
    return g.op("Where", spoilt, g.nan(), total)


def _term(g: Graph, layer: Layer, term: BasisTerm, x: Value) -> tuple[Value, Array]:
    """The emitted basis [B, K, I], or [B, I] where K is 1, and the coefficients [I, O, K] that belong to it."""
    for step in term.before:
        x = step.emit(g, x)
    if term.basis.compact and not layer.spread.all():
        low = g.const(term.basis.support(layer.sources).outer[0])
        x = g.op("Where", g.op("IsNaN", x), low, x)
    with np.errstate(over="ignore"):  # the graph refuses what is not finite
        coef = term.coef * layer.mask[:, :, None] * term.basis.emitted_scale(g)
    return term.basis.emit(g, x, layer.sources), coef


def _edge_term(g: Graph, layer: Layer, term: EdgeTerm, x: Value) -> Value:
    """[B, I] -> [B, I, O]: a function that every edge shifts and stretches for itself."""
    if term.functions == 1:  # a reduction less
        centre, rate, coef = (
            term.centre[None, :, :, 0],
            term.rate[None, :, :, 0],
            (term.coef * layer.mask[:, :, None])[None, :, :, 0],
        )
        inner = g.mul(g.sub(g.reshape(x, 0, layer.sources, 1), g.const(centre)), g.const(rate))
        return g.mul(term.function.emit(g, inner), g.const(coef))
    # [B, I, K, O]: the reduction over K then runs over whole rows of O.
    centre, rate, coef = (
        a.transpose(0, 2, 1)[None] for a in (term.centre, term.rate, term.coef * layer.mask[:, :, None])
    )
    inner = g.mul(g.sub(g.reshape(x, 0, layer.sources, 1, 1), g.const(centre)), g.const(rate))
    return g.sum(g.mul(term.function.emit(g, inner), g.const(coef)), axis=2)


def _symbolic_columns(g: Graph, layer: Layer, x: Value) -> tuple[Value, list[SymbolicEdge]]:
    """[B, E + 1]: the value of every symbolic edge, and a last column of zeros."""
    ordered = sorted(layer.symbolic, key=lambda edge: edge.function.name)
    columns = []
    for name in sorted({edge.function.name for edge in ordered}):
        group = [edge for edge in ordered if edge.function.name == name]
        inner = g.gather(x, [edge.source for edge in group], axis=1)
        inner = _affine(g, inner, [edge.a for edge in group], [edge.b for edge in group])
        outer = group[0].function.emit(g, inner)
        scale = [edge.mask * edge.c for edge in group]
        columns.append(_affine(g, outer, scale, [edge.mask * edge.d for edge in group]))
    joined = g.op("Concat", *columns, axis=1) if len(columns) > 1 else columns[0]
    return g.op("Pad", joined, g.index([0, 0, 0, 1]), g.const(0.0)), ordered


def _affine(g: Graph, x: Value, scale: list[float], bias: list[float]) -> Value:
    return g.add(g.mul(x, g.const([scale])), g.const([bias]))


def _symbolic_table(g: Graph, layer: Layer, x: Value) -> Value:
    """[B, D, O]: the symbolic values of each destination, padded with zeros to D.

    A gather and a sum, not a matrix product: NaN on one edge must reach its own
    destination only.
    """
    columns, ordered = _symbolic_columns(g, layer, x)
    incoming: list[list[int]] = [[] for _ in range(layer.destinations)]
    for at, edge in enumerate(ordered):
        incoming[edge.destination].append(at)
    depth = max(len(column) for column in incoming)
    zero = len(ordered)
    table = [column + [zero] * (depth - len(column)) for column in incoming]
    flat = np.array(table, dtype=np.int64).T.reshape(-1)  # [D * O]
    return g.reshape(g.gather(columns, flat, axis=1), 0, depth, layer.destinations)


def _symbolic_edges(g: Graph, layer: Layer, x: Value) -> Value:
    """[B, I, O]: symbolic values where an edge has one, zero elsewhere."""
    columns, ordered = _symbolic_columns(g, layer, x)
    place = np.full(layer.mask.shape, len(ordered), dtype=np.int64)
    for at, edge in enumerate(ordered):
        place[edge.source, edge.destination] = at
    return g.reshape(g.gather(columns, place.reshape(-1), axis=1), 0, layer.sources, layer.destinations)
