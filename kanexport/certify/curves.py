"""Smooth functions of edges with bounds of their derivatives: base activations and symbolic functions.

A bound of the second derivative encloses the function between two points: it differs from the chord by at most
h^2 / 8 times that bound (the error of linear interpolation). The third derivative does the same for the slope.

Bounds of SiLU: with s for the logistic function, s' = s (1 - s) <= exp(-|x|), |s''| <= s' and |s'''| <= s'. So
|silu''| = |2 s' + x s''| <= (2 + |x|) exp(-|x|), and |silu'''| = |3 s'' + x s'''| <= (3 + |x|) exp(-|x|).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC

Array = npt.NDArray[np.float64]
Bound = Callable[[Array, Array], Array]  # of an absolute value, between two arrays of ends


@dataclass(frozen=True, slots=True)
class Curve:
    """Function of one number: its values, its slope, and bounds of |f''| and |f'''| between two points. `slope_limit`
    bounds |f'| there."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    second: Bound
    third: Bound
    slope_limit: Bound


def _constant(value: float) -> Bound:
    return lambda low, high: np.full(np.broadcast(low, high).shape, value)


def _nearest(low: Array, high: Array) -> Array:
    """The smallest |x| between two points."""
    return np.asarray(np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high))))


def _largest(low: Array, high: Array) -> Array:
    return np.asarray(np.maximum(np.abs(low), np.abs(high)))


def _silu_slope(x: Array) -> Array:
    s = ACTIVATIONS["sigmoid"].evaluate(x)
    return np.asarray(s + x * s * (1 - s))


def _silu_second(low: Array, high: Array) -> Array:
    near = _nearest(low, high)
    return np.asarray(np.minimum(0.5, (2 + near) * np.exp(-near)))


def _silu_third(low: Array, high: Array) -> Array:
    near = _nearest(low, high)
    return np.asarray(np.minimum(0.7, (3 + near) * np.exp(-near)))


def _exp_of_high(low: Array, high: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(high) * (1 + 1e-9) + 0 * low)


_ONE, _ZERO = _constant(1.0), _constant(0.0)
_SILU = Curve(ACTIVATIONS["silu"].evaluate, _silu_slope, _silu_second, _silu_third, _constant(1.1))
_LINE = Curve(lambda x: x, np.ones_like, _ZERO, _ZERO, _ONE)
_NOTHING = Curve(np.zeros_like, np.zeros_like, _ZERO, _ZERO, _ZERO)
_SIN = Curve(np.sin, np.cos, _ONE, _ONE, _ONE)
_COS = Curve(np.cos, lambda x: -np.sin(x), _ONE, _ONE, _ONE)
# |tanh''| <= 4 / (3 sqrt 3) < 0.77, and |tanh'''| <= 2.
_TANH = Curve(np.tanh, lambda x: 1 - np.tanh(x) ** 2, _constant(0.77), _constant(2.0), _ONE)
_EXP = Curve(np.exp, np.exp, _exp_of_high, _exp_of_high, _exp_of_high)
_SQUARE = Curve(
    lambda x: x * x, lambda x: 2 * x, _constant(2.0), _ZERO, lambda low, high: 2 * _largest(low, high) * (1 + 1e-9)
)
_CUBE = Curve(
    lambda x: x * x * x,
    lambda x: 3 * x * x,
    lambda low, high: 6 * _largest(low, high) * (1 + 1e-9),
    _constant(6.0),
    lambda low, high: 3 * _largest(low, high) ** 2 * (1 + 1e-9),
)

BASE = {"silu": _SILU, "identity": _LINE, "zero": _NOTHING, "sin": _SIN, "cos": _COS, "tanh": _TANH}
EDGE = {
    "x": _LINE,
    "0": _NOTHING,
    "x^2": _SQUARE,
    "x^3": _CUBE,
    "sin": _SIN,
    "cos": _COS,
    "tanh": _TANH,
    "exp": _EXP,
}
assert set(BASE) <= set(ACTIVATIONS)
assert set(EDGE) <= set(SYMBOLIC)
