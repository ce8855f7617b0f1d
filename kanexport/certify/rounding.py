"""A-priori bounds of float32 errors: how far a served graph may be from the function that it computes.

The bound covers every form in which `lowering/` writes splines, since it takes the largest of them:

* Stored knots are rounded, and closed forms move them to equal distances. With every knot moved by d, a spline moves
  by at most 4 max |S'| d (the derivative with respect to a knot, Jupp 1978), and a single function by its part.
* The distance to a knot or a center, in cells, has an error of `argument`. The pieces of a spline are polynomials
  with Bernstein coefficients of at most C, its largest coefficient. So the coefficient of u^q is at most
  binomial(p, q) 2^q C, and all are at most 3^p C in sum, in at most p + 2 functions and three neighboring cells.
* A sum of n terms in any order has an error of at most n u / (1 - n u) times the sum of their magnitudes (Higham
  2002, 4.2), with u = 2^-24. A product that adds without rounding (FMA) is within the same bound.

It assumes that a runtime computes sums, products and HardSigmoid by IEEE rounding, and exponential, logistic and
trigonometric functions with an error of at most `FUNCTION` of max(1, |f|).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform_bspline import DEGREES, NEAR, UniformSpline, departure
from kanexport.certify.edges import ULP, Smooth, Spline, Table, refuse

Array = npt.NDArray[np.float64]

UNIT = 2.0**-24  # of float32's rounding
FUNCTION = 1e-6
LARGEST = 1e30  # magnitudes from which on float32 may overflow
FEW = 1024.0  # roundings of the largest coefficient inside of the functions of a source, for degrees up to 3
COARSE = 64  # roundings of a knot that fit into a cell, at least


def of_sums(table: Table, low: Array, high: Array) -> Array:
    """[O]: the bound for the sums of the edges, for sources from low to high [I]. Raises InvalidKan if knots are too
    close for float32, or numbers too large."""
    edges = table.edges
    shape = edges.sources, edges.destinations
    error, magnitude = np.zeros(shape), np.zeros(shape)
    count = 4.0
    for spline in edges.splines:
        part, terms, size = _spline(spline)
        error, magnitude, count = error + part, magnitude + size, count + terms * edges.sources
    for smooth in edges.smooth:
        part, size = _smooth(smooth, low, high)
        error, magnitude, count = error + part, magnitude + size, count + 4 * edges.sources
    for own in table.errors:
        error, magnitude = error + own.single, magnitude + own.magnitude
        count = count + (own.terms + 4) * edges.sources
    total = magnitude.sum(axis=0) + np.abs(edges.constant)
    if not (np.isfinite(error).all() and (total < LARGEST).all()):
        raise refuse("the values of a layer may exceed float32 on this box")
    if count * UNIT > 0.5:
        raise refuse(f"a layer adds {count:.0f} terms, too many for a bound of float32")
    return np.asarray(error.sum(axis=0) + gamma(count) * total)


def in_double(table: Table) -> Array:
    """[O]: the bound for the sums of the edges in the float64 reference. It adds the functions of a source, and then
    the sources, for each term. `Table.rounding` is at least 4 ULP times the largest values of all terms."""
    many = table.edges.sources + 8
    size = np.abs(table.value).max(axis=0).sum(axis=0) + np.abs(table.edges.constant)
    return np.asarray((2 + many / 4) * table.rounding.sum(axis=0) + many * ULP * size)


def gamma(count: float) -> float:
    """The bound of the relative error of a sum with this number of terms."""
    return count * UNIT / (1 - count * UNIT)


def _spline(spline: Spline) -> tuple[Array, float, Array]:
    """The error [I, O] of each spline, the number of terms that are added for a source, and their magnitude [I, O]."""
    basis, largest = spline.basis, spline.largest
    p, narrowest = basis.degree, spline.narrowest[:, None]
    knot = np.abs(basis.extended).max(axis=1)[:, None]
    if not (narrowest > COARSE * UNIT * knot).all():
        raise refuse("two knots are so close that float32 does not separate them")
    moved = 2 * UNIT * knot / narrowest  # in cells, and so below
    closed = basis.closed_form(np.float32)
    away = departure(basis) if p in DEGREES else np.inf
    near = closed or away <= NEAR
    centred = near and not basis.shared
    if near:
        moved = moved + 2 * away
    # The error of a distance in cells, [I, 1].
    argument = np.asarray(UNIT * (16 + 4 * (knot / narrowest) + (4 * basis.extended.shape[1] if centred else 0)))
    error, magnitude, terms = _of_form(basis, largest, moved, argument)
    fit = UniformSpline(basis).fit if near and not closed else None
    if fit is not None:  # twice the largest change of a coefficient by the fit of a closed form
        error = error + np.asarray(2 * np.abs(spline.coefs[0] @ (fit - np.eye(len(fit))).T).max(axis=2))
    variation = np.abs(np.diff(np.pad(spline.coefs[0], ((0, 0), (0, 0), (1, 1))), axis=2)).sum(axis=2)
    return error, terms, magnitude + variation


def _of_form(basis: BSpline, largest: Array, moved: Array, argument: Array) -> tuple[Array, Array, float]:
    """The error and magnitude [I, O] of splines with coefficients of at most `largest`, and the terms of a source, in
    the worst form. `moved`, `argument` [I, 1]: of knots and of distances, in cells.

    Degree 3 and below: a cube of the uniform forms has a slope of at most 2 (wide) or 3.2 (narrow) with respect to its
    distance, and five functions act; three cells of the form by powers have a slope of at most 6 C each. Terms of the
    form by powers are at most C (2 + 20 / 4 + 8 * 4 / 27) in a cell, and in all cells before they add up to the change
    of the spline there, which is at most the variation of the coefficients.
    """
    p = basis.degree
    shifts = 4 * (p + 2) * p * largest * moved
    if p <= 3:
        return shifts + (32 * argument + FEW * UNIT) * largest, 9 * largest, float(basis.extended.shape[1] + 12)
    powers = (p + 2) * 3.0**p * largest
    return shifts + 3 * powers * argument, powers, float(p * basis.extended.shape[1])


def _smooth(part: Smooth, low: Array, high: Array) -> tuple[Array, Array]:
    """The error and the magnitude [I, O] of smooth functions."""
    ends, size = part.ends(low, high), np.abs(part.weight)
    inner = np.maximum(np.abs(ends[0]), np.abs(ends[1])) + 2 * np.abs(part.shift)
    with np.errstate(over="ignore", invalid="ignore"):
        steep = part.curve.slope_limit(*ends)
        value = np.abs(part.curve.value(np.zeros(1))) + steep * inner
        # A product such as x * sigmoid(x) multiplies the error of its function by x.
        error = 4 * UNIT * steep * inner + FUNCTION * (1 + inner + value)
        # The graph multiplies by a weight of zero, too, and zero times infinity is NaN.
        finite = value < LARGEST
        return np.where(finite, size * error, np.inf), np.where(finite, size * value, np.inf)


def of_affine(scale: Array, shift: Array, largest: Array) -> Array:
    """[N]: the error of x * scale + shift, for |x| up to `largest`."""
    return np.asarray(4 * UNIT * (np.abs(scale) * largest + np.abs(shift)))


def of_scaler(offset: Array, scale: Array, low: Array, high: Array) -> Array:
    """[N]: the error of (x - offset) / scale in the two parts of `ir/scaling.py`, for x from low to high."""
    away = np.maximum(np.abs(low - offset), np.abs(high - offset))
    rest = UNIT * np.abs(offset)
    return np.asarray((6 * UNIT * (away + 2 * rest)) / scale)
