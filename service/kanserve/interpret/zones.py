"""Where values of nodes lie: inside the grid, on its extension, outside; from their counts in cells.

    inside      between the ends of the grid that the function was trained on
    extension   beyond them, but where knots still are: fewer functions, or weaker ones, are at work there
    outside     beyond all knots, where a spline gives nothing

A node without knots has no extension; inside is then what it was on the rows that its cells were made from. Of bells
the cells end with the outermost centres, so that nothing counts as an extension, where `coverage` has three cells of
it.

Shapes: n nodes, K cells.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import LayerInfo
from kanexport.shared import cells, grids
from kanserve.interpret.window import Counts, Window

Span = tuple[float, float]


class Origin(enum.StrEnum):
    """Where the cells of a node come from."""

    GRID = "grid"  # its knots
    REFERENCE = "reference"  # what it was on the rows that the export was given
    DRAWN = "drawn"  # what it was on rows that the export drew from the grid: beyond it means nothing


def core(layer: LayerInfo, node: int) -> Span | None:
    """The ends of the grid of a node that the layer is given; None where it has no knots."""
    found = cells.knots(layer, node)
    if found is None:
        return None
    basis, knots = found
    grid = grids.of_knots(basis.kind, basis.functions, knots)
    return None if grid is None else (grid.low, grid.high)


def zones(window: Window, cores: Sequence[Span | None]) -> Counts:
    """[n, 3]: how many values lay inside, on the extension, and outside."""
    own = window.cells
    at = np.arange(own.shape[1])
    inside = np.zeros(own.shape, bool)
    for node, span in enumerate(cores):
        bounds = own.bounds[: own.lengths[node] - 1, node]
        low, high = (0, len(bounds) - 1) if span is None else (int(np.abs(bounds - end).argmin()) for end in span)
        inside[node] = (at > low) & (at <= high)
    outer: NDArray[np.bool_] = (at == 0) | (at == own.lengths[:, None] - 1)
    masks = (inside & ~outer, own.there & ~inside & ~outer, outer)
    return np.stack([np.where(mask, window.counts, 0).sum(axis=1) for mask in masks], axis=1)
