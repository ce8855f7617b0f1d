"""Where the functions of a basis live, read off its knots: by the exporter and the server alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SPLINE, BUMPS = "bspline", "relu-bumps"
PIECES = frozenset({"piecewise-linear", "piecewise-polynomial"})  # their knots are the ends of cells, and not extended
WIDTHS = 3  # cells beyond the outermost centre that a bell reaches


@dataclass(frozen=True, slots=True)
class Grid:
    """Of one source: the grid itself from `low` to `high`, its functions from `first` to `last`; `cell`: how wide its
    cells are on average."""

    first: float
    low: float
    high: float
    last: float
    cell: float


def of_knots(kind: str, functions: int, knots: Sequence[float]) -> Grid | None:
    """The grid of a basis with so many functions, in the manifest's words; None without two different knots.

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
