"""Directions of single edges: whether each edge function rises, falls or does both, with points that show it.

The slopes of a table bound how far an edge may rise and fall in sum. Cells where both are possible are divided until
less than `FLAT` of the range of the edge remains, or until two pairs of points show a rise and a fall.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import numpy.typing as npt

from kanexport.certify.edges import Table
from kanexport.shared.sections import DECREASING, INCREASING, NEITHER, UNDECIDED

Array = npt.NDArray[np.float64]
Cells = npt.NDArray[np.bool_] | EllipsisType  # a mask of cells, or all of them

FLAT = 1e-9  # of the range of an edge: a rise or fall in sum that does not count
DEPTH = 5  # of divisions of a cell
TABLES = 120  # for one edge


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Directions of the edges of a layer.

    words   [I][O]: INCREASING, DECREASING, NEITHER or UNDECIDED
    points  [I, O, 2, 2]: with NEITHER, a pair of source values between which the edge rises, and one between which it
            falls; the first value is the smaller one
    """

    words: tuple[tuple[str, ...], ...]
    points: Array


@dataclass(slots=True)
class _Edge:
    """Facts of one edge: how far it may rise and fall in sum, and pairs of points that show it."""

    rise: float
    fall: float
    up: Array | None
    down: Array | None

    def add(self, rise: float, fall: float) -> None:
        self.rise, self.fall = self.rise + rise, self.fall + fall

    def word(self, room: float) -> str:
        if self.up is not None and self.down is not None:
            return NEITHER
        if self.fall <= room:
            return INCREASING
        return DECREASING if self.rise <= room else UNDECIDED


def of_edges(table: Table) -> Directions:
    """The directions of all edges of a table."""
    sources, destinations = table.value.shape[1:]
    points = np.zeros((sources, destinations, 2, 2))
    words = []
    for i in range(sources):
        row = [_direction(table, i, o) for o in range(destinations)]
        words.append(tuple(word for word, _ in row))
        points[i] = [pairs for _, pairs in row]
    return Directions(tuple(words), points)


def _direction(table: Table, source: int, destination: int) -> tuple[str, Array]:
    place = source, destination
    room = FLAT * float(np.ptp(table.value[:, source, destination])) + 4 * float(table.rounding[place])
    edge = _facts(table, *place)
    if edge.word(room) == UNDECIDED:
        edge = _divided(table, source, destination, edge, room)
    word = edge.word(room)
    pairs = [pair if word == NEITHER and pair is not None else np.zeros(2) for pair in (edge.up, edge.down)]
    return word, np.array(pairs)


def _facts(table: Table, i: int, o: int) -> _Edge:
    """The facts of an edge from one table."""
    x, value, noise = table.x[:, i], table.value[:, i, o], 2 * float(table.rounding[i, o])
    return _Edge(*_variation(table, i, o), _pair(x, value, noise), _pair(x, -value, noise))


def _variation(table: Table, i: int, o: int, cells: Cells = ...) -> tuple[float, float]:
    """How far an edge may rise and fall in sum in some cells: the sum of its largest slope of each sign, times the
    width of each cell."""
    h = np.diff(table.x[:, i])
    rise, fall = (np.maximum(slope, 0) * h for slope in (table.high[:, i, o], -table.low[:, i, o]))
    return float(rise[cells].sum()), float(fall[cells].sum())


def _pair(x: Array, value: Array, noise: float) -> Array | None:
    """Two points between which a function certainly rises; None if no points of the table do."""
    lowest = np.minimum.accumulate(value)
    at = int((value - lowest).argmax())
    if not value[at] - lowest[at] > noise:
        return None
    return np.array([x[int(value[: at + 1].argmin())], x[at]])


def _divided(table: Table, i: int, o: int, whole: _Edge, room: float) -> _Edge:
    """The facts of an edge with smaller cells where both directions are possible: each of these cells gets a
    separate table, up to DEPTH times one inside the other."""
    total = _Edge(0.0, 0.0, whole.up, whole.down)
    waiting = _count_sure(total, table, i, o, depth=1)
    for count in range(TABLES):
        if not waiting:
            break
        first, last, depth = waiting.pop()
        ends = np.zeros((2, table.value.shape[1]))
        ends[:, i] = first, last
        part = Table.of(table.edges, ends[0], ends[1])
        facts = _facts(part, i, o)
        total.up = facts.up if total.up is None else total.up
        total.down = facts.down if total.down is None else total.down
        is_small = min(facts.rise, facts.fall) <= room / (4 * TABLES)
        if is_small or depth == DEPTH or count == TABLES - 1:
            total.add(facts.rise, facts.fall)
        else:
            waiting += _count_sure(total, part, i, o, depth + 1)
    for first, last, _ in waiting:  # as in the first table
        at = np.searchsorted(table.x[:, i], first, side="right") - 1
        steepest = max(float(table.high[at, i, o]), 0.0), max(float(-table.low[at, i, o]), 0.0)
        total.add(*(slope * (last - first) for slope in steepest))
    return total


def _count_sure(total: _Edge, table: Table, i: int, o: int, depth: int) -> list[tuple[float, float, int]]:
    """Add the cells of a table in which an edge has one direction. Returns the others, each as its ends and `depth`."""
    x = table.x[:, i]
    mixed = (table.low[:, i, o] < 0) & (table.high[:, i, o] > 0) & (np.diff(x) > 0)
    total.add(*_variation(table, i, o, ~mixed))
    return [(float(x[at]), float(x[at + 1]), depth) for at in np.flatnonzero(mixed)]
