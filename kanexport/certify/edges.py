"""Facts of the edges of a layer: enclosures of each edge function and of its slope on intervals of its source.

A table has points of each source so close that every edge is nearly a line between two of them. Between neighbours
at a distance h, a function differs from its chord by at most h^2 / 8 * max |f''|. Splines bound their derivatives by
their coefficients: a spline is a convex combination of the coefficients that act in a cell (de Boor 1978), and its
derivative is the spline of q (c_k - c_{k-1}) / (t_{k+q} - t_k) on the same knots.

All arithmetic is float64. `Table.rounding` bounds its error, and every enclosure is widened by it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.certify import curves, families
from kanexport.certify.curves import Curve
from kanexport.certify.interval_terms import KINK, Errors, IntervalTerm, OnCells, Separate, Shared, symbolic
from kanexport.certify.taylor import UnboundedError
from kanexport.errors import InvalidKan
from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC
from kanexport.graph import precision
from kanexport.ir.model import EdgeTerm, Layer, Term

Array = npt.NDArray[np.float64]
# In the cells between points, [n - 1, I, O] each: max |f''| and max |f'''|; terms whose sum is the lowest slope, and
# terms of the highest one.
Bends = tuple[Array, Array, tuple[Array, ...], tuple[Array, ...]]

PARTS = (16, 8, 4, 2, 1)  # of a cell between two knots
OUTSIDE = 4  # times as many parts beyond the knots
NUMBERS = 2e7  # of one array of a table
ULP = 1e-15  # more than four units of float64's rounding, 2^-53
MARGIN = 1 + 1e-9  # of bounds that are products of few numbers
HINT = "docs/guides/explain/certificates.md lists the supported bases, functions and steps"
STEEPEST = 1e200  # a slope that stands for no bound


def refuse(message: str) -> InvalidKan:
    """The error for a network that has no certificate."""
    return InvalidKan(message, code="certificate-not-supported", hint=HINT)


@contextlib.contextmanager
def refusal(what: str) -> Iterator[None]:
    """A context in which an operation without a known bound rejects the certificate. `what`: its place, as text."""
    try:
        yield
    except UnboundedError as error:
        raise refuse(f"{what}: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Spline:
    """Splines of a term. `coefs[m]` [I, O, K + m] are the coefficients of the derivative of order m, for 0 to 3."""

    basis: BSpline
    coefs: tuple[Array, ...]

    @classmethod
    def of(cls, basis: BSpline, coef: Array) -> Spline:
        """The splines with masked coefficients [I, O, K]."""
        coefs = [coef]
        for order in range(1, 4):
            q = basis.degree - order + 1
            if q < 1:
                break
            change = np.diff(np.pad(coefs[-1], ((0, 0), (0, 0), (1, 1))), axis=2)
            width = basis.extended[:, q:] - basis.extended[:, :-q]
            coefs.append(q * change / width[:, None, :])
        return cls(basis, tuple(coefs))

    @property
    def largest(self) -> Array:
        """[I, O]: the largest coefficient, a bound of each spline."""
        return np.asarray(np.abs(self.coefs[0]).max(axis=2))

    @property
    def narrowest(self) -> Array:
        """[I]: the width of the narrowest cell."""
        return np.asarray(np.diff(self.basis.extended, axis=1).min(axis=1))

    def rounding(self, order: int) -> Array:
        """[I, O]: a bound of the error of the derivative of an order in float64."""
        operations = 16 * self.basis.degree + self.basis.functions + 16
        size = (2 * self.basis.degree / self.narrowest[:, None]) ** order
        return np.asarray(ULP * operations * size * self.largest)

    def values(self, x: Array, order: int = 0) -> Array:
        """[B, I] -> [B, I, O]: the derivative of order 0 or 1. Splines of degree 1 have no slope at a knot."""
        q = self.basis.degree - order
        if q < 1:
            return np.zeros((*x.shape, self.coefs[0].shape[1]))
        basis = self.basis if order == 0 else BSpline(self.basis.extended, q)
        return np.asarray(np.einsum("bki,iok->bio", basis.evaluate(x), self.coefs[order], optimize=True))

    def in_cells(self, order: int, middles: Array) -> tuple[Array, Array]:
        """[n, I, O] twice: the smallest and largest coefficient of a derivative in the cells with these middles
        [n, I]; zero beyond the knots."""
        q = self.basis.degree - order
        shape = (*middles.shape, self.coefs[0].shape[1])
        low, high = np.zeros(shape), np.zeros(shape)
        if q < 0:
            return low, high
        for at, knots in enumerate(self.basis.extended):
            coef = self.coefs[order][at].T  # [K, O]
            cell = np.searchsorted(knots, middles[:, at], side="right") - 1
            inside = (cell >= 0) & (cell < len(knots) - 1)
            active = cell[:, None] - np.arange(q + 1)  # [n, q + 1]
            known = (active >= 0) & (active < len(coef))
            values = np.where(known[:, :, None], coef[np.clip(active, 0, len(coef) - 1)], 0.0)
            low[:, at] = np.where(inside[:, None], values.min(axis=1), 0.0)
            high[:, at] = np.where(inside[:, None], values.max(axis=1), 0.0)
        return low, high

    def bends(self, x: Array) -> Bends:
        """The bounds in the cells between points x [n, I], from the coefficients of the derivatives."""
        middles = (x[:-1] + x[1:]) / 2
        low, high = self.in_cells(1, middles)
        second, third = (self._largest_in_cells(order, middles) for order in (2, 3))
        return second, third, (low,), (high,)

    def _largest_in_cells(self, order: int, middles: Array) -> Array:
        low, high = self.in_cells(order, middles)
        rounding = self.rounding(order) if order <= self.basis.degree else 0.0
        return np.asarray(np.maximum(np.abs(low), np.abs(high)) * MARGIN + rounding)


@dataclass(frozen=True, slots=True, eq=False)
class Smooth:
    """weight * curve(rate * x + shift), [I, O] each; of a base activation, or of a symbolic edge."""

    curve: Curve
    weight: Array
    rate: Array
    shift: Array

    def inner(self, x: Array) -> Array:
        """[B, I] -> [B, I, O]"""
        return np.asarray(x[:, :, None] * self.rate + self.shift)

    def values(self, x: Array) -> Array:
        """[B, I] -> [B, I, O]"""
        return np.where(self.weight == 0, 0.0, self.weight * self.curve.value(self.inner(x)))

    def slope(self, x: Array) -> Array:
        """[B, I] -> [B, I, O]"""
        return np.where(self.weight == 0, 0.0, self.weight * self.rate * self.curve.slope(self.inner(x)))

    def ends(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Ends of the inner value between low and high [..., I], [..., I, O] each."""
        a, b = low[..., None] * self.rate + self.shift, high[..., None] * self.rate + self.shift
        return np.minimum(a, b), np.maximum(a, b)

    def bends(self, x: Array) -> Bends:
        """The bounds in the cells between points x [n, I]. A slope is between those at the points, and their reach."""
        ends, size, rate = self.ends(x[:-1], x[1:]), np.abs(self.weight), np.abs(self.rate)
        second = np.where(size == 0, 0.0, self.curve.second(*ends) * size * rate**2) * MARGIN
        third = np.where(size == 0, 0.0, self.curve.third(*ends) * size * rate**3) * MARGIN
        slope, reach = self.slope(x), _slope_reach(third, x)
        return second, third, (np.minimum(slope[:-1], slope[1:]), -reach), (np.maximum(slope[:-1], slope[1:]), reach)

    def rounding(self, low: Array, high: Array) -> tuple[Array, Array]:
        """[I, O] twice: bounds of the float64 error of values and slopes for sources from low to high [I]."""
        ends = self.ends(low, high)
        size, steep = np.abs(self.weight), self.curve.slope_limit(*ends)
        inner = np.maximum(np.abs(ends[0]), np.abs(ends[1])) + np.abs(self.shift)
        value = 16 * ULP * size * (steep * inner + np.abs(self.curve.value(np.zeros(1))) + 1)
        slope = 16 * ULP * size * np.abs(self.rate) * (steep + self.curve.second(*ends) * inner + 1)
        return np.where(size == 0, 0.0, value), np.where(size == 0, 0.0, slope)


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Edge functions of a layer: sum of splines, smooth functions and interval terms, plus a constant per destination
    [O]."""

    splines: tuple[Spline, ...]
    smooth: tuple[Smooth, ...]
    interval_terms: tuple[IntervalTerm, ...]
    constant: Array
    sources: int

    @classmethod
    def of(cls, layer: Layer) -> Edges:
        """The functions of a layer. Raises InvalidKan for a term without known bounds."""
        parts = [*(_of_term(layer, term) for term in layer.terms), *_of_symbolic_edges(layer)]
        constant = layer.bias.copy()
        for edge in layer.symbolic:
            constant[edge.destination] += edge.mask * edge.d
        return cls(
            tuple(part for part in parts if isinstance(part, Spline)),
            tuple(part for part in parts if isinstance(part, Smooth)),
            tuple(part for part in parts if isinstance(part, IntervalTerm)),
            constant,
            layer.sources,
        )

    @property
    def destinations(self) -> int:
        """O, the number of sums."""
        return len(self.constant)

    def values(self, x: Array) -> Array:
        """[B, I] -> [B, I, O]: the edge functions, without the constant."""
        parts: tuple[Spline | Smooth | IntervalTerm, ...] = (*self.splines, *self.smooth, *self.interval_terms)
        total = np.zeros((*x.shape, self.destinations))
        for part in parts:
            total += part.values(x)
        return total

    def slopes(self, x: Array) -> Array:
        """[B, I] -> [B, I, O]: the slopes of splines and smooth functions, without those of splines of degree 1."""
        total = np.zeros((*x.shape, self.destinations))
        for spline in self.splines:
            total += spline.values(x, 1)
        for part in self.smooth:
            total += part.slope(x)
        return total

    def on_cells(self, low: Array, high: Array) -> tuple[list[OnCells], list[Errors]]:
        """The facts and errors of the interval terms on cells from low to high [n, I]. Raises InvalidKan."""
        terms = self.interval_terms
        with refusal("a function of the layer has no known bound in a certificate"):
            return [term.on_cells(low, high) for term in terms], [term.errors(low, high) for term in terms]

    def rounding(self, low: Array, high: Array) -> tuple[Array, Array]:
        """[I, O] twice: bounds of the float64 error of values and slopes for sources from low to high [I]."""
        value, slope = (np.zeros((self.sources, self.destinations)) for _ in range(2))
        for spline in self.splines:
            value, slope = value + spline.rounding(0), slope + spline.rounding(1)
        for part in self.smooth:
            more_value, more_slope = part.rounding(low, high)
            value, slope = value + more_value, slope + more_slope
        return value, slope


def _of_term(layer: Layer, term: Term) -> Spline | Smooth | IntervalTerm:
    if term.pre_steps:
        raise refuse(f"the term {term.kind} has separate steps")
    coef = term.coef * layer.mask[:, :, None]
    if isinstance(term, EdgeTerm):
        return Separate(coef, term)
    if term.stored != precision.FULL:
        raise refuse(f"the coefficients of {term.kind} are stored as {term.stored}")
    if isinstance(term.basis, BSpline):
        if not term.basis.increasing:
            raise refuse("the spline has repeated or decreasing knots, where it is not continuous")
        return Spline.of(term.basis, coef)
    known = isinstance(term.basis, Activation) and term.basis.function is ACTIVATIONS.get(term.kind)
    if known and term.kind in curves.BASE:
        ones = np.ones(layer.mask.shape)
        return Smooth(curves.BASE[term.kind], coef[:, :, 0], ones, 0 * ones)
    if not families.known(term.basis):
        raise refuse(f"the basis {term.kind} has no known bounds in a certificate")
    return Shared(coef, term)


def _of_symbolic_edges(layer: Layer) -> list[Smooth | IntervalTerm]:
    """The functions of symbolic edges, without their constants."""
    known = [SYMBOLIC.get(edge.function.name) is edge.function for edge in layer.symbolic]
    plain = [e for e, same in zip(layer.symbolic, known, strict=True) if same and e.function.name in curves.EDGE]
    # Also those with a weight of zero: the graph multiplies, and zero times infinity is NaN.
    others = [edge for edge in layer.symbolic if edge not in plain]
    parts: list[Smooth | IntervalTerm] = []
    for edge in plain:
        weight, rate, shift = (np.zeros(layer.mask.shape) for _ in range(3))
        at = edge.source, edge.destination
        weight[at], rate[at], shift[at] = edge.mask * edge.c, edge.a, edge.b
        parts.append(Smooth(curves.EDGE[edge.function.name], weight, rate, shift))
    return [*parts, *symbolic(others, (layer.sources, layer.destinations))]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Table of a layer for sources from x[0] to x[-1].

    x          [n, I]: points of each source in order; the last one repeats
    value      [n, I, O]: the edge functions there
    bend       [n - 1, I, O]: max |f''| / 8 between two points
    low, high  [n - 1, I, O]: enclosure of the slope between two points
    rounding   [I, O]: of the values in float64
    errors     of the interval terms
    """

    edges: Edges
    x: Array
    value: Array
    bend: Array
    low: Array
    high: Array
    rounding: Array
    errors: tuple[Errors, ...] = ()

    @classmethod
    def of(cls, edges: Edges, low: Array, high: Array) -> Table:
        """The table for sources from low to high [I]. Raises InvalidKan for a layer that is too large."""
        x = _points(edges, low, high)
        value_rounding, slope_rounding = edges.rounding(low, high)
        second, third, flat_low, flat_high = (np.zeros((len(x) - 1, *slope_rounding.shape)) for _ in range(4))
        # The hull of slopes holds beside their enclosure from the points: all coefficients of the derivative of a
        # monotone spline have one sign.
        hull_low, hull_high = -slope_rounding, slope_rounding
        parts: tuple[Spline | Smooth, ...] = (*edges.splines, *edges.smooth)
        for part in parts:
            more_second, more_third, lows, highs = part.bends(x)
            second, third = second + more_second, third + more_third
            hull_low, hull_high = sum(lows, hull_low), sum(highs, hull_high)
            if isinstance(part, Spline) and part.basis.degree == 1:  # it has no slope at a point
                flat_low, flat_high = sum(lows, flat_low), sum(highs, flat_high)
        slope = edges.slopes(x)
        reach = _slope_reach(third, x) + slope_rounding
        lower = np.maximum(np.minimum(slope[:-1], slope[1:]) - reach + flat_low, hull_low)
        upper = np.minimum(np.maximum(slope[:-1], slope[1:]) + reach + flat_high, hull_high)
        facts, errors = edges.on_cells(x[:-1], x[1:])
        for fact, error in zip(facts, errors, strict=True):
            second, value_rounding = second + fact.second, value_rounding + error.double
            lower, upper = lower + fact.low, upper + fact.high
        if not (np.maximum(np.abs(lower), np.abs(upper)) < STEEPEST).all():
            raise refuse("an edge has a jump, a pole or an undefined value on this box")
        return cls(edges, x, edges.values(x), second / 8 * MARGIN, lower, upper, value_rounding, tuple(errors))

    @property
    def reach(self) -> Array:
        """[n - 1, I, O]: how far an edge may leave its chord between two points: by its curvature, or by the range of
        its slope."""
        h = np.diff(self.x, axis=0)[:, :, None]
        return np.minimum(self.bend * h**2, (self.high - self.low) / 4 * h * MARGIN)

    def facts(self) -> tuple[Array, Array, Array, Array]:
        """[I, O] four times: the lowest and highest value of each edge, and of its slope."""
        reach = self.reach + self.rounding
        low = (np.minimum(self.value[:-1], self.value[1:]) - reach).min(axis=0)
        high = (np.maximum(self.value[:-1], self.value[1:]) + reach).max(axis=0)
        return low, high, self.low.min(axis=0), self.high.max(axis=0)


def _slope_reach(third: Array, x: Array) -> Array:
    """[n - 1, I, O]: how far a slope leaves its chord between two points x [n, I]: h^2 / 8 max |f'''|."""
    h = np.diff(x, axis=0)[:, :, None]
    return np.asarray(third * h**2 / 8 * MARGIN)


def _points(edges: Edges, low: Array, high: Array) -> Array:
    """[n, I]: the ends, all knots between them, and points between those."""
    for parts in PARTS:
        columns = [_column(edges, at, float(low[at]), float(high[at]), parts) for at in range(edges.sources)]
        count = max(map(len, columns))
        if count * edges.sources * edges.destinations <= NUMBERS:
            break
    else:
        raise refuse(f"a layer of {edges.sources} sources and {edges.destinations} destinations is too large")
    return np.stack([np.pad(column, (0, count - len(column)), mode="edge") for column in columns], axis=1)


def _column(edges: Edges, source: int, low: float, high: float, parts: int) -> Array:
    knots = [spline.basis.extended[source] for spline in edges.splines]
    others = [term.points(source, low, high) for term in edges.interval_terms]
    every = np.unique(np.concatenate([*knots, *others, [low, high, 0.0]]))
    ends = every[(every >= low) & (every <= high)]
    if len(ends) == 1:
        return np.array([low, high])
    first = min((row[0] for row in knots), default=np.inf)
    last = max((row[-1] for row in knots), default=-np.inf)
    pieces = []
    for a, b in itertools.pairwise(ends):
        count = parts if edges.interval_terms or (first <= a and b <= last) else OUTSIDE * parts
        count = 1 if b - a < 4 * KINK * (1 + abs(a)) else count
        pieces.append(a + (b - a) * np.arange(count) / count)
    return np.unique(np.concatenate([*pieces, ends]))
