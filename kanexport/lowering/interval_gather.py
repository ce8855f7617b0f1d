"""Splines on fine, nearly uniform grids: only the coefficients of a value's grid interval are read and multiplied.

At most 4 of the G + 3 cubic functions of a source are not zero. For each value, the graph gathers the 4 rows of
coefficients that belong to them, [B, 4 I, O], and multiplies them by the 4 values. That is faster than all functions
and one matrix product, if the grid is fine and the destinations are few. Measured on two cores, one thread, 64
sources: the time of all functions divided by the time of this form (medians in turns).

| destinations, grid intervals | 1 row | 64 rows | 256 rows |
|---|---|---|---|
| 64, 50 | 1.3 | 1.4 | 1.3 |
| 10, 50 | 1.3 | 2.9 | 3.0 |
| 64, 20 | 0.9 | 0.4 | 0.5 |
| 10, 20 | 0.9 | 1.0 | 1.2 |

One form scattered the 4 values into zeros for one matrix product. One multiplied the functions of a few intervals by
the place of a value among such groups. Both are at 64 rows 0.6 (10 destinations) and 1.1 times (64 destinations) as
fast as this one, and slower at one row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.bases.bspline import BSpline, cubic_at_distance
from kanexport.bases.uniform_bspline import UniformSpline, placed
from kanexport.graph.builder import Graph, Value
from kanexport.graph.precision import FULL
from kanexport.ir.model import BasisTerm, Layer, Term
from kanexport.lowering import terms

DEGREE = 3
LIVE = DEGREE + 1  # functions that are not zero in a grid interval
# Nanoseconds of a value: of each function and its column of the product, and of the gathered rows.
FUNCTION, COLUMN = 3.4, 0.02
ROWS, NUMBER = 60.0, 2.4
LARGEST = 128  # functions of a source, so that places in a grid keep their digits
INDICES = 2**24  # whole numbers below are exact in float32


Array = npt.NDArray[np.float64]


def fits(g: Graph, layer: Layer, term: Term) -> bool:
    """Whether this form of a term is faster than all functions."""
    if g.dtype != np.float32 or not isinstance(term, BasisTerm) or term.stored != FULL:
        return False
    spline = _spline(term)
    if spline is None or term.functions > LARGEST or term.functions * layer.sources > INDICES:
        return False
    dense = term.functions * (FUNCTION + COLUMN * layer.destinations)
    return ROWS + NUMBER * layer.destinations < dense


def _spline(term: BasisTerm) -> BSpline | None:
    """The cubic spline of a term, if it is emitted in closed form."""
    basis = term.basis
    if isinstance(basis, UniformSpline):
        return basis.spline if basis.spline.degree == DEGREE else None
    return basis if isinstance(basis, BSpline) and basis.closed_form(np.float32) else None


def summed(g: Graph, layer: Layer, term: BasisTerm, x: Value) -> Value:
    """[B, I] -> [B, O]: the term, summed over the sources."""
    spline = _spline(term)
    assert spline is not None
    sources, destinations = layer.sources, layer.destinations
    x, centres, step = placed(g, spline, terms.sources(g, layer, term, x))
    # [B, 4, I], int32: the rows k I + i of the functions k of the grid interval of each value. Beyond the grid and for
    # NaN it is an interval at the end, whose functions are all that are not zero there.
    last, middle = len(centres) - LIVE, len(centres) // 2  # `last`: the first function of the last interval
    place = g.mul(g.sub(x, g.const(centres[middle : middle + 1])), g.const(1 / step))
    first = g.clip(g.op("Floor", place), 1 - middle, last + 1 - middle)
    row = g.whole(g.mul(first, g.const(float(sources))))
    ends = ((end + 1 - middle) * sources for end in (0, last))
    row = g.op("Clip", row, *(g.raw(np.array(end, np.int32)) for end in ends))  # NaN is any int32
    functions = (np.arange(LIVE)[:, None] + middle - 1) * sources + np.arange(sources)
    rows = g.add(g.reshape(row, 0, 1, sources), g.raw(functions[None].astype(np.int32)))
    flat = np.broadcast_to(centres, (spline.functions, sources)).reshape(-1)
    nearest = g.op("Gather", g.const(flat), rows, axis=0)
    distance = g.op("Abs", g.sub(g.reshape(x, 0, 1, sources), nearest))
    values = g.reshape(cubic_at_distance(g, distance, step), 0, 1, LIVE * sources)
    matrix = terms.weight_matrix(g, layer, term, term.functions * sources, destinations)
    coefficients = g.op("Gather", matrix, g.reshape(rows, 0, LIVE * sources), axis=0)
    return g.reshape(g.op("MatMul", values, coefficients), 0, destinations)
