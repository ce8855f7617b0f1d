"""Interval arithmetic on arrays with outward rounding (Moore 1966). An infinite end means: no bound is known."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pair = tuple[Array, Array]  # lower and upper ends

OUTWARD = 2e-15  # relative: eight units in the last place of float64
TINY = 1e-300


def point(value: float) -> Pair:
    """One number."""
    return np.array(value), np.array(value)


def add(a: Pair, b: Pair) -> Pair:
    """a + b. A sum that is zero is exact."""
    low, high = a[0] + b[0], a[1] + b[1]
    return low - OUTWARD * np.abs(low), high + OUTWARD * np.abs(high)


def negative(a: Pair) -> Pair:
    """-a"""
    return -a[1], -a[0]


def multiply(a: Pair, b: Pair) -> Pair:
    """a * b. Zero times an end without a bound is zero, since the factor is a number."""
    products = [_product(x, y) for x in a for y in b]
    low, high = functools.reduce(np.minimum, products), functools.reduce(np.maximum, products)
    zero = ((a[0] == 0) & (a[1] == 0)) | ((b[0] == 0) & (b[1] == 0))
    least = np.where(zero, 0.0, TINY)
    return low - (OUTWARD * np.abs(low) + least), high + (OUTWARD * np.abs(high) + least)


def _product(x: Array, y: Array) -> Array:
    product = x * y
    return product if np.isfinite(product).all() else np.where(np.isnan(product), 0.0, product)


def scaled(a: Pair, factor: float) -> Pair:
    """a * factor"""
    return multiply(a, point(factor))


def reciprocal(a: Pair) -> Pair:
    """1 / a; without a bound if a may be zero."""
    safe = (a[0] > 0) | (a[1] < 0)
    low, high = np.where(safe, a[0], 1.0), np.where(safe, a[1], 1.0)
    return np.where(safe, (1 / high) - OUTWARD / np.abs(high), -np.inf), np.where(
        safe, 1 / low + OUTWARD / np.abs(low), np.inf
    )


def largest(a: Pair) -> Array:
    """The largest magnitude."""
    return np.asarray(np.maximum(np.abs(a[0]), np.abs(a[1])))


def hull(a: Pair, b: Pair) -> Pair:
    """The smallest interval that has both."""
    return np.minimum(a[0], b[0]), np.maximum(a[1], b[1])


def choose(where: npt.NDArray[np.bool_], a: Pair, b: Pair) -> Pair:
    """a where `where`, b elsewhere."""
    return np.where(where, a[0], b[0]), np.where(where, a[1], b[1])


def _widened(low: Array, high: Array) -> Pair:
    return low - OUTWARD * np.abs(low) - TINY, high + OUTWARD * np.abs(high) + TINY


def rising(function: Callable[[Array], Array], a: Pair) -> Pair:
    """The range of a function that never falls; without a bound where it is not a number."""
    low, high = _widened(function(a[0]), function(a[1]))
    return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)


def sine(a: Pair) -> Pair:
    """The range of the sine."""
    ends = _widened(*np.sort(np.stack(np.broadcast_arrays(np.sin(a[0]), np.sin(a[1]))), axis=0))
    room = 1e-12 * (1 + largest(a))

    def passes(place: float) -> npt.NDArray[np.bool_]:
        turn = 2 * np.pi
        return np.asarray(np.ceil((a[0] - room - place) / turn) <= np.floor((a[1] + room - place) / turn))

    low = np.where(passes(-np.pi / 2), -1.0, np.maximum(ends[0], -1.0))
    high = np.where(passes(np.pi / 2), 1.0, np.minimum(ends[1], 1.0))
    known = np.isfinite(low) & np.isfinite(high) & (room < 0.1)
    return np.where(known, low, -1.0), np.where(known, high, 1.0)
