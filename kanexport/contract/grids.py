"""Grid of a basis, derived from its knots. The exporter and the server use the same code."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from kanexport.contract.manifest import SAME_UNITS, BasisInfo, LayerInfo

SPLINE, BUMPS = "bspline", "relu-bumps"
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
    relu-bumps    the ends of all bumps; the grid is the middle half, as for the proof of an export
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
    if kind == BUMPS:
        quarter = (last - first) / 4
        return Grid(first, first + quarter, last - quarter, last, (last - first) / max(1, functions))
    cell = (last - first) / cells
    reach = 0.0 if kind in PIECES else WIDTHS * cell
    return Grid(first - reach, first, last, last + reach, cell)


Floats = NDArray[np.float64]
PARTS = 16  # of what was seen, where a node has no grid
DIGITS = 9  # of what is written: of a float32


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
    return rounded(sorted(set(knots)))


def knots(layer: LayerInfo, node: int) -> tuple[BasisInfo, tuple[float, ...]] | None:
    """The knots of a node as they are in the manifest, and their basis: the one with most functions among those that
    read the sources unchanged."""
    return knots_by_node(layer).get(node)


def knots_by_node(layer: LayerInfo) -> dict[int, tuple[BasisInfo, tuple[float, ...]]]:
    """The knots of all nodes that have some, as `knots` returns them."""
    own = [basis for basis in layer.bases if basis.knots and not (basis.pre_steps or basis.per_edge)]
    if not own:
        return {}
    basis = max(own, key=lambda candidate: candidate.functions)
    columns = _columns(layer)
    rows = basis.knots * len(columns) if len(basis.knots) == 1 else basis.knots
    by_node: dict[int, tuple[BasisInfo, tuple[float, ...]]] = {}
    for node, row in zip(columns, rows, strict=False):
        by_node.setdefault(node, (basis, row))
    return by_node


def _columns(layer: LayerInfo) -> tuple[int, ...]:
    """The nodes that the sources of the layer read unchanged. Empty if a step changes them."""
    if any(step.kind not in SAME_UNITS for step in layer.pre_steps):
        return ()
    return next((step.indices for step in layer.pre_steps if step.kind == "select"), tuple(range(layer.sources)))


def equal(low: float, high: float) -> tuple[float, ...]:
    """The bounds of equal intervals between two values."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return rounded(np.linspace(low, high, PARTS + 1))


def rounded(values: npt.ArrayLike) -> tuple[float, ...]:
    """Values rounded to the digits that are stored."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in np.asarray(values).tolist())
