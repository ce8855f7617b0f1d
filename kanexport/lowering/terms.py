"""Emission of the terms of a layer times their coefficients: summed over sources, or every edge by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.functions import wavelets
from kanexport.graph import precision
from kanexport.graph.builder import Graph, Value
from kanexport.graph.precision import BYTES
from kanexport.ir.model import BasisTerm, EdgeTerm, Layer, SymbolicEdge, Term
from kanexport.ir.quantized_basis import Stepped
from kanexport.lowering import passes

Array = npt.NDArray[np.float64]


def nonfinite(g: Graph, x: Value) -> Value:
    """Booleans in the shape of x: true for NaN and infinities, for which x - x is NaN."""
    return g.op("IsNaN", g.sub(x, x))


def summed(g: Graph, layer: Layer, term: Term, x: Value, total: Value | None) -> Value:
    """[B, I] and the sums so far, if there are any -> [B, O]: a term times its coefficients, summed over the sources.
    One matrix product [B, K * I] @ [K * I, O] for a basis."""
    if isinstance(term, EdgeTerm):
        values = _edge_functions(g, layer, term, x)
        if term.functions > 1:  # one sum, not one after the other
            values = g.reshape(values, 0, layer.sources * term.functions, layer.destinations)
        return _plus(g, total, g.sum(values, axis=1))
    if isinstance(term.basis, Stepped):  # int8 values of the basis times those of the coefficients, summed as int32
        read = _prepared(g, term, x) if term.basis.by_source else sources(g, layer, term, x)
        codes = term.basis.codes(g, read, layer.sources)
        if not term.basis.compact:  # NaN has no code
            spoilt = g.op("Where", g.op("IsNaN", read), g.nan(), g.const(0.0))
            total = _plus(g, total, g.sum(spoilt, axis=1, keepdims=True, exact=True))
        shape = (term.functions * layer.sources, layer.destinations)
        weights = _codes(g, layer, term, term.basis.by_source, shape)
        products = g.op("MatMulInteger", codes, weights)
        return _plus(g, total, g.mul(g.cast(products), g.const(units(layer, term)[None] * term.basis.unit)))
    basis = basis_term(g, layer, term, x)
    if term.basis.functions > 1:
        basis = g.reshape(basis, 0, term.basis.functions * layer.sources)
    return g.gemm(basis, weight_matrix(g, layer, term, term.functions * layer.sources, layer.destinations), total)


def _plus(g: Graph, total: Value | None, value: Value) -> Value:
    return value if total is None else g.add(total, value)


def by_edge(g: Graph, layer: Layer, term: Term, x: Value) -> Value:
    """[B, I] -> [B, I, O]: a term times its coefficients, every edge by itself."""
    if isinstance(term, EdgeTerm):
        values = _edge_functions(g, layer, term, x)
        return values if term.functions == 1 else g.sum(values, axis=2)
    basis = basis_term(g, layer, term, x)
    if term.basis.functions == 1:
        column = g.reshape(basis, 0, layer.sources, 1)
        return g.mul(column, weight_matrix(g, layer, term, 1, layer.sources, layer.destinations))
    basis = g.transpose(basis, 2, 0, 1)  # [I, B, K], times the coefficients [K, O] of each source
    if g.weights is None or term.stored == BYTES:  # where sums are of bytes, they read these too
        return g.transpose(g.op("MatMul", basis, by_source(g, layer, term)), 1, 0, 2)
    # The graphs of the model share a file. The coefficients are rows of the matrix [K * I, O] that the sums use,
    # gathered a block of sources at a time: a runtime either does that once, when it loads the graph, or never holds
    # more than a block.
    matrix = weight_matrix(g, layer, term, term.functions * layer.sources, layer.destinations)
    first = g.index(np.arange(term.functions)[None] * layer.sources)  # [1, K]: rows of source 0
    parts = []
    for part in passes.blocks(term):
        rows = g.add(g.index(np.arange(part.start, part.stop)[:, None]), first)
        own = basis if part.stop - part.start == layer.sources else g.slice(basis, part.start, part.stop, axis=0)
        parts.append(g.op("MatMul", own, g.op("Gather", matrix, rows, axis=0)))
    return g.transpose(parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=0), 1, 0, 2)


def basis_term(g: Graph, layer: Layer, term: BasisTerm, x: Value) -> Value:
    """The emitted basis [B, K, I], or [B, I] if K is 1."""
    return term.basis.emit(g, sources(g, layer, term, x), layer.sources)


def sources(g: Graph, layer: Layer, term: BasisTerm, x: Value) -> Value:
    """[B, I]: the input of the basis of a term; without NaN, if the basis is compact."""
    return guarded(g, layer, term, _prepared(g, term, x))


def guarded(g: Graph, layer: Layer, term: BasisTerm, x: Value) -> Value:
    """[B, I]: the input of the basis after the steps of the term; without NaN, if the basis is compact."""
    # A step before, such as a norm of the whole row, makes NaN of sources that are none.
    if term.basis.compact and (term.pre_steps or not layer.nan_spreads.all()):
        low = g.const(term.basis.support(layer.sources).outer[0])
        x = g.op("Where", g.op("IsNaN", x), low, x)
    return x


def _prepared(g: Graph, term: Term, x: Value) -> Value:
    for step in term.pre_steps:
        x = step.emit(g, x)
    return x


def _edge_functions(g: Graph, layer: Layer, term: EdgeTerm, x: Value) -> Value:
    """[B, I] -> [B, I, K, O], or [B, I, O] if K is 1: functions with separate shifts and rates for every edge, times
    their coefficients."""
    coef, x = passes.coefficients(layer, term), _prepared(g, term, x)
    weighted = weighted_edges(g, term, coef, x)
    if weighted is not None:
        return weighted
    distance, (rate, weight) = _distances(g, term, x, term.rate, coef)
    return g.mul(term.function.emit(g, g.mul(distance, g.const(rate))), g.const(weight))


def weighted_edges(g: Graph, term: EdgeTerm, coef: Array, x: Value) -> Value | None:
    """The functions of a term times `coef` [I, O, K] in the form of `wavelets.weighted`, if they have one: [B, I] ->
    [B, I, K, O], or [B, I, O] if K is 1."""
    form = wavelets.weighted(g, term.function, term.centre, term.rate)
    if form is None:
        return None
    x = wavelets.bounded(g, term.function, x, term.centre, term.rate)
    distance, (rate, weight) = _distances(g, term, x, term.rate, coef)
    return form(g, distance, rate, weight)


def _distances(g: Graph, term: EdgeTerm, x: Value, *tables: Array) -> tuple[Value, list[Array]]:
    """x [B, I] - centre for each edge, and tables [I, O, K] in the same layout: [., I, K, O], or [., I, O] if K is
    1. Sums over K then run over whole rows of O."""
    sources = len(term.coef)
    if term.functions == 1:
        centre, *others = (a[None, :, :, 0] for a in (term.centre, *tables))
        x = g.reshape(x, 0, sources, 1)
    else:
        centre, *others = (a.transpose(0, 2, 1)[None] for a in (term.centre, *tables))
        x = g.reshape(x, 0, sources, 1, 1)
    return g.sub(x, g.const(centre)), others


def symbolic_columns(g: Graph, layer: Layer, x: Value) -> tuple[Value, list[SymbolicEdge]]:
    """[B, E + 1]: the value of every symbolic edge, and a last column of zeros; and the edges in the order of the
    columns, with edges of the same function next to each other."""
    ordered = sorted(layer.symbolic, key=lambda edge: edge.function.name)
    columns = []
    for name in sorted({edge.function.name for edge in ordered}):
        group = [edge for edge in ordered if edge.function.name == name]
        inner = g.gather(x, [edge.source for edge in group], axis=1)
        inner = _affine(g, inner, [edge.a for edge in group], [edge.b for edge in group])
        outer = group[0].function.emit(g, inner)
        columns.append(_affine(g, outer, *passes.outer(group)))
    joined = g.op("Concat", *columns, axis=1) if len(columns) > 1 else columns[0]
    return g.op("Pad", joined, g.index([0, 0, 0, 1]), g.const(0.0)), ordered


def _affine(g: Graph, x: Value, scale: list[float], bias: list[float]) -> Value:
    return g.add(g.mul(x, g.const([scale])), g.const([bias]))


WeightArray = npt.NDArray[Any]


def weight_matrix(g: Graph, layer: Layer, term: BasisTerm, *shape: int) -> Value:
    """The coefficients of a term in the order [K, I, O], in a shape of the same size."""
    scale = term.basis.emitted_scale(g)
    if term.stored == precision.BYTES:
        return _of_codes(g, layer, term, _codes(g, layer, term, False, shape), scale)
    if term.stored == precision.HALF:
        return _scaled(g, g.cast(_halves(g, layer, term, shape)), scale)

    def make() -> WeightArray:
        weights = np.empty((term.functions, layer.sources, layer.destinations), g.dtype)
        with np.errstate(over="ignore"):  # refused by the graph
            for part in passes.blocks(term):
                weights[:, part] = passes.coefficients(layer, term, scale, part=part).transpose(2, 0, 1)
        return weights

    return g.derived((term.coef, layer.mask, scale), make, shape)


def by_source(g: Graph, layer: Layer, term: BasisTerm) -> Value:
    """The same as [I, K, O], for a graph that keeps its constants."""
    scale = term.basis.emitted_scale(g)
    if term.stored == precision.BYTES:
        shape = (layer.sources, term.functions, layer.destinations)
        return _of_codes(g, layer, term, _codes(g, layer, term, True, shape), scale)
    if term.stored == precision.HALF:
        values = _halves(g, layer, term, (term.functions, layer.sources, layer.destinations))
        return g.transpose(_scaled(g, g.cast(values), scale), 1, 0, 2)
    return g.const(passes.coefficients(layer, term, scale).transpose(0, 2, 1))


def units(layer: Layer, term: BasisTerm) -> npt.NDArray[np.float64]:
    """[O]: the unit of the int8 values of each destination."""
    return precision.scales(passes.coefficients(layer, term))


def _codes(g: Graph, layer: Layer, term: BasisTerm, by_source: bool, shape: tuple[int, ...]) -> Value:
    """The int8 values of a term in the order [I, K, O] or [K, I, O], in a shape of the same size."""

    def make() -> WeightArray:
        values = passes.coefficients(layer, term)
        return precision.codes(values, precision.scales(values)).transpose((0, 2, 1) if by_source else (2, 0, 1))

    return g.derived((term.coef, layer.mask, "by source" if by_source else "by function"), make, shape, np.int8)


def _halves(g: Graph, layer: Layer, term: BasisTerm, shape: tuple[int, ...]) -> Value:
    def make() -> WeightArray:
        return precision.half(passes.coefficients(layer, term)).transpose(2, 0, 1)

    return g.derived((term.coef, layer.mask), make, shape, np.float16)


def _of_codes(g: Graph, layer: Layer, term: BasisTerm, codes: Value, scale: float) -> Value:
    return g.mul(g.cast(codes), g.const(units(layer, term) * scale))


def _scaled(g: Graph, values: Value, scale: float) -> Value:
    return values if scale == 1 else g.mul(values, g.const(scale))
