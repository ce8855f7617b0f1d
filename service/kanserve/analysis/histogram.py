"""Histogram of node values in bounded memory: counts per bin, and moments of each bin.

Counts add up exactly, over windows and processes; the moments of each bin do so up to rounding. With the moments, a
few wide bins are as good as many narrow ones for all figures that are derived from a histogram: see `points`.

Shapes: N rows, n nodes, K bins; the outer two have no end.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
AT_ONCE = 2**20  # comparisons
ALIKE = 0.1  # of a bin: largest distance of a bound from its place among equal bins


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Histogram bins of n nodes, padded to K."""

    bounds: Floats  # [K - 1, n], infinite beyond a node's own bounds
    lengths: Counts  # [n], the number of bins of each node
    last: Floats  # [n], the last bound
    middles: Floats  # [n, K], the origin of the moments of each bin
    steps: Floats | None  # [n], the width of the bins if those of a node are equal up to a tenth; None if some are not

    @classmethod
    def from_bounds(cls, bounds: Sequence[Sequence[float]], nodes: int) -> Cells:
        """Ascending bounds of the bins of each node, or one row for all nodes."""
        longest = max(map(len, bounds))
        padded = np.array([(*row, *[np.inf] * (longest - len(row))) for row in bounds])
        lengths, last = np.array([len(row) + 1 for row in bounds]), np.array([row[-1] for row in bounds])
        if len(bounds) == 1:
            padded, lengths, last = (np.repeat(part, nodes, axis=0) for part in (padded, lengths, last))
        clipped = np.minimum(padded, last[:, None])
        middles = np.concatenate([clipped[:, :1], clipped[:, :-1] / 2 + clipped[:, 1:] / 2, clipped[:, -1:]], axis=1)
        steps = None
        if not (lengths < 3).any():
            widths, numbers = (clipped[:, -1] - clipped[:, 0]) / (lengths - 2), np.arange(clipped.shape[1])
            equal = clipped[:, 0] + numbers[:, None] * widths
            alike = np.abs(clipped - equal.T) <= ALIKE * widths[:, None]
            inner = numbers[None] < lengths[:, None] - 1
            if bool((alike | ~inner).all() and (widths > 0).all()):
                steps = widths
        return cls(padded.T, lengths, last, middles, steps)

    def places(self, values: Floats) -> Counts:
        """The bin [N, n] of each finite value. A value on a bound is in the bin above it; on the last bound, it is in
        the last bin."""
        if self.steps is None:
            indices: Counts = (values[None] >= self.bounds[:, None]).sum(axis=0)
            return np.asarray(indices - (values == self.last))
        # The place of an equal bin, which is wrong by at most one because of rounding or 10% of a bin.
        with np.errstate(over="ignore"):
            about = np.floor((values - self.bounds[0]) / self.steps) + 1
        guess = np.clip(about, 1, self.lengths - 2).astype(np.int64)
        at = np.arange(len(self.lengths))
        guess += (values >= self.bounds[guess, at]).astype(np.int64) - (values < self.bounds[guess - 1, at])
        return np.asarray(guess - (values == self.last))

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers n and K."""
        nodes, cells = self.middles.shape
        return nodes, cells

    @property
    def there(self) -> NDArray[np.bool_]:
        """Flags [n, K] of the bins of each node."""
        return np.asarray(np.arange(self.shape[1]) < self.lengths[:, None])


def split(bounds: Sequence[float], times: int) -> list[float]:
    """Bounds of equal bins for each node."""
    shares = [at / times for at in range(times)]
    return [
        *(low * (1 - share) + high * share for low, high in itertools.pairwise(bounds) for share in shares),
        bounds[-1],
    ]


class Window:
    """Histogram of some nodes.

    counts     [n, K], number of values
    nonfinite  [n], number of values that are not finite and in no bin
    sums       [n, K], sums of the deviations from the middle of the bin
    squares    [n, K], sums of the squares of these deviations
    min, max   [n], the extremes
    """

    def __init__(self, cells: Cells) -> None:
        nodes = cells.shape[0]
        self.cells = cells
        self.counts: Counts = np.zeros(cells.shape, np.int64)
        self.nonfinite: Counts = np.zeros(nodes, np.int64)
        self.sums, self.squares = np.zeros(cells.shape), np.zeros(cells.shape)
        self.min, self.max = np.full(nodes, np.inf), np.full(nodes, -np.inf)

    @property
    def lengths(self) -> Counts:
        """[n]"""
        return self.cells.lengths

    def add(self, nodes: NDArray[np.floating]) -> None:
        """Count values [N, n]. A value on a bound is in the bin above it; on the last bound, in the last bin, as in the
        baseline."""
        step = max(1, AT_ONCE // self.cells.bounds.size)
        for at in range(0, len(nodes), step):
            values = nodes[at : at + step].astype(np.float64)
            finite = np.isfinite(values)
            self.nonfinite += (~finite).sum(axis=0)
            places = self.cells.places(np.where(finite, values, 0.0))
            width, cells = self.cells.shape
            flat, own = (places + np.arange(width) * cells)[finite], values[finite]
            self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
            with np.errstate(over="ignore"):
                deviation = own - self.cells.middles.ravel()[flat]
                for kept, what in ((self.sums, deviation), (self.squares, deviation**2)):
                    kept += np.bincount(flat, weights=what, minlength=kept.size).reshape(kept.shape)
            self.min = np.minimum(self.min, np.where(finite, values, np.inf).min(axis=0, initial=np.inf))
            self.max = np.maximum(self.max, np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf))

    def plus(self, other: Window) -> Window:
        """Sum of two windows with the same bins."""
        both = copy.copy(self)
        for name in ("counts", "nonfinite", "sums", "squares"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        both.min, both.max = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return both

    def folded(self, cells: Cells, times: int) -> Window:
        """Histogram in coarser bins, which combine `times` bins each."""
        whole, count = Window(cells), cells.shape[1]
        starts = np.concatenate([[0], 1 + times * np.arange(count - 1)])
        into = np.repeat(np.arange(count), np.diff([*starts, self.counts.shape[1]]))
        shift = np.where(self.cells.there, self.cells.middles - cells.middles[:, into], 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            squares = self.squares + 2 * shift * self.sums + self.counts * shift**2
            sums = self.sums + self.counts * shift
        parts = (("counts", self.counts), ("sums", sums), ("squares", squares))
        for name, values in parts:
            setattr(whole, name, np.add.reduceat(values, starts, axis=1))
        whole.nonfinite, whole.min, whole.max = self.nonfinite, self.min, self.max
        return whole

    @property
    def values(self) -> Counts:
        """Number of values in a bin [n]."""
        return np.asarray(self.counts.sum(axis=1))

    def moments(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of the values, divided by their number minus 1; NaN for too few values."""
        with np.errstate(all="ignore"):
            count = self.values.astype(np.float64)
            mean = (self.counts * self.cells.middles + self.sums).sum(axis=1) / count
            deviation = self.cells.middles - mean[:, None]
            squares = self.squares + 2 * deviation * self.sums + self.counts * deviation**2
            variance = squares.sum(axis=1) / np.where(count > 1, count - 1, np.nan)
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def points(self) -> tuple[Floats, Floats]:
        """[n, 2 K] each: two values for every cell, as far to either side of the mean of its values as these spread,
        and how many values each stands for. Numbers of values, mean and variance are those that were counted, in every
        cell, so that sums of a function over the points are those over the values where it is a parabola."""
        with np.errstate(all="ignore"):
            mean = np.where(self.counts, self.sums / np.maximum(self.counts, 1), 0.0)
            spread = np.sqrt(np.maximum(self.squares / np.maximum(self.counts, 1) - mean**2, 0.0))
        middle = self.cells.middles + mean
        pair = np.stack([middle - spread, middle + spread], axis=2)
        weights = np.repeat(self.counts[:, :, None] / 2, 2, axis=2)
        return pair.reshape(len(pair), -1), weights.reshape(len(pair), -1)
