"""How far what the nodes are now is from what they were: on counts in cells, with what chance alone would give.

For each node, from its counts in a reference of m rows and in a window of n rows, as shares p and q with half a value
added to each count:

    PSI            sum (q - p) ln(q / p), the population stability index
    JS             Jensen-Shannon divergence in bits, 0 to 1
    Wasserstein    sum |Q - P| of the cumulated shares: by how many cells the values moved on average
    outside        the share of values below the first bound and above the last

Where nothing has changed, PSI is about (1/n + 1/m) times a chi-squared number with as many degrees as there are cells
less one (Yurdakul 2018). `chance` is what it stays below in 99 of 100 windows, for all nodes of a layer together: a
window of a few rows cannot cry wolf.

Shapes: n nodes, K cells, of which the outer two have no end.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.baseline import NodeBaseline

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
ADDED = 0.5  # to each count
LEVEL = 0.01  # of windows in which nothing has changed, and which are taken for changed all the same


class Window:
    """What some nodes were, in the cells of their baseline: counts [n][K] and what is not finite [n]."""

    def __init__(self, baseline: NodeBaseline) -> None:
        self._cells = [np.asarray(row) for row in baseline.cells]
        self.counts: list[Counts] = [np.zeros(len(row), np.int64) for row in baseline.counts]
        self.nonfinite = np.zeros(len(baseline.counts), np.int64)

    def add(self, nodes: NDArray[np.floating]) -> None:
        """[N, n]. On a bound a value is in the cell above it, on the last in the last, as for the baseline."""
        finite = np.isfinite(nodes)
        self.nonfinite += (~finite).sum(axis=0)
        for at, counted in enumerate(self.counts):
            bounds = self._cells[at if len(self._cells) > 1 else 0]
            values = nodes[finite[:, at], at]
            places = np.searchsorted(bounds, values, side="right")
            places[values == bounds[-1]] = len(bounds) - 1
            counted += np.bincount(places, minlength=len(bounds) + 1)


@dataclass(frozen=True, slots=True)
class Drift:
    """Of some nodes, each [n]. `chance`: what `psi` stays below where nothing has changed; `before`: the share of
    values that were outside in the reference."""

    psi: Floats
    js: Floats
    wasserstein: Floats
    chance: Floats
    outside: Floats
    before: Floats

    @property
    def drifted(self) -> NDArray[np.bool_]:
        """[n]: whose values have moved, by more than chance."""
        return np.asarray(self.psi > self.chance)


def compare(baseline: NodeBaseline, before: int, counts: Sequence[Counts], now: int) -> Drift:
    """`before` rows were in the baseline, `now` are in the window."""
    nodes = len(baseline.counts)
    numbers = [
        _node(np.asarray(reference, np.int64), window, before, now, LEVEL / nodes)
        for reference, window in zip(baseline.counts, counts, strict=True)
    ]
    return Drift(*(np.array(column, np.float64) for column in zip(*numbers, strict=True)))


def _node(reference: Counts, window: Counts, before: int, now: int, level: float) -> tuple[float, ...]:
    p, q = ((counts + ADDED) / (counts.sum() + ADDED * len(counts)) for counts in (reference, window))
    middle = (p + q) / 2
    js = float((p * np.log2(p / middle)).sum() + (q * np.log2(q / middle)).sum()) / 2
    chance = (1 / max(now, 1) + 1 / max(before, 1)) * chi_squared(1 - level, len(p) - 1)
    return (
        float(((q - p) * np.log(q / p)).sum()),
        js,
        float(np.abs(np.cumsum(q - p))[:-1].sum()),
        chance,
        _outside(window),
        _outside(reference),
    )


def _outside(counts: Counts) -> float:
    total = int(counts.sum())
    return float(counts[0] + counts[-1]) / total if total else math.nan


def chi_squared(share: float, degrees: int) -> float:
    """What a chi-squared number stays below with this probability (Wilson and Hilferty 1931)."""
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    return degrees * max(0.0, 1 - part + statistics.NormalDist().inv_cdf(share) * math.sqrt(part)) ** 3
