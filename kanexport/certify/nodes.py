"""Nodes of a network on many boxes: affine forms, ranges, and enclosures of their derivatives.

A node is c + sum_s g_s e_s with e_s in [-1, 1] (a zonotope). An interval next to the form keeps the smaller range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.certify.edges import ULP

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """Nodes of N boxes.

    center     [N, w]
    form       [N, s, w]: the coefficients of the symbols
    low, high  [N, w]
    down, up   [N, n, w]: enclosure of the derivative of each node with respect to each input
    """

    center: Array
    form: Array
    low: Array
    high: Array
    down: Array
    up: Array

    @classmethod
    def of_boxes(cls, low: Array, high: Array, *, slopes: bool = True) -> Nodes:
        """The inputs of boxes from low to high [N, n]. `slopes`: with derivatives; otherwise n is 0 in `down`, `up`."""
        center = (low + high) / 2
        radius = np.maximum(high - center, center - low) * (1 + 4 * ULP)
        unit = np.broadcast_to(np.eye(low.shape[1]), (len(low), low.shape[1], low.shape[1]))
        start = unit if slopes else unit[:, :0]
        return cls(center, unit * radius[:, :, None], low, high, start.copy(), start.copy())

    @property
    def largest(self) -> Array:
        """[N, w]: the largest magnitude of each node."""
        return np.asarray(np.maximum(np.abs(self.low), np.abs(self.high)))

    @property
    def size(self) -> Array:
        """[N, w]: a bound of all numbers of each node, for float64 errors."""
        return np.asarray(np.abs(self.center) + np.abs(self.form).sum(axis=1) + self.largest)

    def columns(self, indices: Sequence[int]) -> Nodes:
        """The nodes with these indices."""
        return self.mapped(lambda array: array[..., list(indices)])

    def beside(self, other: Nodes) -> Nodes:
        """These nodes and others with the same first symbols."""
        own = self.with_symbols(other.form.shape[1])
        return own.mapped(lambda *arrays: np.concatenate(arrays, axis=-1), other)

    def mapped(self, change: Callable[..., Array], *others: Nodes) -> Nodes:
        """The same change of all arrays, from those of these nodes and of others."""
        names = (field.name for field in dataclasses.fields(self))
        return Nodes(*(change(*(getattr(nodes, name) for nodes in (self, *others))) for name in names))

    def with_symbols(self, count: int) -> Nodes:
        """The same nodes with `count` symbols. The further ones are zero."""
        added = count - self.form.shape[1]
        return dataclasses.replace(self, form=np.pad(self.form, ((0, 0), (0, added), (0, 0))))

    def summed(self) -> tuple[Array, Array]:
        """The range of the form, [N, w] twice."""
        radius = np.abs(self.form).sum(axis=1) * (1 + 1e-12)
        edge = ULP * (np.abs(self.center) + radius)
        return self.center - radius - edge, self.center + radius + edge

    def widened(self, error: Array) -> Nodes:
        """With an error of at most `error` [N, w] or [w] of each node, as a separate symbol."""
        error = np.broadcast_to(error * (1 + 1e-12), self.center.shape)
        new = np.zeros((*error.shape, error.shape[1]))
        at = np.arange(error.shape[1])
        new[:, at, at] = error
        form = np.concatenate([self.form, new], axis=1)
        low, high = self.low - error, self.high + error
        edge = ULP * np.maximum(np.abs(low), np.abs(high))
        return dataclasses.replace(self, form=form, low=low - edge, high=high + edge)

    def with_rest(self, rest: Array) -> Nodes:
        """The nodes whose forms leave out a `rest` of at most this [N, w], as a separate symbol. Their intervals hold
        without it; each range is the smaller one of interval and form."""
        nodes = dataclasses.replace(self.widened(rest), low=self.low, high=self.high)
        return nodes.within(*nodes.summed())

    def within(self, low: Array, high: Array) -> Nodes:
        """The same nodes in boxes that are known to hold them, [w] or [N, w]."""
        return dataclasses.replace(self, low=np.maximum(self.low, low), high=np.minimum(self.high, high))


def product(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array]:
    """The interval [a, b] * [c, d]."""
    products = a * c, a * d, b * c, b * d
    return np.minimum.reduce(products), np.maximum.reduce(products)
