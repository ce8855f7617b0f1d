"""Which edges, nodes and inputs matter over a batch: pykan's attribution scores, from spreads alone.

A destination's score is divided among its edges by how much each of them moves, compared with how much their sum moves:

    edge_ij = node_j std(phi_ij) / (std(sum_i phi_ij) + 1e-4)        node_i = sum_j edge_ij

from the outputs, which share a score of 1, back to the inputs (pykan, MultKAN.attribute; std divides by rows - 1). A
product's factors have its score each; other steps pass scores through. Spreads do not add up, so that scores of a layer
have no fixed sum.

Shapes: S sources, D destinations, n nodes that a layer is given, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import LayerInfo, NodeStep

Floats = NDArray[np.float64]
LEAST = 1e-4  # what a spread is never less than


class Moments:
    """Spread of numbers [...] over rows, one piece of rows after the other."""

    def __init__(self) -> None:
        self.count = 0
        self._first: Floats | None = None  # what all are counted from: a large mean would swallow a small spread
        self._sum: Floats = np.zeros(())
        self._squares: Floats = np.zeros(())

    def add(self, values: NDArray[np.floating]) -> None:
        """[N, ...]"""
        if not len(values):
            return
        if self._first is None:
            self._first = values[0].astype(np.float64)
        with np.errstate(all="ignore"):
            apart = values - self._first
            self._sum = self._sum + apart.sum(axis=0)
            self._squares = self._squares + (apart**2).sum(axis=0)
        self.count += len(values)

    def std(self) -> Floats:
        """[...]: divided by rows - 1; NaN below two rows."""
        with np.errstate(all="ignore"):
            variance = (self._squares - self._sum**2 / self.count) / (self.count - 1)
            return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


@dataclass(frozen=True, slots=True)
class Spread:
    """How much a layer's edges [S, D] and their sums [D] move."""

    edges: Floats
    sums: Floats


@dataclass(frozen=True, slots=True)
class Scores:
    """Of a layer's edges [S, D], and of the nodes that it is given [n]."""

    edges: Floats
    nodes: Floats


def attribute(layers: Sequence[LayerInfo], spreads: Sequence[Spread], widths: Sequence[int]) -> list[Scores]:
    """The scores of each layer. `widths`: how many nodes each layer is given, and the number of outputs."""
    score = np.full(widths[-1], 1 / widths[-1])
    found: list[Scores] = []
    for layer, spread, width in reversed(list(zip(layers, spreads, widths, strict=False))):
        for step in reversed(layer.after):
            score = _before(step, score)
        with np.errstate(all="ignore"):
            edges = spread.edges * (score / (spread.sums + LEAST))
        score = edges.sum(axis=1)
        for step in reversed(layer.before):
            score = _before(step, score, width)
        found.append(Scores(edges, score))
    return found[::-1]


def _before(step: NodeStep, score: Floats, width: int = 0) -> Floats:
    """The scores of what a step takes, from those of what it gives."""
    if step.kind == "product":
        return np.repeat(score, step.indices)
    if step.kind == "select":
        spread = np.zeros(width or max(step.indices) + 1)
        np.add.at(spread, list(step.indices), score)
        return spread
    return score
