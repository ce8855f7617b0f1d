"""A layer's terms times their coefficients, as operators: summed over sources, or every edge by itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.form.ir import BasisTerm, EdgeTerm, Layer, SymbolicEdge, Term
from kanexport.lowering import simplify
from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]


def nonfinite(g: Graph, x: Value) -> Value:
    """Booleans of x's shape: true at NaN and infinities, where x - x is NaN."""
    return g.op("IsNaN", g.sub(x, x))


def summed(g: Graph, layer: Layer, term: Term, x: Value, total: Value) -> Value:
    """[B, I] and what the sums are so far -> [B, O]: a term times its coefficients, summed over
    the sources. One matrix product [B, K * I] @ [K * I, O] for a basis."""
    if isinstance(term, EdgeTerm):
        return g.add(total, g.sum(_edge_term(g, layer, term, x), axis=1))
    basis, coef = basis_term(g, layer, term, x)
    if term.basis.functions > 1:
        basis = g.reshape(basis, 0, term.basis.functions * layer.sources)
    weights = coef.transpose(2, 0, 1).reshape(-1, layer.destinations)  # [K * I, O]
    return g.gemm(basis, g.const(weights), total)


def apart(g: Graph, layer: Layer, term: Term, x: Value) -> Value:
    """[B, I] -> [B, I, O]: a term times its coefficients, every edge by itself."""
    if isinstance(term, EdgeTerm):
        return _edge_term(g, layer, term, x)
    basis, coef = basis_term(g, layer, term, x)
    if term.basis.functions == 1:
        column = g.reshape(basis, 0, layer.sources, 1)
        return g.mul(column, g.const(coef[None, :, :, 0]))
    by_source = g.transpose(basis, 2, 0, 1)  # [I, B, K]
    return g.transpose(g.op("MatMul", by_source, g.const(coef.transpose(0, 2, 1))), 1, 0, 2)


def basis_term(g: Graph, layer: Layer, term: BasisTerm, x: Value) -> tuple[Value, Array]:
    """The emitted basis [B, K, I], or [B, I] where K is 1, and the coefficients [I, O, K] that belong to it."""
    for step in term.before:
        x = step.emit(g, x)
    # A step before, such as a norm of the whole row, makes NaN of sources that are none.
    if term.basis.compact and (term.before or not layer.nan_spreads.all()):
        low = g.const(term.basis.support(layer.sources).outer[0])
        x = g.op("Where", g.op("IsNaN", x), low, x)
    coef = simplify.coefficients(layer, term, term.basis.emitted_scale(g))
    return term.basis.emit(g, x, layer.sources), coef


def _edge_term(g: Graph, layer: Layer, term: EdgeTerm, x: Value) -> Value:
    """[B, I] -> [B, I, O]: a function that every edge shifts and stretches for itself."""
    coef = simplify.coefficients(layer, term)
    for step in term.before:
        x = step.emit(g, x)
    if term.functions == 1:  # a reduction less
        centre, rate, weight = (
            term.centre[None, :, :, 0],
            term.rate[None, :, :, 0],
            coef[None, :, :, 0],
        )
        inner = g.mul(g.sub(g.reshape(x, 0, layer.sources, 1), g.const(centre)), g.const(rate))
        return g.mul(term.function.emit(g, inner), g.const(weight))
    # [B, I, K, O]: the reduction over K then runs over whole rows of O.
    centre, rate, weight = (a.transpose(0, 2, 1)[None] for a in (term.centre, term.rate, coef))
    inner = g.mul(g.sub(g.reshape(x, 0, layer.sources, 1, 1), g.const(centre)), g.const(rate))
    return g.sum(g.mul(term.function.emit(g, inner), g.const(weight)), axis=2)


def symbolic_columns(g: Graph, layer: Layer, x: Value) -> tuple[Value, list[SymbolicEdge]]:
    """[B, E + 1]: the value of every symbolic edge, and a last column of zeros; and the edges in
    the order of the columns, those of one function beside each other."""
    ordered = sorted(layer.symbolic, key=lambda edge: edge.function.name)
    columns = []
    for name in sorted({edge.function.name for edge in ordered}):
        group = [edge for edge in ordered if edge.function.name == name]
        inner = g.gather(x, [edge.source for edge in group], axis=1)
        inner = _affine(g, inner, [edge.a for edge in group], [edge.b for edge in group])
        outer = group[0].function.emit(g, inner)
        columns.append(_affine(g, outer, *simplify.outer(group)))
    joined = g.op("Concat", *columns, axis=1) if len(columns) > 1 else columns[0]
    return g.op("Pad", joined, g.index([0, 0, 0, 1]), g.const(0.0)), ordered


def _affine(g: Graph, x: Value, scale: list[float], bias: list[float]) -> Value:
    return g.add(g.mul(x, g.const([scale])), g.const([bias]))
