"""Layouts of the splines of a layer, packed or unpacked, and the choice of the faster one for a batch size.

Measured on two cores with 1 MiB of cache each, one thread, cubic splines on uneven knots, to 64 destinations: the
time packed divided by the time apart (medians in turns; 2 000 to 65 000 values, in several shapes).

| rows x sources | 2 000 | 4 000 | 8 000 | 16 000 | 32 000 | 65 000 |
|---|---|---|---|---|---|---|
| 8 functions | 0.7 | 0.8 | 0.9 to 1.1 | 0.9 to 1.2 | 1.1 to 1.3 | 1.1 to 1.5 |
| 23 functions | 0.6 | 0.6 to 0.9 | 0.8 to 1.1 | 0.6 to 1.2 | 1.1 to 3 | 1.3 to 6 |
| 53 functions | 0.5 to 0.6 | 0.6 to 0.7 | 0.4 to 0.9 | 0.9 to 1.1 | 1.8 to 6 | 5 |

The faster layout depends on rows times sources, the number of values of one function. If it is small, operators cost
more than their arithmetic. If it is large, packed tensors exceed the cache. `benchmarks/layouts.py` measures it again.

Layers of few destinations as columns of one matrix product, against the closed form packed where knots
are uniform and the recursion packed where they are not: the time of those divided by the time of the columns, from 1
to 256 rows.

| sources, destinations | 5 cells, uniform | 20 cells, uniform | 5 cells, uneven | 20 cells, uneven |
|---|---|---|---|---|
| 2, 5 | 1.2 to 2.6 | 1.2 to 3.5 | 2.1 to 4.0 | 2.1 to 4.3 |
| 4, 8 | 1.2 to 2.1 | 1.2 to 2.5 | 2.1 to 3.1 | 2.0 to 3.0 |
| 8, 1 and 8, 16 | 1.1 to 1.6 | 1.2 to 1.8 | 2.0 to 2.4 | 2.0 to 2.3 |
| 16, 4 and 16, 16 | 1.2 | 1.2 to 1.4 | 1.7 to 2.0 | 1.7 to 1.9 |
| 32, 32 | 0.8 to 1.1 | 0.9 to 1.0 | 1.2 to 1.8 | 1.2 to 1.5 |
| 64, 10 | 1.0 to 1.1 | 1.0 to 1.2 | 1.4 to 1.6 | 1.4 to 1.6 |
| 64, 32 | 0.9 to 1.0 | 0.9 to 1.1 | 1.2 to 1.5 | 1.2 to 1.3 |
| 64, 64 | | | 0.9 to 1.1 | |
| 256, 10 | 0.9 to 1.1 | | 1.3 to 1.4 | |
| 784, 10 | 0.8 to 1.1 | | 0.9 to 1.5 | |

With 50 cells [64, 10] takes 1.1 times as long at one row, 0.7 times at 64.

One graph that branches on its rows (`If`) was measured too: at one row 4 to 11 % slower than packed, at 64 rows of
[784, 64, 10] and [256, 256] 0.9 to 1.2 times as fast on eight functions. It is not worth an operator with graphs of its
own, which the server refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform_bspline import DEGREES, NEAR, UniformSpline, departure
from kanexport.graph.builder import Graph, Value
from kanexport.graph.precision import FULL
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer, Term
from kanexport.lowering import passes, terms
from kanexport.lowering.passes import FittedTerm

MANY = 20_000  # values [B, I] of one function, from which tensors apart are surely faster
FUNCTIONS = 64  # of a term; more make thousands of operators, which take long to load

FEW_SOURCES = 16
FEW_DESTINATIONS = 32
COLUMNS = 4000  # functions of all sources


def narrow(layer: Layer) -> bool:
    """Whether a layer in float32 is cheaper as columns of one matrix product."""
    terms = [term for term in layer.terms if isinstance(term, BasisTerm)]
    splines = [term.basis for term in terms if isinstance(term.basis, BSpline)]
    full = all(term.stored == FULL for term in terms)  # other columns have other weights than those that are stored

    def fast(spline: BSpline) -> bool:
        if spline.closed_form(np.float32):
            return layer.sources <= FEW_SOURCES and layer.destinations <= FEW_SOURCES
        small = layer.destinations <= FEW_DESTINATIONS and layer.sources * spline.functions <= COLUMNS
        return small and spline.degree <= 3 and spline.increasing

    return full and bool(splines) and all(map(fast, splines))


def unpacked(layer: Layer, rows: int) -> bool:
    """Whether the splines of a layer are one tensor per function, in batches of this size."""
    if narrow(layer):
        return False
    functions = max((term.functions for term in layer.terms if term.kind == "bspline"), default=0)
    return rows * layer.sources >= MANY and 0 < functions <= FUNCTIONS


def form_notes(layers: Sequence[Layer], rows: int, file: str = "") -> tuple[str, ...]:
    """Notes of the manifest on a graph for batches of more than one row. `file`: its name, if it is a variant next
    to the graph for small batches."""
    if rows == 1:
        return ()
    chosen = [str(at) for at, layer in enumerate(layers) if unpacked(layer, rows)]
    what = "no layer of splines is wide enough for another layout"
    if chosen:
        what = (
            f"splines of layer{'s' * (len(chosen) > 1)} {', '.join(chosen)} without a closed form are one tensor per "
            "function, which is faster for this size and slower for small batches; the results are the same"
        )
    purpose = (
        f"{file} is for batches of {rows} rows"
        if file
        else f"optimized for batches of {rows} rows (--optimize-for-batch)"
    )
    return (f"{purpose}: {what}",)


Array = npt.NDArray[np.float64]
Columns = list[tuple[Value, Array]]  # values [B, n], and what they weigh [n, O]


def fits(g: Graph, layer: Layer) -> bool:
    """Whether a layer is summed in this layout."""
    return g.dtype == np.float32 and not g.small_values and narrow(layer)


def summed(g: Graph, layer: Layer, x: Value, total: Value | None) -> Value:
    """[B, I] and the initial value of the sums, if there is one -> [B, O]: all terms, summed over the sources."""
    columns: Columns = []
    for term in layer.terms:
        if isinstance(term, EdgeTerm):
            total = terms.summed(g, layer, term, x, total)
        elif isinstance(term.basis, BSpline):
            form = _hats if term.basis.closed_form(g.dtype) else _powers
            own = terms.sources(g, layer, term, x)
            columns += form(g, term.basis, passes.coefficients(layer, term), own)
        else:
            basis = terms.basis_term(g, layer, term, x)
            if term.functions > 1:
                basis = g.reshape(basis, 0, term.functions * layer.sources)
            columns.append((basis, _flat(passes.coefficients(layer, term, term.basis.emitted_scale(g)))))
    values = [value for value, _ in columns]
    joined = g.op("Concat", *values, axis=1) if len(values) > 1 else values[0]
    return g.gemm(joined, g.const(np.concatenate([weights for _, weights in columns])), total)


def _hats(g: Graph, spline: BSpline, coefficients: Array, x: Value) -> Columns:
    step = spline.step
    assert step is not None
    distance = g.op("Abs", _less(g, spline, spline.extended[:, 1:-1], x))
    hats = g.hard_sigmoid(distance, alpha=-1 / step, beta=1.0)
    padded = np.pad(coefficients, ((0, 0), (0, 0), (2, 2)))
    second = padded[:, :, :-2] - 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return [(hats, _flat(padded[:, :, 1:-1])), (g.cube(hats), _flat(second / 6))]


def _powers(g: Graph, spline: BSpline, coefficients: Array, x: Value) -> Columns:
    width = np.diff(spline.extended, axis=1)
    with np.errstate(over="ignore"):  # the graph refuses what is not finite
        slope = (1 / width).T.reshape(1, -1)
    ramps = g.hard_sigmoid(g.mul(_less(g, spline, spline.extended[:, :-1], x), g.const(slope)), alpha=1.0, beta=0.0)
    # a_q [I, O, T - 1] for q = 1 to the degree: from values inside of every grid interval.
    t, count = spline.extended, spline.degree + 1
    places = (np.arange(count) + 0.5) / count
    inner = t[:, :-1, None] + np.diff(t, axis=1)[:, :, None] * places  # [I, cells, count]
    basis = spline.evaluate(inner.reshape(len(t), -1).T)  # [cells * count, K, I]
    values = (coefficients @ basis.transpose(2, 1, 0)).reshape(*coefficients.shape[:2], -1, count)
    powers = values @ np.linalg.inv(np.vander(places, increasing=True)).T  # [I, O, cells, count]
    weights = [powers[..., q] for q in range(1, count)]
    columns = [(ramps, _flat(np.sum(weights, axis=0)))]
    if spline.degree > 1:
        local = g.sub(ramps, g.mul(ramps, ramps))
        columns.append((local, _flat(-np.sum(weights[1:], axis=0))))
        for q in range(2, spline.degree):
            local = g.mul(local, ramps)
            columns.append((local, _flat(-np.sum(weights[q:], axis=0))))
    return columns


def _less(g: Graph, spline: BSpline, points: Array, x: Value) -> Value:
    """x [B, I] minus points [I, n] -> [B, n * I]"""
    sources, count = points.shape
    if sources > FEW_SOURCES:
        distances = g.sub(g.reshape(x, 0, 1, sources), g.const(points.T[None]))
        return g.reshape(distances, 0, count * sources)
    # An infinity times zero is NaN; beyond the knots nothing changes.
    x = g.clip(x, *spline.clip_range())
    spread = np.tile(np.eye(sources), (1, count))
    return g.gemm(x, g.const(spread), g.const(-points.T.reshape(1, -1)))


def _flat(weights: Array) -> Array:
    """[I, O, n] -> [n * I, O]"""
    return np.asarray(weights.transpose(2, 0, 1).reshape(-1, weights.shape[1]))


def uniform_layers(kan: Kan, dtype: str) -> dict[int, float]:
    """The numbers of the layers that have no closed form unless they count as uniform, and the departure of their
    knots from uniform knots, in grid intervals."""
    if np.dtype(dtype) != np.float32:
        return {}
    # Layers of few sources are faster in another form, which has the stored knots.
    wide = {at: layer for at, layer in enumerate(kan.layers) if layer.sources > FEW_SOURCES or not narrow(layer)}
    splines = {at: [spline for term in layer.terms if (spline := _near(term))] for at, layer in wide.items()}
    return {at: max(map(departure, near_splines)) for at, near_splines in splines.items() if near_splines}


def with_uniform_knots(kan: Kan, chosen: Collection[int]) -> Kan:
    """The network with the splines of these layers in closed form."""
    if not chosen:
        return kan
    layers = list(kan.layers)
    for at in chosen:
        changed: list[Term] = []
        for term in layers[at].terms:
            if isinstance(term, BasisTerm) and (spline := _near(term)) is not None:
                basis = UniformSpline(spline)
                term = FittedTerm(basis, term.coef, term.pre_steps, fit=basis.fit)
            changed.append(term)
        layers[at] = dataclasses.replace(layers[at], terms=tuple(changed))
    return dataclasses.replace(kan, layers=tuple(layers))


def _near(term: Term) -> BSpline | None:
    """The splines of a term, if they have no closed form unless they count as uniform."""
    basis = term.basis if isinstance(term, BasisTerm) else None
    if not isinstance(basis, BSpline) or basis.degree not in DEGREES or basis.closed_form(np.float32):
        return None
    return basis if departure(basis) <= NEAR else None


def choices(away: Mapping[int, float]) -> list[tuple[int, ...]]:
    """Sets of the layers in `away` to test together, the largest first, the empty one last. Errors of the first
    layer pass through all others."""
    every = tuple(away)
    return list(dict.fromkeys([every, every[1:], ()]))
