"""Quantized basis: its values as whole numbers from 0 to 127 of a unit, for sums of int8 values.

Made of a basis whose functions are nowhere negative and end somewhere, or fade until they are less than half a unit.
Where all sources share their knots, the codes are read from a table over where a source lies, a hundred or so entries a
cell: its last and its first entry are zero, as the functions are there. Splines on other knots have a table for each
source. Its entries are equally spaced or, if some cells are much narrower than others, equally many in each cell. The
graph has the knots, and a runtime computes these tables when it loads the graph. Elsewhere the functions that end are
computed and rounded. In all forms the unit and the steps are the model's own and not a batch's, so that the
outputs of a row do not depend on its company, and nothing is cut off.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis, Support
from kanexport.bases.bspline import BSpline
from kanexport.graph.precision import LARGEST

if TYPE_CHECKING:
    from kanexport.graph.builder import Graph, Value

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]

CELL = 128  # entries of a cell: a cubic spline moves by about a code from one to the next
LEAST = 32  # below, a table is coarser than a byte is
WALKED = 16  # places of a cell at which the largest value is looked for, where there is no table
AT_ONCE = 2_000_000  # values held at a time
ROUNDING = 2.0**-24  # of float32
NOTHING = -1e-9  # what is no less counts as not negative
STEEP = 8  # codes from one entry to the next, above which a table says too little
WIDER = 4  # times that the ends of functions that fade are put further out
STEEPEST = 12  # codes from one entry of such a table to the next, above which the entries are placed cell by cell
SMALL_TABLES = 2**18  # bytes of the tables of all sources, up to which a cell has more than `LEAST` entries
LARGEST_TABLES = 2**22  # bytes of the tables of all sources: of larger ones, too little is in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Stepped:
    """Quantized form of `basis`, in units of `unit`. `table` [L, K], if there is one, covers `low` to `high`."""

    basis: Basis
    unit: float
    table: Codes | None = None
    low: float = 0.0
    high: float = 0.0

    @property
    def kind(self) -> str:
        """The kind of the basis."""
        return self.basis.kind

    @property
    def functions(self) -> int:
        """K of the basis."""
        return self.basis.functions

    @property
    def sources(self) -> int | None:
        """The number of sources of the basis."""
        return self.basis.sources

    @property
    def compact(self) -> bool:
        """As of the basis. NaN has no int8 value: if the basis returns NaN for NaN, the code that sums the values
        handles it."""
        return self.basis.compact

    @property
    def by_source(self) -> bool:
        """Whether the codes of the functions of a source are adjacent; otherwise those of the sources of a function
        are."""
        return self.table is not None

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64: the meaning of the int8 values."""
        if self.table is None:
            return np.asarray(np.clip(np.rint(self.basis.evaluate(x) / self.unit), 0, 255) * self.unit)
        slope, start, count = self._places()
        place = np.clip(np.where(np.isnan(x), self.low, x) * slope + start, 0, 1) * count
        values = self.table[place.astype(np.int64)].transpose(0, 2, 1) * self.unit
        return np.asarray(values if self.compact else np.where(np.isnan(x)[:, None], np.nan, values))

    def _places(self) -> tuple[float, float, float]:
        """The factor of x, the offset, and the number of entries as a factor; the last one is a float32 just below the
        number of entries, so that each place is in the table."""
        assert self.table is not None
        slope = 1 / (self.high - self.low)
        return slope, -self.low * slope, float(np.nextafter(np.float32(len(self.table)), np.float32(0)))

    def codes(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, N] of uint8, in the order of `by_source`. With a table, NaN gives zeros; without, the input has
        no NaN."""
        if self.table is None:
            unit = self.unit / self.basis.emitted_scale(g)
            basis = self.basis.emit(g, x, sources)
            codes = g.op("QuantizeLinear", basis, g.const(unit), g.raw(np.zeros((), np.uint8)))
        else:
            slope, start, count = self._places()
            place = g.whole(g.mul(g.hard_sigmoid(x, alpha=slope, beta=start), g.const(count)))
            codes = g.op("Gather", g.raw(self.table), _within(g, place, len(self.table)), axis=0)
        return g.reshape(codes, 0, self.functions * sources)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I]: the meaning of the int8 values."""
        values = g.mul(g.cast(self.codes(g, x, sources)), g.const(self.unit))
        if not self.by_source:
            return g.reshape(values, 0, self.functions, sources)
        values = g.transpose(g.reshape(values, 0, sources, self.functions), 0, 2, 1)
        if self.compact:
            return values
        return g.op("Where", g.op("IsNaN", g.reshape(x, 0, 1, sources)), g.nan(), values)

    def emitted_scale(self, g: Graph) -> float:
        """1."""
        return 1.0

    def support(self, sources: int) -> Support:
        """The support of the basis."""
        return self.basis.support(sources)

    def parameters(self) -> dict[str, str]:
        """The parameters of the basis."""
        return self.basis.parameters()

    def knots(self) -> Array:
        """The knots of the basis."""
        return self.basis.knots()


@dataclass(frozen=True, slots=True, eq=False)
class SteppedPieces(Stepped):
    """Quantized form of `spline`, which is `basis`, with a table for each source over its range.

    pieces   [I, P + 1]: bounds of the pieces of a range, from the first knot to the last
    each     entries of a piece, equally spaced, the first at its lower bound
    entries  [I, L, K]: the table; its last entry is at the last knot
    """

    spline: BSpline = dataclasses.field(kw_only=True)
    pieces: Array = dataclasses.field(kw_only=True)
    each: int = dataclasses.field(kw_only=True)
    entries: Codes = dataclasses.field(kw_only=True)

    @property
    def by_source(self) -> bool:
        """True: an entry has the functions of a source."""
        return True

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64: the meaning of the int8 values."""
        known = np.where(np.isnan(x), -np.inf, x)[:, :, None]
        passed = np.clip((known - self.pieces[:, :-1]) / np.diff(self.pieces, axis=1), 0, 1).sum(axis=2)
        values = self.entries[np.arange(len(self.pieces)), (passed * self.each + 0.5).astype(np.int64)]
        return np.asarray(values.transpose(0, 2, 1) * self.unit)

    def codes(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, I * K] of uint8. NaN gives zeros."""
        count, entries = self.pieces.shape[1] - 1, self.entries.shape[1]
        below = g.sub(g.reshape(x, 0, 1, sources), self._bounds(g, 0, count))
        passed = g.hard_sigmoid(g.mul(below, g.const(1 / np.diff(self.pieces).T[None])), alpha=1.0, beta=0.0)
        weights = g.const(np.full((1, count), float(self.each)))
        place = g.op("MatMul", weights, passed) if count > 1 else g.mul(passed, weights)
        nearest = g.whole(g.add(g.reshape(place, 0, sources), g.const(0.5)))
        first = np.arange(sources, dtype=np.int32) * np.int32(entries)
        row = g.add(_within(g, nearest, entries), g.raw(first[None]))
        return g.reshape(g.op("Gather", self._tables(g, sources), row, axis=0), 0, self.functions * sources)

    def _bounds(self, g: Graph, start: int, stop: int) -> Value:
        """[1, stop - start, I]: bounds of pieces; if they are the knots, from the constant that the functions have."""
        return g.slice(g.const(self.pieces.T[None]), start, stop, axis=1)

    def _tables(self, g: Graph, sources: int) -> Value:
        """[I * L, K] of uint8. All operators have constant inputs, so that a runtime computes them once."""
        count = self.pieces.shape[1] - 1
        start, last = self._bounds(g, 0, count), self._bounds(g, count, count + 1)
        width = g.sub(self._bounds(g, 1, count + 1), start)
        start, width = (g.reshape(value, count, 1, sources) for value in (start, width))
        # [1, E, 1]: the places of the entries of a piece, as sums of two short constants.
        fine = math.gcd(self.each, CELL)
        coarse = g.const(np.arange(0, self.each, fine)[None, :, None] / self.each)
        parts = g.reshape(g.add(coarse, g.const(np.arange(fine)[None, None] / self.each)), 1, self.each, 1)
        x = g.add(start, g.mul(width, parts))
        x = g.op("Concat", g.reshape(x, count * self.each, sources), g.reshape(last, 1, sources), axis=0)
        unpacked, g.unpacked = g.unpacked, False
        values = self.spline.emit(g, x, sources)
        g.unpacked = unpacked
        unit = self.unit / self.spline.emitted_scale(g)
        codes = g.op("QuantizeLinear", values, g.const(unit), g.raw(np.zeros((), np.uint8)))
        return g.reshape(g.transpose(codes, 2, 0, 1), sources * self.entries.shape[1], self.functions)


def _within(g: Graph, place: Value, count: int) -> Value:
    """Numbers of entries, in the table. The number of NaN is any int32; at both ends of a table are zeros."""
    return g.op("Clip", place, *(g.raw(np.array(end, np.int32)) for end in (0, count - 1)))


def _by_pieces(spline: BSpline) -> SteppedPieces | None:
    """Tables with equally spaced entries, which are found faster, if neighbors differ little; otherwise with equally
    many in each cell. None if the tables are too large, or if a function is not zero at the first or last knot."""
    cells, each = spline.extended.shape[1] - 1, CELL
    size = cells * spline.functions * len(spline.extended)  # bytes of one entry of each cell
    while each > LEAST and each * size > SMALL_TABLES:
        each //= 2
    if each * size > LARGEST_TABLES or not spline.increasing:
        return None
    even = _with_entries(spline, spline.extended[:, [0, -1]], cells * each)
    if even is None or np.abs(np.diff(even.entries.astype(np.int16), axis=1)).max() <= STEEPEST:
        return even
    return _with_entries(spline, spline.extended, each)


def _with_entries(spline: BSpline, pieces: Array, each: int) -> SteppedPieces | None:
    bounds = pieces.T  # [P + 1, I]
    x = bounds[:-1, None] + np.diff(bounds, axis=0)[:, None] * (np.arange(each) / each)[:, None]
    values = spline.evaluate(np.concatenate([x.reshape(-1, x.shape[2]), bounds[-1:]]))  # [L, K, I]
    if not (values.min() >= NOTHING and 0 < values.max() < np.inf):
        return None
    unit = _unit(float(values.max()))
    entries = np.clip(np.rint(values / unit), 0, LARGEST).astype(np.uint8).transpose(2, 0, 1)
    if entries[:, [0, -1]].any():
        return None
    return SteppedPieces(spline, unit, spline=spline, pieces=pieces, each=each, entries=entries)


def stepped(basis: Basis, sources: int, room: int) -> Stepped | None:
    """A basis in steps. None if it cannot be a sum of int8 values: it is unbounded, negative somewhere, or fades and
    has no table. `room`: the largest size of a table in bytes."""
    single = _alone(basis)
    tabled = None if single is None else _tabled(basis, single, room)
    if tabled is not None or not basis.compact:
        return tabled
    if isinstance(basis, BSpline) and (pieces := _by_pieces(basis)) is not None:
        return pieces
    largest, least = 0.0, 0.0
    for values in _walked(basis, sources):
        largest, least = max(largest, float(values.max())), min(least, float(values.min()))
    return Stepped(basis, _unit(largest)) if least >= NOTHING and 0 < largest < np.inf else None


def _tabled(basis: Basis, single: Basis, room: int) -> Stepped | None:
    """Each entry has the values at its middle; one more entry at either end is zero. `single`: the basis for one
    source."""
    ends = _ends(single)
    if ends is None:
        return None
    (low, high), points = ends, np.unique(single.support(1).points)
    gap = (points[-1] - points[0]) / (len(points) - 1) if len(points) > 1 else (high - low) / 8
    cells, each = (high - low) / gap, CELL
    while each > LEAST and (each * cells + 2) * basis.functions > room:
        each //= 2
    count = math.ceil(each * cells - 1e-6)
    step = (high - low) / count
    if (count + 2) * basis.functions > room or not step > 4 * ROUNDING * max(abs(low), abs(high)):
        return None  # too large, or float32 does not tell the entries apart
    middles = np.asarray(low + step * (np.arange(count)[:, None] + 0.5), dtype=np.float64)
    values = single.evaluate(middles)[:, :, 0]
    if not (values.min() >= NOTHING and 0 < values.max() < np.inf):
        return None
    unit = _unit(float(values.max()))
    table = np.zeros((count + 2, basis.functions), np.uint8)
    table[1:-1] = np.clip(np.rint(values / unit), 0, LARGEST)
    if np.abs(np.diff(table.astype(int), axis=0)).max() > STEEP:
        return None
    return Stepped(basis, unit, table, float(low - step), float(high + step))


def _ends(single: Basis) -> tuple[float, float] | None:
    """The ends beyond which the functions of one source are zero, or below half a unit, up to infinity."""
    support = single.support(1)
    (low,), (high,) = support.outer
    if single.compact:
        return (float(low), float(high)) if high > low else None
    with np.errstate(all="ignore"):
        least = single.evaluate(support.points).max() / LARGEST / 2
        for _ in range(WIDER):
            beyond = np.array([low, high, low - (high - low), high + (high - low), -np.inf, np.inf])
            if (np.abs(single.evaluate(beyond[:, None])) <= least).all():  # so that NaN is not
                return float(low), float(high)
            low, high = low - (high - low) / 4, high + (high - low) / 4
    return None


def _unit(largest: float) -> float:
    return float(np.float32(largest / LARGEST))


def _alone(basis: Basis) -> Basis | None:
    """The basis of one source, if all sources share it; None if each source has its own."""
    if basis.sources is None:
        return basis
    if isinstance(basis, BSpline) and basis.shared:
        return dataclasses.replace(basis, extended=basis.extended[:1])
    return None


def _walked(basis: Basis, sources: int) -> Iterator[Array]:
    """The values of the basis at its points and between them."""
    points = np.sort(basis.support(sources).points, axis=0)
    weights = np.arange(WALKED)[:, None, None] / WALKED
    rows = (points[:-1] * (1 - weights) + points[1:] * weights).reshape(-1, points.shape[1])
    rows = np.broadcast_to(rows, (len(rows), sources))
    step = max(1, AT_ONCE // (sources * basis.functions))
    return (basis.evaluate(rows[at : at + step]) for at in range(0, len(rows), step))
