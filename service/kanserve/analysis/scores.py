"""Importance of edges, nodes and inputs over a batch: pykan's attribution scores, computed from spreads.

The score of a destination is divided among its edges by the spread of each edge, relative to the spread of their
sum:

    edge_ij = node_j std(phi_ij) / (std(sum_i phi_ij) + 1e-4)        node_i = sum_j edge_ij

The recursion goes from the outputs, which share a score of 1, back to the inputs (pykan, MultKAN.attribute; std
divides by rows - 1). Each factor of a product has the score of the product; other steps pass scores through. Spreads
do not add up, so that the scores of a layer have no fixed sum.

Shapes: S sources, D destinations, n input nodes of a layer, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.manifest import LayerInfo, NodeStep
from kanserve.analysis.histogram import Floats

ScoreArray = NDArray[np.float64]
LEAST = 1e-4  # lower bound of a spread


class Moments:
    """Accumulator of the spread of numbers [...] over rows, one chunk of rows after the other."""

    def __init__(self) -> None:
        self.count = 0
        self._first: ScoreArray | None = None  # origin of all values, because a large mean would hide a small spread
        self._sum: ScoreArray = np.zeros(())
        self._squares: ScoreArray = np.zeros(())

    def add(self, values: NDArray[np.floating]) -> None:
        """Add numbers [N, ...]."""
        if not len(values):
            return
        if self._first is None:
            self._first = values[0].astype(np.float64)
        with np.errstate(all="ignore"):
            deviation = values - self._first
            self._sum = self._sum + deviation.sum(axis=0)
            self._squares = self._squares + (deviation**2).sum(axis=0)
        self.count += len(values)

    def std(self) -> ScoreArray:
        """The spread [...], divided by rows - 1; NaN for fewer than two rows."""
        with np.errstate(all="ignore"):
            variance = (self._squares - self._sum**2 / self.count) / (self.count - 1)
            return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviations of a layer's edges [S, D] and of their sums [D]."""

    edges: ScoreArray
    sums: ScoreArray


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a layer's edges [S, D] and of its input nodes [n]."""

    edges: ScoreArray
    nodes: ScoreArray


def attribute(layers: Sequence[LayerInfo], spreads: Sequence[Spread], widths: Sequence[int]) -> list[Scores]:
    """The scores of each layer. `widths`: the number of input nodes of each layer, and the number of outputs."""
    score = np.full(widths[-1], 1 / widths[-1])
    results: list[Scores] = []
    for layer, spread, width in reversed(list(zip(layers, spreads, widths, strict=False))):
        for step in reversed(layer.post_steps):
            score = _before(step, score)
        with np.errstate(all="ignore"):
            edges = spread.edges * (score / (spread.sums + LEAST))
        score = edges.sum(axis=1)
        for step in reversed(layer.pre_steps):
            score = _before(step, score, width)
        results.append(Scores(edges, score))
    return results[::-1]


def _before(step: NodeStep, score: ScoreArray, width: int = 0) -> ScoreArray:
    """The scores of the inputs of a step, from those of its results."""
    if step.kind == "product":
        return np.repeat(score, step.indices)
    if step.kind == "select":
        spread = np.zeros(width or max(step.indices) + 1)
        np.add.at(spread, list(step.indices), score)
        return spread
    return score


class Weighted:
    """Accumulator of the spread of numbers [S, D] over weighted points, one chunk of points after the other."""

    def __init__(self, sources: int, destinations: int) -> None:
        shape = sources, destinations
        self._count: Floats = np.zeros((sources, 1))
        self._first, self._begun = np.zeros(shape), np.zeros((sources, 1), bool)
        self._sum, self._squares = np.zeros(shape), np.zeros(shape)

    def add(self, values: NDArray[np.floating], weights: Floats) -> None:
        """Add numbers [P, S, D] with weights [P, S]. Numbers without weight are ignored."""
        for value, weight in zip(values.astype(np.float64), weights, strict=True):
            at = weight[:, None] > 0
            self._first = np.where(at & ~self._begun, value, self._first)  # a large mean would hide a small spread
            self._begun |= at
            with np.errstate(all="ignore"):
                deviation = np.where(at, value - self._first, 0.0)
                self._sum += weight[:, None] * deviation
                self._squares += weight[:, None] * deviation**2
        self._count += weights.sum(axis=0)[:, None]

    def std(self) -> Floats:
        """The spread [S, D], divided by the number of values minus 1; NaN for fewer than two values."""
        with np.errstate(all="ignore"):
            variance = (self._squares - self._sum**2 / self._count) / np.where(self._count > 1, self._count - 1, np.nan)
            return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def sums(layer: LayerInfo, edges: Floats, spreads: Floats | None) -> tuple[Floats, bool]:
    """Spreads [D] of the sums of a layer's edges, and whether they were counted. They follow from the spreads `spreads`
    of the layer's results; if these are None, from the spreads `edges` [S, D] of its edges."""
    for step in reversed(layer.post_steps if spreads is not None else ()):
        scale = np.abs(np.array(step.scale))
        if spreads is None or step.kind != "affine" or not scale.all() or len(scale) not in (0, 1, len(spreads)):
            spreads = None  # the step cannot be inverted for spreads
            break
        spreads = spreads / scale if len(scale) else spreads
    if spreads is not None and len(spreads) == edges.shape[1]:
        return spreads, True
    with np.errstate(all="ignore"):
        return np.sqrt((edges**2).sum(axis=0)), False
