"""Enclosures of a function and its derivatives on intervals: numbers that numpy's functions accept.

A `Taylor` has the coefficients f^(k) / k! of a function on each of many intervals, as pairs of ends (interval
arithmetic, Moore 1966). The code that evaluates a basis in float64 evaluates these numbers too, through numpy's
protocols for other arrays. Products, quotients and elementary functions follow the recurrences of automatic
differentiation (Griewank and Walther 2008, 13.2). Every end is rounded outward.

Each number has a second bound: how far the floating-point value is from the exact one. Each operation adds its
rounding, `unit` times the largest result, and passes on the errors of its operands (running error analysis,
Higham 2002, 3.3).

An operation without a known bound raises `UnboundedError`. Infinite ends say that a derivative has no bound.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from kanexport.certify.intervals import (
    OUTWARD,
    Pair,
    add,
    choose,
    hull,
    largest,
    multiply,
    negative,
    point,
    reciprocal,
    rising,
    scaled,
    sine,
)

Array = npt.NDArray[np.float64]

ORDER = 3
DOUBLE, SINGLE = 2.0**-53, 2.0**-24
LIBRARY = {DOUBLE: 8e-16, SINGLE: 1e-6}  # error of an elementary function, of max(1, |f|) in float32
LEAST = {DOUBLE: 1e-320, SINGLE: 2e-45}  # error of a product that underflows


class UnboundedError(ValueError):
    """Operation for which this module has no bound."""


def _logistic(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e / (1 + e), 1 / (1 + e))


class Choice:
    """Result of a comparison on intervals: true, false, or neither. `same`: floating point has the same result."""

    def __init__(self, true: Any, false: Any, same: Any) -> None:
        self.true, self.false, self.same = np.asarray(true), np.asarray(false), np.asarray(same)

    def astype(self, dtype: Any) -> Any:
        """Raises UnboundedError: a number that jumps has no slope."""
        raise UnboundedError("a number from a condition")


class Taylor(NDArrayOperatorsMixin):
    """Coefficients of a function on intervals, [order + 1] pairs of arrays, and the error of its floating value."""

    def __init__(self, coefs: Sequence[Pair], error: Array, unit: float) -> None:
        self.coefs, self.error, self.unit = list(coefs), error, unit

    @classmethod
    def source(cls, low: Array, high: Array, order: int = ORDER, unit: float = DOUBLE) -> Self:
        """The variable itself, on intervals from low to high."""
        zero = np.zeros_like(low)
        rest = [(zero + (k == 1), zero + (k == 1)) for k in range(1, order + 1)]
        return cls([(low, high), *rest], zero, unit)

    def constant(self, value: Any, error: Any = 0.0) -> Taylor:
        """A constant with the order and unit of this number."""
        if isinstance(value, Choice):
            raise UnboundedError("a number from a condition")
        value = np.asarray(value, dtype=np.float64)
        zero = np.zeros_like(value)
        return Taylor([(value, value), *[(zero, zero)] * self.order], zero + error, self.unit)

    def mapped(self, change: Callable[[Array], Array]) -> Taylor:
        """The same change of shape of all arrays."""
        shape = self.shape

        def apply(array: Array) -> Array:
            return change(np.broadcast_to(array, shape))

        return Taylor([(apply(a), apply(b)) for a, b in self.coefs], apply(self.error), self.unit)

    @property
    def order(self) -> int:
        """The highest derivative."""
        return len(self.coefs) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the arrays."""
        return np.broadcast_shapes(self.error.shape, *(part.shape for pair in self.coefs for part in pair))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float64, for code that makes constants."""
        return np.dtype(np.float64)

    @property
    def size(self) -> Array:
        """The largest magnitude, with the error of the floating value."""
        return np.asarray(largest(self.coefs[0]) + self.error)

    def __getitem__(self, key: Any) -> Taylor:
        return self.mapped(lambda array: array[key])

    def reshape(self, *shape: int) -> Taylor:
        """The same numbers in another shape."""
        return self.mapped(lambda array: array.reshape(*shape))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs:
            raise UnboundedError(f"numpy.{ufunc.__name__} in this form")
        numbers = [_plain(value) for value in inputs]
        if ufunc is np.power:
            return power(numbers[0], numbers[1])
        if ufunc in (np.isnan, np.isinf):  # enclosures are of finite values
            return np.zeros(self.shape, dtype=bool)
        if ufunc is np.isfinite:
            return np.ones(self.shape, dtype=bool)
        if ufunc not in OPERATIONS:
            raise UnboundedError(f"numpy.{ufunc.__name__}")
        return OPERATIONS[ufunc](*(n if isinstance(n, Taylor) else self.constant(n) for n in numbers))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in HANDLED:
            raise UnboundedError(f"numpy.{function.__name__}")
        return HANDLED[function](*args, **kwargs)


def _plain(value: Any) -> Any:
    """A number that `np.asarray` has put into an array of one object."""
    return value.item() if isinstance(value, np.ndarray) and value.dtype == object else value


def rounded(coefs: Sequence[Pair], passed: Array, unit: float, share: float = 1.0) -> Taylor:
    """The result of an operation with the error `passed` on by its operands, and `share` roundings."""
    size = largest(coefs[0]) + passed
    return Taylor(coefs, passed + share * unit * size + LEAST[unit], unit)


def _added(a: Taylor, b: Taylor) -> Taylor:
    return rounded([add(x, y) for x, y in zip(a.coefs, b.coefs, strict=True)], a.error + b.error, a.unit)


def _negated(a: Taylor) -> Taylor:
    return Taylor([negative(x) for x in a.coefs], a.error, a.unit)


def _series(a: Sequence[Pair], b: Sequence[Pair], k: int, start: int = 0, weighted: bool = False) -> Pair:
    """sum of a_j b_(k-j) for j from `start` to k; `weighted`: times j / k."""
    parts = [
        multiply(a[j], b[k - j]) if not weighted else scaled(multiply(a[j], b[k - j]), j / k)
        for j in range(start, k + 1)
    ]
    return functools.reduce(add, parts)


def multiplied(a: Taylor, b: Taylor) -> Taylor:
    """a * b; a square is not negative."""
    coefs = [_squared(a.coefs[0])] if a is b else [multiply(a.coefs[0], b.coefs[0])]
    coefs += [_series(a.coefs, b.coefs, k) for k in range(1, a.order + 1)]
    x, y = largest(a.coefs[0]), largest(b.coefs[0])
    return rounded(coefs, x * b.error + y * a.error + a.error * b.error, a.unit)


def _squared(a: Pair) -> Pair:
    low, high = multiply(a, a)
    return np.where(low < 0, 0.0, low), high


def _divided(a: Taylor, b: Taylor) -> Taylor:
    inverse = reciprocal(b.coefs[0])
    coefs: list[Pair] = []
    for k in range(a.order + 1):
        top = a.coefs[k]
        if k:
            top = add(top, negative(_series(b.coefs, [*coefs, top], k, 1)))
        coefs.append(multiply(top, inverse))
    nearest = 1 / largest(inverse)
    with np.errstate(all="ignore"):
        passed = (a.error + largest(coefs[0]) * b.error) / np.maximum(nearest - b.error, 0)
    # Vectors may use a reciprocal and a correction in place of a division.
    return rounded(coefs, np.where(np.isnan(passed), np.inf, passed), a.unit, 4.0)


def _library(coefs: Sequence[Pair], passed: Array, unit: float) -> Taylor:
    """The result of an elementary function."""
    size = largest(coefs[0]) + passed
    floor = np.maximum(size, 1.0) if unit == SINGLE else size
    return Taylor(coefs, passed + LIBRARY[unit] * floor + LEAST[unit], unit)


def _composed(a: Taylor, first: Pair, slope: Callable[[list[Pair]], list[Pair]], steep: Array) -> Taylor:
    """f(a) from its range `first`, and from `slope`: the coefficients of f'(a) as a series, from those of f(a) so far.
    `steep`: the largest |f'| where the floating argument may be."""
    coefs = [first]
    for k in range(1, a.order + 1):
        coefs.append(_series(a.coefs, slope(coefs), k, 1, weighted=True))
    return _library(coefs, np.where(a.error == 0, 0.0, steep * a.error), a.unit)


def _around(a: Taylor) -> Pair:
    """Where the floating argument may be."""
    return a.coefs[0][0] - a.error, a.coefs[0][1] + a.error


def exp(a: Taylor) -> Taylor:
    """The exponential."""
    steep = np.exp(_around(a)[1]) * (1 + OUTWARD)
    low, high = rising(np.exp, a.coefs[0])
    return _composed(a, (np.maximum(low, 0.0), high), lambda e: e, steep)


def _log(a: Taylor) -> Taylor:
    bare = [(np.where(low > 0, low, -1.0), high) for low, high in a.coefs[:1]] + a.coefs[1:]
    inverse = _divided(a.constant(1.0), Taylor(bare, a.error, a.unit)).coefs
    steep = largest(reciprocal(_around(a)))
    return _composed(a, rising(np.log, a.coefs[0]), lambda _: inverse, steep)


def _sqrt(a: Taylor) -> Taylor:
    coefs = [rising(np.sqrt, a.coefs[0])]
    half = reciprocal(scaled((np.maximum(coefs[0][0], 0.0), coefs[0][1]), 2.0))
    for k in range(1, a.order + 1):
        inner = a.coefs[k]
        for j in range(1, k):
            inner = add(inner, negative(multiply(coefs[j], coefs[k - j])))
        coefs.append(multiply(inner, half))
    near = _around(a)[0]
    with np.errstate(all="ignore"):
        passed = np.where(near > 0, a.error / (2 * np.sqrt(near)), np.sqrt(a.error))
    return rounded(coefs, np.where(near < 0, np.inf, passed), a.unit, 2.0)


def _waves(a: Taylor) -> tuple[list[Pair], list[Pair]]:
    """Coefficients of sin a and cos a."""
    quarter = (a.coefs[0][0] + np.pi / 2, a.coefs[0][1] + np.pi / 2)
    room = OUTWARD * (4 + largest(a.coefs[0]))
    s, c = [sine(a.coefs[0])], [sine((quarter[0] - room, quarter[1] + room))]
    if all(not np.any(part) for pair in a.coefs[2:] for part in pair):
        # Each derivative of the wave of a line is a wave.
        turns = [(s[0], c[0]), (c[0], negative(s[0])), (negative(s[0]), negative(c[0])), (negative(c[0]), s[0])]
        power = point(1.0)
        for k in range(1, a.order + 1):
            power = scaled(multiply(power, a.coefs[1]), 1 / k)
            s.append(multiply(turns[k % 4][0], power))
            c.append(multiply(turns[k % 4][1], power))
        return s, c
    for k in range(1, a.order + 1):
        rise = _series(a.coefs, [*c, c[0]], k, 1, weighted=True)
        fall = _series(a.coefs, [*s, s[0]], k, 1, weighted=True)
        s.append(rise)
        c.append(negative(fall))
    return s, c


def tanh(a: Taylor) -> Taylor:
    """The hyperbolic tangent."""
    low, high = rising(np.tanh, a.coefs[0])
    first = np.maximum(low, -1.0), np.minimum(high, 1.0)

    def slope(t: list[Pair]) -> list[Pair]:
        """Coefficients of 1 - t^2. The first one is not negative."""
        rest = [negative(_squared(t[0]) if k == 0 else _series(t, t, k)) for k in range(len(t))]
        least, most = add(rest[0], point(1.0))
        return [(np.maximum(least, 0.0), most), *rest[1:]]

    return _composed(a, first, slope, np.array(1.0))


def _tan(a: Taylor) -> Taylor:
    s, c = (_library(part, a.error, a.unit) for part in _waves(a))
    quotient = _divided(s, c)
    return _library(quotient.coefs, quotient.error, a.unit)


def _of_slope(a: Taylor, first: Pair, slope: Callable[[Taylor], Taylor]) -> Taylor:
    """f(a) from its range `first` and its slope, which is evaluated on the interval of the floating argument."""
    wide = slope(Taylor([_around(a), *a.coefs[1:]], np.zeros_like(a.error), a.unit))
    return _composed(a, first, lambda _: wide.coefs, largest(wide.coefs[0]))


def _arctan(a: Taylor) -> Taylor:
    first = rising(np.arctan, a.coefs[0])
    return _of_slope(a, first, lambda x: _divided(x.constant(1.0), multiplied(x, x) + 1.0))


def _arcsin(a: Taylor) -> Taylor:
    first = rising(np.arcsin, a.coefs[0])
    return _of_slope(a, first, lambda x: _divided(x.constant(1.0), _sqrt(1.0 - multiplied(x, x))))


def _arctanh(a: Taylor) -> Taylor:
    first = rising(np.arctanh, a.coefs[0])
    return _of_slope(a, first, lambda x: _divided(x.constant(1.0), 1.0 - multiplied(x, x)))


def _cosh(a: Taylor) -> Taylor:
    up = exp(a)
    total = (up + exp(_negated(a))) * 0.5
    least = np.where(total.coefs[0][0] < 1, 1.0, total.coefs[0][0])
    return _library([(least, total.coefs[0][1]), *total.coefs[1:]], total.error, a.unit)


def sigmoid(a: Taylor) -> Taylor:
    """The logistic function s, with s' = s (1 - s)."""
    low, high = rising(_logistic, a.coefs[0])
    first = np.maximum(low, 0.0), np.minimum(high, 1.0)

    def slope(s: list[Pair]) -> list[Pair]:
        rest = [add(point(1.0), negative(s[0])), *(negative(part) for part in s[1:])]
        return [_series(s, rest, k) for k in range(len(s))]

    return _composed(a, first, slope, np.array(0.25))


def softplus(a: Taylor) -> Taylor:
    """log(1 + e^x), whose slope is the logistic function."""
    return _of_slope(a, rising(lambda x: np.logaddexp(0, x), a.coefs[0]), sigmoid)


def normal(a: Taylor) -> Taylor:
    """The normal distribution function."""
    erf = np.vectorize(math.erf, otypes=[np.float64])
    low, high = rising(lambda x: 0.5 * (1 + erf(x * np.sqrt(0.5))), a.coefs[0])
    first = np.maximum(low - 1e-15, 0.0), np.minimum(high + 1e-15, 1.0)
    return _of_slope(a, first, lambda x: exp(multiplied(x, x) * -0.5) * (1 / np.sqrt(2 * np.pi)))


def larger(a: Taylor, b: Taylor) -> Taylor:
    """The maximum; where both may be larger, its slope is between both, and it has no second derivative."""
    first, second = a.coefs[0][0] >= b.coefs[0][1], b.coefs[0][0] >= a.coefs[0][1]
    coefs = []
    for k, (x, y) in enumerate(zip(a.coefs, b.coefs, strict=True)):
        if k == 0:
            both = np.maximum(x[0], y[0]), np.maximum(x[1], y[1])
        else:
            both = hull(x, y) if k == 1 else (np.full_like(x[0] + y[0], -np.inf), np.full_like(x[0] + y[0], np.inf))
        coefs.append(choose(first, x, choose(second, y, both)))
    room = a.error + b.error
    sure = [a.coefs[0][0] - room >= b.coefs[0][1], b.coefs[0][0] - room >= a.coefs[0][1]]
    error = np.where(sure[0], a.error, np.where(sure[1], b.error, np.maximum(a.error, b.error)))
    return Taylor(coefs, error, a.unit)


def smaller(a: Taylor, b: Taylor) -> Taylor:
    """The minimum."""
    return _negated(larger(_negated(a), _negated(b)))


def _compared(a: Taylor, b: Taylor, strict: bool) -> Choice:
    """Whether a < b, or a <= b."""
    error = a.error + b.error
    (a_low, a_high), (b_low, b_high) = a.coefs[0], b.coefs[0]
    same = (error == 0) | (a_high + error < b_low) | (a_low - error > b_high)
    if strict:
        return Choice(a_high < b_low, a_low >= b_high, same)
    return Choice(a_high <= b_low, a_low > b_high, same)


def where(condition: Any, a: Any, b: Any) -> Any:
    """numpy.where. Where a comparison has no result, the value is in one of both, and the slope is not known."""
    model = a if isinstance(a, Taylor) else b
    if not isinstance(model, Taylor):
        if not isinstance(condition, Choice) or not (condition.true | condition.false).all():
            raise UnboundedError("a condition that is not certain")
        return np.where(condition.true, a, b)
    x, y = (part if isinstance(part, Taylor) else model.constant(part) for part in (a, b))
    if not isinstance(condition, Choice):
        return select(np.asarray(condition), x, y)
    coefs = []
    for k, (p, q) in enumerate(zip(x.coefs, y.coefs, strict=True)):
        unknown = np.full(np.broadcast_shapes(p[0].shape, q[0].shape), np.inf)
        either = hull(p, q) if k == 0 else (-unknown, unknown)
        coefs.append(choose(condition.true, p, choose(condition.false, q, either)))
    both = np.maximum(x.error, y.error)
    span = hull(x.coefs[0], y.coefs[0])
    # Floating point may take the other one.
    error = np.where(condition.true, x.error, np.where(condition.false, y.error, both))
    return Taylor(coefs, np.where(condition.same, error, both + span[1] - span[0]), model.unit)


def relu_power(a: Taylor, exponent: int) -> Taylor:
    """max(a, 0) to a power; with bounds of the derivatives below that power, also where a changes its sign."""
    low, high = a.coefs[0]
    stops, passes = high <= 0, low >= 0
    ramp = Taylor([(np.maximum(low, 0.0), np.maximum(high, 0.0)), *a.coefs[1:]], a.error, a.unit)
    kept, zero = power(ramp, exponent), (np.zeros(a.shape), np.zeros(a.shape))
    unknown = (np.full(a.shape, -np.inf), np.full(a.shape, np.inf))
    coefs = []
    for k, part in enumerate(kept.coefs):
        mixed = hull(zero, part) if k <= exponent else unknown
        coefs.append(choose(stops, zero, choose(passes, part, mixed)))
    return Taylor(coefs, kept.error, a.unit)


def power(a: Any, exponent: Any) -> Taylor:
    """a to a whole power by products, or to one power for a positive a."""
    if not isinstance(a, Taylor):
        return exp(exponent * np.log(a))
    value = _exponent(exponent)
    if value != int(value) or abs(value) > 2**31:
        return _power_of_float(a, value)
    result, square, rest = None, a, int(abs(value))
    while rest:
        if rest % 2:
            result = square if result is None else multiplied(result, square)
        rest //= 2
        if rest:
            square = multiplied(square, square)
    if result is None:
        return a.constant(np.ones(a.shape))
    if value > 1 and value % 2 == 0:
        low, high = result.coefs[0]
        result.coefs[0] = np.maximum(low, 0.0), high
    return _divided(a.constant(1.0), result) if value < 0 else result


def _exponent(exponent: Any) -> float:
    """The number that an exponent is. Raises UnboundedError."""
    values = exponent
    if isinstance(exponent, Taylor):
        values, *rest = (part for pair in exponent.coefs for part in pair)
        if np.any(rest[0] != values) or any(np.any(part) for part in rest[1:]):
            raise UnboundedError("a power that is not constant")
    numbers = np.unique(np.asarray(values, dtype=np.float64))
    if len(numbers) != 1:
        raise UnboundedError("powers of several exponents")
    return float(numbers[0])


def _power_of_float(a: Taylor, value: float) -> Taylor:
    """exp(value log a), for a > 0; a power of a library has a relative error of the same kind as exp."""
    result = exp(_log(Taylor(a.coefs, np.zeros(a.shape), a.unit)) * value)
    near = _around(a)
    steep = np.where(near[0] > 0, abs(value) * np.maximum(near[0] ** (value - 1), near[1] ** (value - 1)), np.inf)
    passed = np.where(a.error == 0, 0.0, steep * a.error)
    return _library(result.coefs, passed, a.unit)


def _sign(a: Taylor) -> Taylor:
    unit = a.constant(np.ones(a.shape))
    below = where(_compared(a, a.constant(0.0), True), _negated(unit), a.constant(np.zeros(a.shape)))
    result: Taylor = where(_compared(a.constant(0.0), a, True), unit, below)
    return result


def _joined(parts: Sequence[Any], join: Callable[[list[Array]], Array]) -> Taylor:
    model = next(part for part in map(_plain, parts) if isinstance(part, Taylor))
    numbers = [p if isinstance(p, Taylor) else model.constant(p) for p in map(_plain, parts)]

    def whole(arrays: list[Array]) -> Array:
        return join([np.broadcast_to(array, n.shape) for array, n in zip(arrays, numbers, strict=True)])

    coefs = [
        (whole([n.coefs[k][0] for n in numbers]), whole([n.coefs[k][1] for n in numbers]))
        for k in range(model.order + 1)
    ]
    return Taylor(coefs, whole([n.error for n in numbers]), model.unit)


def select(mask: npt.NDArray[np.bool_], a: Taylor, b: Taylor) -> Taylor:
    """a where the mask is true, b elsewhere."""
    coefs = [choose(mask, p, q) for p, q in zip(a.coefs, b.coefs, strict=True)]
    return Taylor(coefs, np.where(mask, a.error, b.error), a.unit)


def stack(parts: Sequence[Any], axis: int = 0) -> Taylor:
    """numpy.stack"""
    return _joined(parts, lambda arrays: np.stack(np.broadcast_arrays(*arrays), axis=axis))


def concatenate(parts: Sequence[Any], axis: int = 0) -> Taylor:
    """numpy.concatenate"""
    return _joined(parts, lambda arrays: np.concatenate(arrays, axis=axis))


def clip(a: Taylor, low: Any, high: Any) -> Taylor:
    """numpy.clip"""
    first, last = (end if isinstance(end, Taylor) else a.constant(end) for end in (low, high))
    return smaller(larger(a, first), last)


OPERATIONS: dict[Any, Callable[..., Any]] = {
    np.add: _added,
    np.subtract: lambda a, b: _added(a, _negated(b)),
    np.multiply: multiplied,
    np.true_divide: _divided,
    np.negative: _negated,
    np.square: lambda a: multiplied(a, a),
    np.exp: exp,
    np.log: _log,
    np.sqrt: _sqrt,
    np.sin: lambda a: _library(_waves(a)[0], a.error, a.unit),
    np.cos: lambda a: _library(_waves(a)[1], a.error, a.unit),
    np.tan: _tan,
    np.tanh: tanh,
    np.arcsin: _arcsin,
    np.arccos: lambda a: _added(a.constant(np.pi / 2), _negated(_arcsin(a))),
    np.arctan: _arctan,
    np.arctanh: _arctanh,
    np.cosh: _cosh,
    np.absolute: lambda a: larger(a, _negated(a)),
    np.maximum: larger,
    np.minimum: smaller,
    np.sign: _sign,
    np.less: lambda a, b: _compared(a, b, True),
    np.less_equal: lambda a, b: _compared(a, b, False),
    np.greater: lambda a, b: _compared(b, a, True),
    np.greater_equal: lambda a, b: _compared(b, a, False),
}
HANDLED: dict[Any, Callable[..., Any]] = {
    np.where: where,
    np.stack: stack,
    np.concatenate: concatenate,
    np.clip: clip,
    np.zeros_like: lambda a: a.constant(np.zeros(a.shape)),
    np.ones_like: lambda a: a.constant(np.ones(a.shape)),
    np.full_like: lambda a, value: a.constant(np.full(a.shape, value)),
}
