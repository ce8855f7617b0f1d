"""Interval terms: edges that are bounded by evaluation on intervals: every basis but B-splines.

Each cell of a table has three enclosures of a derivative: over the cell, and from the middle of the cell with a bound
of the next derivative (mean value form). Sums over the functions of an edge use middles and radii, so that functions
that cancel do so in the middle.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kanexport.bases.piecewise_linear import Hats
from kanexport.certify import families, intervals
from kanexport.certify.intervals import OUTWARD, Pair
from kanexport.certify.operators import Bounds
from kanexport.certify.taylor import DOUBLE, SINGLE, Taylor
from kanexport.functions.elementwise import Unary
from kanexport.ir.model import BasisTerm, EdgeTerm, SymbolicEdge
from kanexport.lowering import terms

Array = npt.NDArray[np.float64]

ENDLESS = 1e250  # stands for no bound, and is zero times a coefficient of zero
NUMBERS = 4e5  # of one array of a chunk
KINK = 1e-9  # beside a point without a second derivative, where a cell of this width has it
GROWTH, STEPS = 4.0, 40  # of distances beyond the range in which a basis bends
CELLS = 256  # between points of a source, at most
FLOAT64 = 4  # times the error of one form of a function, for another form


@dataclass(frozen=True, slots=True, eq=False)
class OnCells:
    """Facts of edges on cells.

    second     [n, I, O]: max |f''|; `ENDLESS` or more without a bound
    low, high  [n, I, O]: of the slope
    """

    second: Array
    low: Array
    high: Array


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Floating-point errors of the edges of a term, for sources in a range.

    double      [I, O]: of float64 values
    single      [I, O]: of the functions and coefficients in the served graph
    magnitude   [I, O]: of what the graph adds
    terms       how many numbers it adds for a source
    """

    double: Array
    single: Array
    magnitude: Array
    terms: float


class IntervalTerm(abc.ABC):
    """Edges of a term as sums of functions with coefficients."""

    @property
    @abc.abstractmethod
    def terms(self) -> int:
        """The number of functions of an edge."""

    @abc.abstractmethod
    def values(self, x: Array) -> Array:
        """[B, I] -> [B, I, O], float64."""

    @abc.abstractmethod
    def functions(self, x: Taylor) -> Taylor:
        """[n, I] -> the functions on cells. Raises UnboundedError."""

    @abc.abstractmethod
    def served(self, low: Array, high: Array) -> Taylor:
        """The functions of the graph, with float32 errors, for sources from low to high [n, I]."""

    @abc.abstractmethod
    def summed(self, values: Array, *, sizes: bool) -> Array:
        """Functions times coefficients, or times their magnitudes, [n, I, O]."""

    @abc.abstractmethod
    def points(self, source: int, low: float, high: float) -> Array:
        """Points of a source between which the functions are smooth, and nearly cubic."""

    def on_cells(self, low: Array, high: Array) -> OnCells:
        """The facts of cells from low to high [n, I]."""
        parts = [self._on_cells(low[part], high[part]) for part in self._chunks(low)]
        whole = OnCells(*(np.concatenate([getattr(p, name) for p in parts]) for name in OnCells.__slots__))
        return self._joined(whole, low, high)

    def _joined(self, cells: OnCells, low: Array, high: Array) -> OnCells:
        """The facts of all cells [n, I] together."""
        return cells

    def _on_cells(self, low: Array, high: Array) -> OnCells:
        with np.errstate(all="ignore"):
            cell, middle = self.functions(Taylor.source(low, high)), (low + high) / 2
            point = self.functions(Taylor.source(middle, middle, order=2))
            half = ((high - middle) * (1 + 1e-14) + OUTWARD * np.abs(middle))[:, :, None]
            slope, bend = self._pair(cell.coefs[1]), self._pair(intervals.scaled(cell.coefs[2], 2.0))
            third = intervals.largest(self._pair(intervals.scaled(cell.coefs[3], 6.0)))
            at, bend_at = self._pair(point.coefs[1]), self._pair(intervals.scaled(point.coefs[2], 2.0))
            second = np.minimum(intervals.largest(bend), intervals.largest(bend_at) + half * third)
            reach = half * intervals.largest(bend_at) + half**2 / 2 * third * (1 + 1e-12)
        # Without a third derivative, f'' may jump; then only the enclosure over the cell holds.
        smooth = third < ENDLESS / 1e50
        low_slope = np.where(smooth, np.maximum(slope[0], at[0] - reach), slope[0])
        high_slope = np.where(smooth, np.minimum(slope[1], at[1] + reach), slope[1])
        return OnCells(np.where(smooth, second, intervals.largest(bend)), low_slope, high_slope)

    def _pair(self, a: Pair) -> Pair:
        """The sums of an enclosure of the functions."""
        low, high = np.maximum(a[0], -ENDLESS), np.minimum(a[1], ENDLESS)
        middle = (low + high) / 2
        radius = np.maximum(high - middle, middle - low) * (1 + 4 * OUTWARD)
        center, size = self.summed(middle, sizes=False), self.summed(np.abs(middle), sizes=True)
        reach = self.summed(radius, sizes=True) + OUTWARD * (self.terms + 4) * size
        return center - reach, center + reach

    def errors(self, low: Array, high: Array) -> Errors:
        """The largest errors on cells from low to high [n, I]."""
        parts = [self._errors(low[part], high[part]) for part in self._chunks(low)]
        double, single, magnitude = (
            np.max([getattr(part, name) for part in parts], axis=0) for name in ("double", "single", "magnitude")
        )
        return Errors(double, single, magnitude, float(self.terms))

    def _errors(self, low: Array, high: Array) -> Errors:
        with np.errstate(all="ignore"):
            exact, graph = self.functions(Taylor.source(low, high, order=0)), self.served(low, high)
            size = intervals.largest(exact.coefs[0])
            size, error = np.broadcast_arrays(size, np.asarray(graph.error))
            double = self.summed(FLOAT64 * exact.error + 4 * DOUBLE * (self.terms + 8) * size, sizes=True)
            single = self.summed(error + 4 * SINGLE * size, sizes=True)
            magnitude = self.summed(size + error, sizes=True)
        double, single, magnitude = (np.where(np.isnan(a), np.inf, a) for a in (double, single, magnitude))
        return Errors(double.max(axis=0), single.max(axis=0), magnitude.max(axis=0), 0.0)

    def _chunks(self, low: Array) -> Iterator[slice]:
        step = max(1, int(NUMBERS / (self.terms * self._width * low.shape[1])))
        return (slice(at, at + step) for at in range(0, len(low), step))

    @property
    def _width(self) -> int:
        """How many edges of a source have separate functions."""
        return 1


@dataclass(frozen=True, slots=True, eq=False)
class WithCoefficients(IntervalTerm):
    """Term with coefficients `coef` [I, O, K], which have the mask."""

    coef: Array

    @property
    def terms(self) -> int:
        """K"""
        return int(self.coef.shape[2])


@dataclass(frozen=True, slots=True, eq=False)
class Shared(WithCoefficients):
    """Term with a basis that the edges of a source share."""

    term: BasisTerm

    def values(self, x: Array) -> Array:
        """[B, I] -> [B, I, O]"""
        return self.summed(self.term.basis.evaluate(x), sizes=False)

    def functions(self, x: Taylor) -> Taylor:
        """[n, I] -> [n, K, I]"""
        return families.enclosed(self.term.basis, x).mapped(np.asarray)

    def served(self, low: Array, high: Array) -> Taylor:
        """[n, K, I]"""
        return families.served(self.term.basis, low, high)

    def summed(self, values: Array, *, sizes: bool) -> Array:
        """[n, K, I] -> [n, I, O]"""
        coef = np.abs(self.coef) if sizes else self.coef
        return np.asarray(np.matmul(values.transpose(2, 0, 1), coef.transpose(0, 2, 1)).transpose(1, 0, 2))

    def _joined(self, cells: OnCells, low: Array, high: Array) -> OnCells:
        if not isinstance(self.term.basis, Hats):
            return cells
        # A cell around a kink has the slopes of its neighbors, which are lines.
        inner = (high - low < 4 * KINK * (1 + np.abs(low)))[1:-1, :, None]
        wide = ~inner & (high > low)[1:-1, :, None]
        between = inner & np.pad(wide, ((1, 0), (0, 0), (0, 0)))[:-1] & np.pad(wide, ((0, 1), (0, 0), (0, 0)))[1:]
        first, last = cells.low.copy(), cells.high.copy()
        first[1:-1] = np.where(between, np.minimum(cells.low[:-2], cells.low[2:]), cells.low[1:-1])
        last[1:-1] = np.where(between, np.maximum(cells.high[:-2], cells.high[2:]), cells.high[1:-1])
        return OnCells(cells.second, first, last)

    def points(self, source: int, low: float, high: float) -> Array:
        """Kinks, and features of the basis."""
        basis, sources = self.term.basis, len(self.coef)
        kinks = families.kinks(basis, sources)[:, source]
        width = families.feature(basis)
        support = basis.support(sources)
        inner = _spread(width or 1.0, support.outer, source, low, high, fine=width is not None)
        room = KINK * (1 + np.abs(kinks))
        return np.concatenate([kinks - room, kinks + room, inner])


def _spread(width: float, outer: Pair, source: int, low: float, high: float, *, fine: bool = True) -> Array:
    """Points at most `width` apart in the part of a range in which a basis bends, if it is to be `fine`; and points
    beyond, at distances that grow."""
    begin, end = float(outer[0][source]), float(outer[1][source])
    first, last = max(low, begin), min(high, end)
    grown = width * GROWTH ** np.arange(STEPS)
    beyond = np.concatenate([begin - grown[grown < begin - low], end + grown[grown < high - end]])
    if not first < last or not fine:
        return beyond
    count = int(np.clip(np.ceil((last - first) / width), 1, CELLS))
    return np.concatenate([np.linspace(first, last, count + 1), beyond])


@dataclass(frozen=True, slots=True, eq=False)
class Separate(WithCoefficients):
    """Term with shifts and rates for every edge, such as wavelets."""

    term: EdgeTerm

    @property
    def _width(self) -> int:
        return int(self.coef.shape[1])

    def values(self, x: Array) -> Array:
        """[B, I] -> [B, I, O]"""
        distance = (x[:, :, None, None] - self.term.centre) * self.term.rate
        return self.summed(self.term.function.evaluate(distance), sizes=False)

    def functions(self, x: Taylor) -> Taylor:
        """[n, I] -> [n, I, O, K]"""
        distance = (x[:, :, None, None] - self.term.centre) * self.term.rate
        return families.unary(self.term.function, cast(Taylor, distance))

    def served(self, low: Array, high: Array) -> Taylor:
        """[n, I, O, K]: the larger error of both forms, each divided by its coefficient."""
        distance = Bounds.source(low, high)[:, :, None, None] - Bounds.const(self.term.centre)
        inner = cast(Taylor, distance * Bounds.const(self.term.rate))
        plain = families.emitted(self.term.function, inner)
        source: Any = Bounds.source(low, high)
        ones = np.ones(self.term.coef.shape)
        weighted: Any = terms.weighted_edges(Bounds(small_values=False), self.term, ones, source)
        if weighted is None:  # the graph has one form
            return plain
        error = np.asarray(weighted.error)
        error = error[:, :, :, None] if error.ndim == 3 else error.transpose(0, 1, 3, 2)
        return Taylor(plain.coefs, np.maximum(plain.error, error), SINGLE)

    def summed(self, values: Array, *, sizes: bool) -> Array:
        """[n, I, O, K] -> [n, I, O]"""
        coef = np.abs(self.coef) if sizes else self.coef
        return np.asarray((values * coef).sum(axis=3))

    def points(self, source: int, low: float, high: float) -> Array:
        """Points as close as the narrowest wavelet, in the range of all."""
        support = self.term.support(len(self.coef))
        used = self.coef[source] != 0
        rate = float(np.abs(self.term.rate[source][used]).max(initial=1e-6))
        return _spread(1 / rate, support.outer, source, low, high)


@dataclass(frozen=True, slots=True, eq=False)
class Symbolic(IntervalTerm):
    """Symbolic edges with one function: weight * function(rate x + shift), [E] each, without their constants."""

    function: Unary
    shape: tuple[int, int]
    edges: tuple[SymbolicEdge, ...]

    @property
    def terms(self) -> int:
        """1"""
        return 1

    def _of(self, name: str) -> Array:
        return np.array([getattr(edge, name) for edge in self.edges], dtype=np.float64)

    @property
    def _sources(self) -> list[int]:
        return [edge.source for edge in self.edges]

    def values(self, x: Array) -> Array:
        """[B, I] -> [B, I, O]"""
        with np.errstate(all="ignore"):
            inner = x[:, self._sources] * self._of("a") + self._of("b")
            return self.summed(self.function.evaluate(inner), sizes=False)

    def functions(self, x: Taylor) -> Taylor:
        """[n, I] -> [n, E]"""
        return families.unary(self.function, cast(Taylor, x[:, self._sources] * self._of("a") + self._of("b")))

    def served(self, low: Array, high: Array) -> Taylor:
        """[n, E]"""
        x = Bounds.source(low[:, self._sources], high[:, self._sources])
        inner = x * Bounds.const(self._of("a")) + Bounds.const(self._of("b"))
        return families.emitted(self.function, cast(Taylor, inner))

    def summed(self, values: Array, *, sizes: bool) -> Array:
        """[n, E] -> [n, I, O]"""
        weight = self._of("c") * self._of("mask")
        result = np.zeros((len(values), *self.shape))
        result[:, self._sources, [edge.destination for edge in self.edges]] = values * (
            np.abs(weight) if sizes else weight
        )
        return result

    def points(self, source: int, low: float, high: float) -> Array:
        """Points that divide the range, and those where the function is at zero."""
        own = [edge for edge in self.edges if edge.source == source and edge.a]
        zeros = np.array([-edge.b / edge.a for edge in own])
        steep = max((abs(edge.a) for edge in own), default=0.0)
        count = int(np.clip(np.ceil((high - low) * steep * 2), 1, 64)) if own else 1
        room = KINK * (1 + np.abs(zeros))
        return np.concatenate([np.linspace(low, high, count + 1), zeros - room, zeros + room])


def symbolic(edges: Sequence[SymbolicEdge], shape: tuple[int, int]) -> list[Symbolic]:
    """The edges by function."""
    groups: dict[tuple[str, Unary], list[SymbolicEdge]] = {}
    for edge in edges:
        groups.setdefault((edge.function.name, edge.function), []).append(edge)
    return [Symbolic(function, shape, tuple(group)) for (_, function), group in groups.items()]
