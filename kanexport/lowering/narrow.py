"""Layers of few destinations: all terms as columns of one matrix product, splines by what is cheap to compute.

With few destinations a matrix product costs less than the operators that make its columns, so splines are summed over
more and simpler columns than B-splines. On each cell c of knots t a spline s of degree p is a polynomial in the
ramp r_c = clip((x - t_c) / (t_{c+1} - t_c), 0, 1), which is 0 before the cell and 1 behind it. So for any knots that
increase

    s(x) = sum_c sum_q a_qc r_c^q        q = 1 to p, sum_q a_qc = s(t_{c+1}) - s(t_c)

written with r_c and, in place of the other powers, r_c^q (1 - r_c) for q = 1 to p - 1: they are zero behind the cell,
where else large weights would have to cancel. Splines of degree 3 on uniform knots take fewer columns. With the hat
h_c = (1 - |x - t_c| / step)+ around every inner knot, and a_c for the coefficient of the spline whose middle is t_c, it
is the interpolation by values and second derivatives

    s(x) = sum_c a_c h_c + (a_{c-1} - 2 a_c + a_{c+1}) / 6 * h_c^3

Of few sources, x - t for all of them is one matrix product too: with ones and zeros, so nothing is rounded that
a subtraction would not round. Runs over short rows cost onnxruntime several times as much. Outside of its knots a
spline is zero but for rounding, where other forms give zeros.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.bases.bspline import BSpline
from kanexport.form.ir import BasisTerm, EdgeTerm, Layer
from kanexport.lowering import cost, simplify, terms
from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]
Columns = list[tuple[Value, Array]]  # values [B, n], and what they weigh [n, O]


def fits(g: Graph, layer: Layer) -> bool:
    """Whether a layer is summed in this form."""
    return g.dtype == np.float32 and not g.small_values and cost.narrow(layer)


def summed(g: Graph, layer: Layer, x: Value, total: Value) -> Value:
    """[B, I] and what the sums start from -> [B, O]: all terms, summed over the sources."""
    columns: Columns = []
    for term in layer.terms:
        if isinstance(term, EdgeTerm):
            total = terms.summed(g, layer, term, x, total)
        elif isinstance(term.basis, BSpline):
            columns += _spline(g, layer, term, term.basis, x)
        else:
            columns.append(_other(g, layer, term, x))
    values = [value for value, _ in columns]
    joined = g.op("Concat", *values, axis=1) if len(values) > 1 else values[0]
    return g.gemm(joined, g.const(np.concatenate([weights for _, weights in columns])), total)


def _other(g: Graph, layer: Layer, term: BasisTerm, x: Value) -> tuple[Value, Array]:
    basis = terms.basis_term(g, layer, term, x)
    if term.functions > 1:
        basis = g.reshape(basis, 0, term.functions * layer.sources)
    return basis, _flat(simplify.coefficients(layer, term, term.basis.emitted_scale(g)))


def _spline(g: Graph, layer: Layer, term: BasisTerm, spline: BSpline, x: Value) -> Columns:
    x = terms.sources(g, layer, term, x)
    coefficients = simplify.coefficients(layer, term)
    if spline.closed_form(g.dtype):
        return _hats(g, spline, coefficients, x)
    return _powers(g, spline, coefficients, x)


def _hats(g: Graph, spline: BSpline, coefficients: Array, x: Value) -> Columns:
    step = spline.step
    assert step is not None
    distance = g.op("Abs", _less(g, spline, spline.extended[:, 1:-1], x))
    hats = g.hard_sigmoid(distance, alpha=-1 / step, beta=1.0)
    padded = np.pad(coefficients, ((0, 0), (0, 0), (2, 2)))
    second = padded[:, :, :-2] - 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return [(hats, _flat(padded[:, :, 1:-1])), (g.pow(hats, 3.0), _flat(second / 6))]


def _powers(g: Graph, spline: BSpline, coefficients: Array, x: Value) -> Columns:
    width = np.diff(spline.extended, axis=1)
    with np.errstate(over="ignore"):  # the graph refuses what is not finite
        slope = (1 / width).T.reshape(1, -1)
    ramps = g.hard_sigmoid(g.mul(_less(g, spline, spline.extended[:, :-1], x), g.const(slope)), alpha=1.0, beta=0.0)
    weights = _polynomials(spline, coefficients)
    columns = [(ramps, _flat(np.sum(weights, axis=0)))]
    if spline.degree > 1:
        local = g.sub(ramps, g.mul(ramps, ramps))
        columns.append((local, _flat(-np.sum(weights[1:], axis=0))))
        for q in range(2, spline.degree):
            local = g.mul(local, ramps)
            columns.append((local, _flat(-np.sum(weights[q:], axis=0))))
    return columns


def _polynomials(spline: BSpline, coefficients: Array) -> list[Array]:
    """[I, O, K] -> a_q [I, O, T - 1] for q = 1 to the degree: from values inside of every cell."""
    t, count = spline.extended, spline.degree + 1
    places = (np.arange(count) + 0.5) / count
    x = t[:, :-1, None] + np.diff(t, axis=1)[:, :, None] * places  # [I, cells, count]
    basis = spline.evaluate(x.reshape(len(t), -1).T)  # [cells * count, K, I]
    values = (coefficients @ basis.transpose(2, 1, 0)).reshape(*coefficients.shape[:2], -1, count)
    found = values @ np.linalg.inv(np.vander(places, increasing=True)).T  # [I, O, cells, count]
    return [found[..., q] for q in range(1, count)]


def _less(g: Graph, spline: BSpline, points: Array, x: Value) -> Value:
    """x [B, I] less points [I, n] -> [B, n * I]"""
    sources, count = points.shape
    if sources > cost.FEW_SOURCES:
        apart = g.sub(g.reshape(x, 0, 1, sources), g.const(points.T[None]))
        return g.reshape(apart, 0, count * sources)
    # An infinity times zero is NaN; beyond the knots nothing changes.
    x = g.clip(x, *spline.around())
    spread = np.tile(np.eye(sources), (1, count))
    return g.gemm(x, g.const(spread), g.const(-points.T.reshape(1, -1)))


def _flat(weights: Array) -> Array:
    """[I, O, n] -> [n * I, O]"""
    return np.asarray(weights.transpose(2, 0, 1).reshape(-1, weights.shape[1]))
