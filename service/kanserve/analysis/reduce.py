"""Reductions of edge values over many rows: mean, spread, extremes, quantiles and histogram of each edge.

Shapes: N executions of a layer, rows x positions; the axes of the edges [...] are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kanserve.analysis.scores import Moments

Floats = NDArray[np.floating]
QUANTILES, HISTOGRAM, BOUNDS = "quantiles", "histogram", "histogram_bounds"
KEPT = frozenset({QUANTILES, HISTOGRAM})  # need all values at the same time
USUAL, BINS, MOST_BINS = (0.05, 0.25, 0.5, 0.75, 0.95), 16, 256


class Reducer:
    """Accumulator of figures of numbers [...] over N, one chunk after the other. A value that is not a number makes
    all figures of its edge NaN; the histogram counts only finite values."""

    def __init__(self, names: Sequence[str], edges: tuple[int, ...], quantiles: Sequence[float], bins: int) -> None:
        """Create a reducer for the figures `names` (some of ALL) of values with the shape `edges` [...]."""
        self._names, self._edges = tuple(names), edges
        self._quantiles, self._bins = tuple(quantiles), bins
        self._moments = Moments()
        self._sum, self._magnitude = np.zeros(edges), np.zeros(edges)
        self._low, self._high = np.full(edges, np.inf), np.full(edges, -np.inf)
        self._kept: list[Floats] = []

    def add(self, values: Floats) -> None:
        """Add values [N, ...]."""
        if not len(values):
            return
        self._moments.add(values)
        with np.errstate(all="ignore"):
            self._sum += values.sum(axis=0, dtype=np.float64)
            self._magnitude += np.abs(values).sum(axis=0, dtype=np.float64)
        self._low = np.minimum(self._low, values.min(axis=0))
        self._high = np.maximum(self._high, values.max(axis=0))
        if KEPT & set(self._names):
            self._kept.append(values)

    def result(self) -> tuple[tuple[str, NDArray[np.float32]], ...]:
        """Figures by name, in the requested order: [...]; quantiles [Q, ...]; histogram [bins, ...], followed by the
        bounds of its bins [bins + 1, ...]. NaN if there was no value."""
        figures: list[tuple[str, NDArray[np.float32]]] = []
        for name in self._names:
            if name == HISTOGRAM:
                counts, bounds = histogram(self._all(), self._bins)
                figures += [(HISTOGRAM, _float32(counts)), (BOUNDS, _float32(bounds))]
            else:
                figures.append((name, _float32(self._figure(name))))
        return tuple(figures)

    def _all(self) -> Floats:
        return np.concatenate(self._kept) if self._kept else np.zeros((0, *self._edges))

    def _figure(self, name: str) -> NDArray[np.float64]:
        """A figure [...]; quantiles [Q, ...]."""
        if name == QUANTILES:
            values = self._all() if self._moments.count else np.full((1, *self._edges), np.nan)
            with np.errstate(all="ignore"):
                return np.asarray(np.quantile(values.astype(np.float64), self._quantiles, axis=0))
        if not self._moments.count:
            return np.full(self._edges, np.nan)
        with np.errstate(all="ignore"):
            match name:
                case "mean":
                    return np.asarray(self._sum / self._moments.count)
                case "mean_magnitude":
                    return np.asarray(self._magnitude / self._moments.count)
                case "std":
                    return np.broadcast_to(self._moments.std(), self._edges)
                case "min":
                    return self._low
        return self._high


ALL = ("mean", "mean_magnitude", "std", "min", "max", QUANTILES, HISTOGRAM)


def histogram(values: Floats, bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts [bins, ...] of the finite values of [N, ...] in equal bins from the smallest to the largest value, and the
    bounds of the bins [bins + 1, ...]. If all values are equal, they are in the middle of a range of width 1. Without
    values, all counts are 0."""
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf).min(axis=0, initial=np.inf).astype(np.float64)
    high = np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf).astype(np.float64)
    none = low > high
    low, high = np.where(none, 0.0, low), np.where(none, 0.0, high)
    flat = low == high
    low, high = np.where(flat, low - 0.5, low), np.where(flat, high + 0.5, high)
    steps = np.arange(bins + 1).reshape(-1, *(1,) * low.ndim) / bins
    with np.errstate(all="ignore"):
        bounds = low * (1 - steps) + high * steps  # high - low may exceed a float64
        at = np.where(finite, (values - low) / (high - low) * bins, -1.0)
    cell = np.minimum(np.floor(np.where(finite, at, -1.0)), bins - 1)
    counts = np.stack([(cell == part).sum(axis=0) for part in range(bins)])
    return counts.astype(np.float64), bounds


def _float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # a value that is too large becomes infinite, as in the format
        return np.ascontiguousarray(values, dtype=np.float32)
