"""Grid of a basis, derived from its knots. The exporter and the server use the same code."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from kanexport.shared.manifest import BasisInfo, LayerInfo, NodeStep

SPLINE, BUMPS = "bspline", frozenset({"relu-bumps", "activated-bumps"})
PIECES = frozenset({"piecewise-linear", "piecewise-polynomial"})  # their knots are the ends of cells, and not extended
SAME = 16  # rows of knots whose values are kept, since the sources of a layer often have equal ones
WIDTHS = 3  # cells beyond the outermost centre that a bell reaches


@dataclass(frozen=True, slots=True)
class Grid:
    """Grid of one source.

    low, high    the ends of the grid itself
    first, last  the ends of its functions
    cell         the mean width of its cells
    """

    first: float
    low: float
    high: float
    last: float
    cell: float


def of_knots(kind: str, functions: int, knots: Sequence[float]) -> Grid | None:
    """The grid of a basis with so many functions, in the words of the manifest. None without two different knots.

    bspline       T knots are extended by the degree on either side, which is T - functions - 1
    *-bumps       the ends of all bumps; the grid is the middle half, as for the proof of an export
    piecewise-*   the grid, which nothing extends
    others        centres of bells, each about a cell wide
    """
    ordered = sorted(filter(math.isfinite, knots))
    if len(ordered) < 2 or not ordered[-1] > ordered[0]:
        return None
    first, last, cells = ordered[0], ordered[-1], len(ordered) - 1
    if kind == SPLINE:
        degree = max(0, min(len(ordered) - functions - 1, cells // 2))
        low, high = ordered[degree], ordered[-1 - degree]
        wide = (high - low) / max(1, cells - 2 * degree)
        return Grid(first, low, high, last, wide or (last - first) / cells)
    if kind in BUMPS:
        quarter = (last - first) / 4
        return Grid(first, first + quarter, last - quarter, last, (last - first) / max(1, functions))
    cell = (last - first) / cells
    reach = 0.0 if kind in PIECES else WIDTHS * cell
    return Grid(first - reach, first, last, last + reach, cell)


Floats = NDArray[np.float64]
PARTS = 16  # of what was seen, where a node has no grid
DIGITS, MOST_DIGITS = 9, 17  # of what is written: of a float32, and of a float64


def count(bounds: Sequence[float], values: NDArray[np.floating]) -> tuple[tuple[int, ...], int]:
    """Counts of `values` below the first bound, in each interval between two bounds, and above the last bound; and the
    count of the values that are not finite. The bounds ascend. A value on a bound is in the interval above it, a value
    on the last bound in the last interval."""
    finite = values[np.isfinite(values)]
    places = np.searchsorted(np.asarray(bounds), finite, side="right")
    places[finite == bounds[-1]] = len(bounds) - 1
    return tuple(np.bincount(places, minlength=len(bounds) + 1).tolist()), len(values) - len(finite)


def grid(layer: LayerInfo, node: int) -> tuple[float, ...]:
    """The distinct knots of a node of the layer, ascending. Empty if the node is not a source without change, or has no
    knots."""
    stored = knots(layer, node)
    return distinct(stored[1]) if stored is not None else ()


@functools.lru_cache(SAME)
def distinct(knots: tuple[float, ...]) -> tuple[float, ...]:
    """The distinct values of finite knots, rounded and ascending."""
    ordered = np.array(sorted(set(knots)))
    return rounded(ordered, np.ptp(ordered))


def knots(layer: LayerInfo, node: int) -> tuple[BasisInfo, tuple[float, ...]] | None:
    """The knots of a node in the units of the node, and their basis: the one with most functions among those that read
    the sources unchanged."""
    entry = _rows_by_node(layer).get(node)
    return None if entry is None else (entry[0], entry[1].in_node_units(entry[2]))


def knots_by_node(layer: LayerInfo) -> dict[int, tuple[BasisInfo, tuple[float, ...]]]:
    """The knots of all nodes that have some, as `knots` returns them."""
    return {node: (basis, source.in_node_units(row)) for node, (basis, source, row) in _rows_by_node(layer).items()}


def _rows_by_node(layer: LayerInfo) -> dict[int, tuple[BasisInfo, SourceUnits, tuple[float, ...]]]:
    """By node the basis, its source, and the knots as the manifest has them."""
    own = [basis for basis in layer.bases if basis.knots and not (basis.pre_steps or basis.per_edge)]
    if not own:
        return {}
    basis = max(own, key=lambda candidate: candidate.functions)
    read = sources(layer) or ()
    rows = basis.knots * len(read) if len(basis.knots) == 1 else basis.knots
    by_node: dict[int, tuple[BasisInfo, SourceUnits, tuple[float, ...]]] = {}
    for source, row in zip(read, rows, strict=False):
        by_node.setdefault(source.node, (basis, source, row))
    return by_node


@dataclass(frozen=True, slots=True)
class SourceUnits:
    """The value that a source of a layer reads: (node - offset) / scale, with a positive scale."""

    node: int
    offset: float = 0.0
    scale: float = 1.0

    def in_node_units(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Values of the source in the units of its node."""
        if (self.offset, self.scale) == (0.0, 1.0):
            return values
        return tuple(self.offset + self.scale * value for value in values)


def sources(layer: LayerInfo) -> tuple[SourceUnits, ...] | None:
    """The units of each source of the layer. None if a step other than a selection, a scaler or a clip changes the
    nodes, so that the knots of the layer are not in proportion to the values of its nodes, or if the steps do not fit
    together. A manifest whose selection does not fit the layer has another number of them."""
    read: tuple[SourceUnits, ...] | None = None
    for step in layer.pre_steps:
        if step.kind != "clip":
            read = _after(step, read)
            if read is None:
                return None
    return tuple(map(SourceUnits, range(layer.sources))) if read is None else read


def _after(step: NodeStep, before: tuple[SourceUnits, ...] | None) -> tuple[SourceUnits, ...] | None:
    """The units after a selection or a scaler; None for another step, or if it does not fit. `before`: None for the
    nodes themselves, whose number the first step shows."""
    if step.kind == "select":
        nodes = range(max(step.indices, default=-1) + 1)
        before = tuple(map(SourceUnits, nodes)) if before is None else before
        return tuple(before[at] for at in step.indices) if len(before) >= len(nodes) else None
    if step.kind != "standardize":
        return None
    before = tuple(map(SourceUnits, range(len(step.scale)))) if before is None else before
    if not len(before) == len(step.bias) == len(step.scale):
        return None
    return tuple(
        SourceUnits(source.node, source.offset + source.scale * offset, source.scale * scale)
        for source, offset, scale in zip(before, step.bias, step.scale, strict=True)
    )


def equal(low: float, high: float) -> tuple[float, ...]:
    """The bounds of equal intervals between two values."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return rounded(np.linspace(low, high, PARTS + 1), high - low)


def rounded(values: npt.ArrayLike, spread: npt.ArrayLike = np.inf) -> tuple[float, ...]:
    """Values rounded to the digits that are stored. `spread`: the distance over which values differ, one for all or one
    for each; a value that is many times as large has as many more digits."""
    array = np.asarray(values, np.float64)
    with np.errstate(all="ignore"):
        more = np.floor(np.log10(np.abs(array) / np.asarray(spread)))
    digits = DIGITS + np.clip(np.where(np.isfinite(more), more, 0), 0, MOST_DIGITS - DIGITS).astype(int)
    return tuple(float(f"{value:.{own}g}") for value, own in zip(array.tolist(), digits.tolist(), strict=True))
