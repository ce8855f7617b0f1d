"""Curves in the basis of an edge that are nearest to a target curve, in least squares over the grid.

Bounds and monotonicity are bounds on the coefficients. A B-spline on increasing knots is within the range of its
coefficients on the grid, and it is monotone there if its coefficients are (de Boor, A Practical Guide to Splines, 2001,
chapters IX and XI). For degrees 1 and 2 the condition is also necessary; for a higher degree there may be a nearer
monotone spline. Between its points, a piecewise linear function is within the range of its values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis
from kanexport.bases.bspline import BSpline
from kanexport.bases.piecewise_linear import Hats
from kanexport.edit import bounded
from kanexport.edit.edge import NOT_SUPPORTED, WITH_TO, Edge, no_basis, spline_term
from kanexport.errors import REPORT, InvalidKan, OptionError
from kanexport.ir.model import Layer

Array = npt.NDArray[np.float64]

CELL_POINTS = 8  # Gauss points of a grid interval
LARGEST = 512  # coefficients of a curve with bounds; the time grows with the fourth power
CHECKED = 2001  # points at which the result is measured
RISE = 1e-6  # of the range of the curve, that a coefficient of a monotone curve differs from the next one, at least
ROUNDING = 1e-9  # of the largest value, that a bound may be exceeded by


@dataclass(frozen=True, slots=True)
class Fitted:
    """Layer with the fitted curve, and its largest and root mean square difference from the target: over the grid,
    or at the points of the user."""

    layer: Layer
    error_max: float
    error_rms: float


@dataclass(frozen=True, slots=True)
class _Bounded:
    """Variables v with coefficients `matrix` @ v, and their bounds."""

    matrix: Array
    low: Array
    high: Array


def points(edge: Edge, x: Array, y: Array) -> Fitted:
    """The curve nearest to points [n]. Where they leave coefficients free, the curve stays. Raises OptionError for
    points outside the grid, and InvalidKan."""
    at, _ = _largest_term(edge)
    low, high = edge.grid()
    outside = np.flatnonzero((x < low) | (x > high))
    if len(outside):
        raise OptionError(
            f"edge {edge.name}: the point x = {x[outside[0]]:.6g} is outside the grid {low:.6g} to {high:.6g}",
            code="point-out-of-grid",
            hint="remove the points outside the grid, where the basis has no functions to fit",
        )
    design = edge.design(edge.layer.terms[at], x)
    layer = _changed(edge, at, design, y - edge.values(x))
    return _measured(edge, layer, x, y)


def nearest(edge: Edge, target: Array, x: Array, weights: Array) -> Fitted:
    """The curve nearest to the values `target` at the points x [n] of `grid_points`. The other terms stay."""
    at, _ = _largest_term(edge)
    root = np.sqrt(weights)
    design = edge.design(edge.layer.terms[at], x) * root[:, None]
    layer = _changed(edge, at, design, (target - edge.values(x)) * root)
    return _measured(edge, layer, x, target)


def _changed(edge: Edge, at: int, design: Array, missing: Array) -> Layer:
    """The layer with the smallest change of the coefficients that adds `missing`."""
    present = edge.layer.terms[at].coef[edge.source, edge.destination] * edge.mask
    change, *_ = np.linalg.lstsq(design, missing, rcond=None)
    return edge.with_coefficients(at, present + change, others=True)


def _largest_term(edge: Edge) -> tuple[int, int]:
    """The number of the term to fit, and the number of its functions. An edge without a basis has a term with one
    function for each edge. Raises InvalidKan."""
    own = [(at, term.functions) for at, term in enumerate(edge.layer.terms) if not term.pre_steps]
    if not own or not edge.numeric:
        raise no_basis(edge)
    return max(own, key=lambda pair: pair[1])


def clamp(edge: Edge, low: float, high: float) -> Fitted:
    """The nearest curve within [low, high] on the grid. All terms of the edge become one. Raises InvalidKan for a basis
    without bounds."""
    at, term = spline_term(edge)
    functions = term.functions
    ends = np.full(functions, low), np.full(functions, high)
    if isinstance(term.basis, Hats):  # constant beyond the ends
        ends[0][-2:], ends[1][-2:] = 0.0, 0.0
    fitted, y = _with_bounds(edge, at, term.basis, _Bounded(np.eye(functions), *ends), lambda y: np.clip(y, low, high))
    room = ROUNDING * max(1.0, abs(low), abs(high))
    _require(bool((y >= low - room).all() and (y <= high + room).all()), edge, "exceeds its bounds")
    return fitted


def monotone(edge: Edge, *, up: bool) -> Fitted:
    """The nearest curve whose coefficients rise or fall by at least `RISE`: certificates then decide its direction. All
    terms of the edge become one. Raises InvalidKan for a basis without such coefficients."""
    at, term = spline_term(edge)
    lines = 2 if isinstance(term.basis, Hats) else 0
    k = term.functions - lines
    matrix = np.zeros((term.functions, term.functions))
    matrix[:k, :k] = np.tril(np.ones((k, k)))  # coefficients are sums of steps
    matrix[k:, k:] = np.eye(lines)
    least = np.zeros(term.functions)
    least[:k] = RISE * float(np.ptp(edge.values(np.linspace(*edge.grid(), CHECKED))))
    none = np.full(term.functions, np.inf)
    low, high = (least, none) if up else (-none, -least)
    low[0], high[0] = -np.inf, np.inf
    fitted, y = _with_bounds(edge, at, term.basis, _Bounded(matrix, low, high), lambda y: y)
    steps = np.diff(y) if up else -np.diff(y)
    _require(bool((steps >= -ROUNDING * max(1.0, float(np.abs(y).max()))).all()), edge, "is not monotone")
    return fitted


def _with_bounds(
    edge: Edge, at: int, basis: Basis, form: _Bounded, of_target: Callable[[Array], Array]
) -> tuple[Fitted, Array]:
    """The fit, and the new curve at points of the grid. Raises InvalidKan for a basis whose coefficients do not bound
    the curve, or with too many of them."""
    if not (isinstance(basis, Hats) or (isinstance(basis, BSpline) and basis.increasing)):
        raise InvalidKan(
            f"edge {edge.name}: coefficients of {basis.kind} do not bound its curve",
            code=NOT_SUPPORTED,
            hint=f"{WITH_TO}, or pass points of a curve with --points",
        )
    if basis.functions > LARGEST:
        raise InvalidKan(
            f"edge {edge.name} has {basis.functions} coefficients, expected at most {LARGEST} for this operation",
            code=NOT_SUPPORTED,
            hint="pass points of a curve with --points",
        )
    x, weights = grid_points(edge)
    root = np.sqrt(weights)
    design = edge.design(edge.layer.terms[at], x) @ form.matrix * root[:, None]
    present = edge.layer.terms[at].coef[edge.source, edge.destination] * edge.mask
    start = np.linalg.solve(form.matrix, present)
    solution = bounded.solve(design, of_target(edge.values(x)) * root, form.low, form.high, start)
    layer = edge.with_coefficients(at, form.matrix @ solution, others=False)
    dense = np.linspace(*edge.grid(), CHECKED)
    after = edge.on(layer)
    return _measured(edge, layer, dense, of_target(edge.values(dense))), after.values(dense)


def grid_points(edge: Edge) -> tuple[Array, Array]:
    """Gauss points of each interval between the knots of the grid, and their weights, [n] each. A weighted sum
    approximates the mean over the grid."""
    low, high = edge.grid()
    knots = edge.knots()
    ends = np.unique(np.concatenate([[low], knots[(knots > low) & (knots < high)], [high]]))
    nodes, weights = np.polynomial.legendre.leggauss(CELL_POINTS)
    half = np.diff(ends)[:, None] / 2
    x = ends[:-1, None] + half * (1 + nodes)
    return x.ravel(), (half * weights).ravel() / (high - low)


def _measured(edge: Edge, layer: Layer, x: Array, target: Array) -> Fitted:
    difference = edge.on(layer).values(x) - target
    return Fitted(layer, float(np.abs(difference).max()), float(np.sqrt(np.mean(difference**2))))


def _require(holds: bool, edge: Edge, what: str) -> None:
    if not holds:
        raise InvalidKan(f"the fitted curve of edge {edge.name} {what}", code="internal-check-failed", hint=REPORT)
