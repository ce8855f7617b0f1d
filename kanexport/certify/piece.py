"""Edges of one source on one interval in each box: lines near them, ranges of the rest, ranges of slopes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.certify.edges import MARGIN, ULP, Table

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Edges of a source to O destinations, on an interval in each of N boxes.

    middle     [N]: of the interval
    x, value   [N, P] and [N, P, O]: points of the interval and the edges there; the first two are its ends
    bend       [N, P, O]: how far an edge may leave the chords beside a point
    down, up   [N, O]: enclosure of the slope
    rounding   [O]: of the values
    """

    middle: Array
    x: Array
    value: Array
    bend: Array
    down: Array
    up: Array
    rounding: Array

    @classmethod
    def of(cls, table: Table, source: int, interval: tuple[Array, Array], ends: tuple[Array, Array]) -> Piece:
        """The edges of a source on an interval [N] twice, with their values [N, O] at its ends."""
        low, high = interval
        x, value, bend = table.x[:, source], table.value[:, source], table.bend[:, source]
        cells = len(x) - 1
        first = np.clip(np.searchsorted(x, low, side="right") - 1, 0, cells - 1)
        last = np.clip(np.searchsorted(x, high, side="left") - 1, first, cells - 1)
        reach, spread = table.reach[:, source], table.high[:, source] - table.low[:, source]  # [cells, O]
        beside = np.maximum(np.pad(reach, ((1, 0), (0, 0))), np.pad(reach, ((0, 1), (0, 0))))
        # Points that lie between the ends; others repeat the lower end.
        span = int((last - first).max(initial=0))
        inner = first[:, None] + 1 + np.arange(span)
        known = inner <= last[:, None]
        inner = np.minimum(inner, cells)
        width = (high - low)[:, None]
        by_slope = [np.minimum(reach[cell], spread[cell] / 4 * width * MARGIN) for cell in (first, last)]
        at_ends = np.stack(
            [np.minimum(s, bend[c] * width**2) for s, c in zip(by_slope, (first, last), strict=True)], axis=1
        )
        at_low, at_high = ends
        points = np.concatenate([np.stack([low, high], axis=1), np.where(known, x[inner], low[:, None])], axis=1)
        inside = known[:, :, None]
        values = np.where(inside, value[inner], at_low[:, None])
        bends = np.where(inside, beside[inner], at_ends[:, :1])
        touched = np.minimum(first[:, None] + np.arange(span + 1), last[:, None])
        return cls(
            (low + high) / 2,
            points,
            np.concatenate([np.stack([at_low, at_high], axis=1), values], axis=1),
            np.concatenate([at_ends, bends], axis=1),
            table.low[:, source][touched].min(axis=1),
            table.high[:, source][touched].max(axis=1),
            table.rounding[source],
        )

    def rest(self, slope: Array) -> tuple[Array, Array]:
        """The range of edge - slope * (x - middle), [N, O] twice, for slopes [N, O]."""
        distance = (self.x - self.middle[:, None])[:, :, None]
        rest = self.value - slope[:, None] * distance
        far = np.abs(distance).max(axis=1)
        edge = self.rounding + 4 * ULP * (
            np.abs(slope) * (far + np.abs(self.middle[:, None])) + np.abs(rest).max(axis=1)
        )
        return (rest - self.bend).min(axis=1) - edge, (rest + self.bend).max(axis=1) + edge

    def combined(self, slope: Array) -> tuple[Array, Array, Array]:
        """The range [N, m] twice of sums of the edges with weights [N, O, m], and a bound of their magnitude."""
        size = np.abs(slope)
        values, bends = self.value @ slope, self.bend @ size  # [N, P, m]
        edge = np.einsum("o,nom->nm", self.rounding, size)
        bound = (np.abs(self.value).max(axis=1)[:, None] @ size)[:, 0] * self.value.shape[2] + bends.max(axis=1)
        return (values - bends).min(axis=1) - edge, (values + bends).max(axis=1) + edge, bound

    def line(self) -> tuple[Array, Array, Array]:
        """The slope [N, O] of the better one of two lines, through the ends and by least squares, and the range of
        what remains."""
        width = (self.x[:, 1] - self.x[:, 0])[:, None]
        chord = (self.value[:, 1] - self.value[:, 0]) / np.where(width > 0, width, 1.0)
        x = self.x - self.x.mean(axis=1, keepdims=True)
        spread = (x**2).sum(axis=1)[:, None]
        fitted = np.einsum("np,npo->no", x, self.value) / np.where(spread > 0, spread, 1.0)
        # Points that are nearly equal make no line.
        narrow = width <= 1e-9 * (1 + np.abs(self.middle[:, None]))
        options = [np.where(narrow, 0.0, slope) for slope in (chord, fitted)]
        ranges = [self.rest(slope) for slope in options]
        better = (ranges[1][1] - ranges[1][0]) < (ranges[0][1] - ranges[0][0])
        return (
            np.where(better, options[1], options[0]),
            np.where(better, ranges[1][0], ranges[0][0]),
            np.where(better, ranges[1][1], ranges[0][1]),
        )
