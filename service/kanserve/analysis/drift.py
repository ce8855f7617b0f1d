"""Drift of nodes from a baseline: measures on histogram counts, with their threshold without drift.

For each node, p and q are the shares of values per bin, in a baseline of m rows and in a window of n rows. Half a
value is added to each count.

    PSI            sum (q - p) ln(q / p), the population stability index
    JS             Jensen-Shannon divergence in bits, 0 to 1
    Wasserstein    sum |Q - P| of the cumulated shares: the number of bins that values moved on average
    out of range   the share of values below the first bound and above the last

Without drift, PSI is about (1/n + 1/m) times a chi-squared number, whose degrees of freedom are the number of bins
less one (Yurdakul 2018). `psi_threshold` is the 99th percentile of PSI without drift, for all nodes of the model
together. So in about 1% of the windows without drift, any node is above it. Windows of a few rows raise fewer alarms.

Shapes: n nodes, K bins; the outer two have no end.
"""

from __future__ import annotations

import enum
import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import grids
from kanexport.shared.manifest import BasisInfo, LayerInfo
from kanexport.shared.sections import NodeBaseline
from kanserve.analysis.histogram import Counts, Floats, Window

ADDED = 0.5  # to each count
LEVEL = 0.01  # rate of false alarms: windows without drift in which a node of the model is above the threshold
STEPS = 50  # of Newton's method; about 5 are enough


@dataclass(frozen=True, slots=True)
class Drift:
    """Drift of some nodes; every array is [n]."""

    psi: Floats
    js: Floats
    wasserstein: Floats
    psi_threshold: Floats  # 99th percentile of `psi` without drift
    out_of_range: Floats
    baseline_out_of_range: Floats  # share of out-of-range values in the baseline

    @property
    def ratio(self) -> float:
        """The largest ratio of PSI to its threshold."""
        return float(np.max(ratios(self.psi, self.psi_threshold), initial=0.0))

    @property
    def drifted(self) -> NDArray[np.bool_]:
        """[n]: nodes whose PSI is above the threshold."""
        return np.asarray(self.psi > self.psi_threshold)


def ratios(psi: Floats, threshold: Floats) -> Floats:
    """[n]: PSI of each node, divided by its no-drift threshold."""
    return np.asarray(psi / np.maximum(threshold, 1e-12))


def compare(baseline: NodeBaseline, baseline_rows: int, window: Window, window_rows: int, nodes: int = 0) -> Drift:
    """The drift of a window of `window_rows` rows from a baseline of `baseline_rows` rows. `nodes`: the number of
    compared nodes of the model; 0: only those of the window."""
    reference = padded(baseline.counts, window.counts.shape[1])
    return compare_counts(reference, baseline_rows, window.counts, window_rows, window.lengths, nodes)


def compare_counts(
    reference: Counts, baseline_rows: int, counts: Counts, window_rows: int, lengths: Counts, nodes: int = 0
) -> Drift:
    """The same for counts [n, K]. The first `lengths` [n] counts of a node are its bins."""
    nodes = nodes or len(lengths)
    there = np.asarray(np.arange(counts.shape[1]) < lengths[:, None])
    added = (np.where(there, each + ADDED, 0.0) for each in (reference, counts))
    p, q = (np.asarray(each / each.sum(axis=1, keepdims=True)) for each in added)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = ((q, p), (p, middle), (q, middle))
        of_both, of_p, of_q = [np.where(there, np.log(part / other), 0.0) for part, other in pairs]
    level = {int(length): chi_squared(1 - LEVEL / nodes, int(length) - 1) for length in set(lengths.tolist())}
    return Drift(
        psi=((q - p) * of_both).sum(axis=1),
        js=((p * of_p).sum(axis=1) + (q * of_q).sum(axis=1)) / 2 / math.log(2),
        wasserstein=np.abs(np.cumsum(q - p, axis=1)).sum(axis=1),
        psi_threshold=(1 / max(window_rows, 1) + 1 / max(baseline_rows, 1))
        * np.array([level[int(length)] for length in lengths]),
        out_of_range=_outside(counts, lengths),
        baseline_out_of_range=_outside(reference, lengths),
    )


def padded(counts: Iterable[Sequence[int]], longest: int) -> Counts:
    """[n, longest], with zeros beyond the counts of a node."""
    return np.array([(*row, *[0] * (longest - len(row))) for row in counts], np.int64)


def _outside(counts: Counts, lengths: Counts) -> Floats:
    """A measure per node [n]; NaN for a node without values."""
    last = counts[np.arange(len(counts)), lengths - 1]
    with np.errstate(invalid="ignore"):
        return np.asarray((counts[:, 0] + last) / counts.sum(axis=1))


@functools.lru_cache(2**10)
def chi_squared(share: float, degrees: int) -> float:
    """Quantile of the chi-squared distribution, above 0: Newton's method on the logarithm of the tail, from the
    approximation of Wilson and Hilferty (1931)."""
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    value = degrees * max(0.01, 1 - part + statistics.NormalDist().inv_cdf(share) * math.sqrt(part)) ** 3
    for _ in range(STEPS):
        # The regularized incomplete gamma function, a finite sum for whole degrees.
        half, first = value / 2, (degrees % 2) / 2
        powers = (first + at for at in range(degrees // 2))
        terms = (math.exp(power * math.log(half) - half - math.lgamma(power + 1)) for power in powers)
        tail = math.fsum(terms) + (math.erfc(math.sqrt(half)) if degrees % 2 else 0.0)
        density = math.exp((degrees / 2 - 1) * math.log(value / 2) - value / 2 - math.lgamma(degrees / 2)) / 2
        step = tail / density * math.log(tail / (1 - share))
        value = max(value + step, value / 2)
        if abs(step) < 1e-12 * value:
            break
    return value


Span = tuple[float, float]


class Origin(enum.StrEnum):
    """Origin of the histogram bins of a node."""

    GRID = "grid"  # its knots
    REFERENCE = "reference"  # its values on the baseline rows of the export
    DRAWN = "drawn"  # its values on rows that the export drew from the grid; values outside mean nothing


def core(layer: LayerInfo, node: int) -> Span | None:
    """The ends of the grid of an input node of the layer; None for a node without knots."""
    return span(grids.knots(layer, node))


def span(entry: tuple[BasisInfo, tuple[float, ...]] | None) -> Span | None:
    """The ends of the grid with these knots of this basis; None without knots."""
    return None if entry is None else _ends(entry[0].kind, entry[0].functions, entry[1])


@functools.lru_cache(grids.SAME)
def _ends(kind: str, functions: int, knots: tuple[float, ...]) -> Span | None:
    grid = grids.of_knots(kind, functions, knots)
    return None if grid is None else (grid.low, grid.high)


def zones(window: Window, cores: Sequence[Span | None]) -> Counts:
    """Number of values in grid, in the extended grid and out of grid [n, 3]."""
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
