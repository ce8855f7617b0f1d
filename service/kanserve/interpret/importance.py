"""How much edges move, from where their sources were: a curve held against counts, without a value of any row.

A window has for every cell of a source two points that stand for its values (`Window.points`). With phi there, weighted
by how many values each stands for, mean and standard deviation of an edge follow; exactly so where phi is straight
within a cell, and closely where the cells are those of its spline.

What the edges of a node add up to is not told by their sources apart, which may go together. It is what the next layer
is given, or the answer, undone by what stands between; its spread was counted. Where that cannot be undone, sources are
taken as independent.

Shapes: P points, S sources, D destinations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import LayerInfo
from kanserve.interpret.window import Floats


class Weighted:
    """Spread of numbers [S, D] over points that stand for so many values each, one piece of points after the other."""

    def __init__(self, sources: int, destinations: int) -> None:
        shape = sources, destinations
        self._count: Floats = np.zeros((sources, 1))
        self._first, self._begun = np.zeros(shape), np.zeros((sources, 1), bool)
        self._sum, self._squares = np.zeros(shape), np.zeros(shape)

    def add(self, values: NDArray[np.floating], weights: Floats) -> None:
        """[P, S, D] and [P, S]; what has no weight may be anything."""
        for value, weight in zip(values.astype(np.float64), weights, strict=True):
            at = weight[:, None] > 0
            self._first = np.where(at & ~self._begun, value, self._first)  # a large mean would swallow a small spread
            self._begun |= at
            with np.errstate(all="ignore"):
                apart = np.where(at, value - self._first, 0.0)
                self._sum += weight[:, None] * apart
                self._squares += weight[:, None] * apart**2
        self._count += weights.sum(axis=0)[:, None]

    def std(self) -> Floats:
        """[S, D]: divided by the number of values less one; NaN below two."""
        with np.errstate(all="ignore"):
            variance = (self._squares - self._sum**2 / self._count) / np.where(self._count > 1, self._count - 1, np.nan)
            return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def sums(layer: LayerInfo, edges: Floats, given: Floats | None) -> tuple[Floats, bool]:
    """[D]: how much the sums of a layer's edges move, whose spreads are `edges` [S, D], and whether that was counted:
    from the spreads `given` of what it gives to the next layer, or as the answer; None where these are not known."""
    known = None if given is None else _undone(layer, given)
    if known is not None and len(known) == edges.shape[1]:
        return known, True
    with np.errstate(all="ignore"):
        return np.sqrt((edges**2).sum(axis=0)), False


def _undone(layer: LayerInfo, given: Floats) -> Floats | None:
    """Before the steps after the layer; None where one of them cannot be undone for spreads alone."""
    for step in reversed(layer.after):
        scale = np.abs(np.array(step.scale))
        if step.kind != "affine" or not scale.all() or len(scale) not in (0, 1, len(given)):
            return None
        given = given / scale if len(scale) else given
    return given
