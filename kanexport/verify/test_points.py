"""Test rows for a layer at critical places: in the grid, next to it, far from it, on knots, NaN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.ir import scaling
from kanexport.ir.model import EdgeTerm, Layer
from kanexport.ir.scaling import Standardize
from kanexport.ir.steps import Affine, Select

Array = npt.NDArray[np.float64]

ZONES = ("inside", "extension", "knots", "far", "nonfinite")
EDGE_BUDGET = 6_000_000  # edge values computed per zone and layer
FARTHEST = 1e30
BASIS_BUDGET = 4_000_000  # basis values held at a time


def basis_size(layer: Layer) -> int:
    """The number of basis values for one row of a layer, which can be large for a small file."""
    return layer.sources * max((term.functions for term in layer.terms), default=1)


def edge_count(layer: Layer) -> int:
    """The number of edges per row. An edge counts more if its function takes more time than an ordinary one."""
    effort = max((term.function.effort for term in layer.terms if isinstance(term, EdgeTerm)), default=1)
    return layer.mask.size * effort


def zone_rows(layer: Layer, width: int, seed: int, *, size: int = 0, dtype: str = "float32") -> dict[str, Array]:
    """Rows [B, width] of a layer's input vector, by zone (ZONES); all representable in float32, or in `dtype` if the
    layer has a scaler, whose offset may need more digits.

    inside     within the grid            extension  between its ends and the last knots
    knots      on every knot, and beside  far        up to a hundred spans beyond
    nonfinite  NaN and infinities in one place or all

    `size`: the largest `basis_size` that a row meets on its way, if larger than the layer's."""
    rng = np.random.default_rng(seed)
    support = layer.support()
    most = max(3, BASIS_BUDGET // max(size, basis_size(layer)))
    count = int(np.clip(EDGE_BUDGET // edge_count(layer), 3, min(32, most)))
    (low, high), (first, last) = (tuple(map(_bounded, pair)) for pair in (support.core, support.outer))
    span, points = last - first, _bounded(support.points)
    below = rng.uniform(first, low, size=(count, len(low)))
    above = rng.uniform(high, last, size=(count, len(low)))
    side = rng.random((count, len(low))) < 0.5
    reach = np.array([0.01, 1.0, 3.0, 100.0])[:, None]
    zones = {
        "inside": rng.uniform(low, high, size=(count, len(low))),
        "extension": np.where(side, below, above),
        "knots": _knots(points, most, neighbours=len(points) * edge_count(layer) <= EDGE_BUDGET),
        "far": np.concatenate([first - reach * span, last + reach * span]),
        "nonfinite": _nonfinite(rng.uniform(low, high)),
    }
    with np.errstate(invalid="ignore", over="ignore"):
        stored = np.float32 if scaling.standardize(layer) is None else np.dtype(dtype)
        return {name: _widen(layer, rows, width).astype(stored).astype(np.float64) for name, rows in zones.items()}


def _bounded(values: Array) -> Array:
    """The values, limited so that the range is finite."""
    return np.clip(np.nan_to_num(values), -FARTHEST, FARTHEST)


def _knots(points: Array, most: int, *, neighbours: bool) -> Array:
    """Every point, and its float32 neighbors; if there are too many, an even selection of `most`. Each source is at
    another one of its points, because a row of equal values tests nothing of a normalization."""
    if len(points) * (3 if neighbours else 1) > most:
        neighbours = neighbours and most >= 9
        points = points[
            np.unique(np.linspace(0, len(points) - 1, most // (3 if neighbours else 1)).round().astype(int))
        ]
    place = (np.arange(len(points))[:, None] + np.arange(points.shape[1])) % len(points)
    single = np.take_along_axis(points, place, axis=0).astype(np.float32)
    if not neighbours:
        return single.astype(np.float64)
    adjacent = [np.nextafter(single, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([single, *adjacent]).astype(np.float64)


def _nonfinite(row: Array) -> Array:
    """One ordinary row, then rows with NaN or an infinity in the first, the middle, the last or every place."""
    rows = [row]
    for value in (np.nan, np.inf, -np.inf):
        for place in sorted({0, len(row) // 2, len(row) - 1}):
            spoilt = row.copy()
            spoilt[place] = value
            rows.append(spoilt)
        rows.append(np.full_like(row, value))
    return np.array(rows)


def _widen(layer: Layer, rows: Array, width: int) -> Array:
    """Input vectors of a layer from values of its sources, the inverse of selections and scalings."""
    for step in reversed(layer.pre_steps):
        if isinstance(step, Affine):
            rows = (rows - step.bias) / np.where(step.scale == 0, 1, step.scale)
        if isinstance(step, Standardize):
            rows = rows * step.scale + step.offset
        if isinstance(step, Select):
            wide = np.full((len(rows), width), 0.25)
            wide[:, list(step.indices)] = rows
            rows = wide
    return rows
