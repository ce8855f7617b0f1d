"""Symbolic functions without their singularities, as pykan computes them on request.

Source: pykan 0.2.8, kan/utils.py, f_inv to f_exp: what `model(x, singularity_avoiding=True,
y_th=T)` puts in the place of the plain functions. Where |x| is below a threshold h (or above
one), a line or a constant stands in. pykan's handling of values that are not finite is kept:
it multiplies both branches by 0 or 1 and adds them, which gives NaN where a branch is infinite,
and replaces NaN by 0 in one of them. So is exp's quirk: where exp overflows, NaN.

    1/x^n         h = T^(-1/n)   inside T, for odd n T/h x
    sqrt          h = T^-2       inside h/T x, outside sgn(x) sqrt|x|; jumps at h
    1/sqrt(x)     h = T^-2       inside T, outside 1/sqrt|x|
    log           h = e^-T       inside -T, outside log|x|
    tan           d = pi/2 - arctan T; -T/d (x mod pi - pi/2) where that is within d of 0
    arctanh       d = 1 - tanh T + 1e-4; T sgn(x) beyond 1 - d
    arcsin, arccos   their end values beyond [-1, 1]
    exp           T where x > log T

The thresholds are float64 here; pykan's have the default type of its process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kanexport.functions.elementwise import SYMBOLIC, Array, Unary
from kanexport.graph import float64_ops
from kanexport.graph.builder import Graph, Value

Emit = Callable[[Graph, Value], Value]

# pykan takes the second of a pair. These return another number of values:
BROKEN = "x^1.5"  # none, so that pykan fails, or takes another row's value
FAILING = "tan"  # three, so that pykan fails; the last is what is meant
EXP_OVERFLOW = math.log(np.finfo(np.float64).max)  # beyond, exp is infinite in float64
# pi in two parts: a multiple of the first is exact.
PI_HIGH = 201 / 64
PI_LOW = math.pi - PI_HIGH


AVOIDING = "avoiding"  # kind of recipe


def avoiding(name: str, limit: float) -> Unary:
    """The variant of a function of the table, with T = `limit` > 0; the plain function if pykan has no variant. Not for
    `BROKEN`."""
    known = {"log": _log, "tan": _tan, "arctanh": _arctanh, "exp": _exp}
    if name in ("sqrt", "x^0.5"):
        variant = _sqrt(name, limit)
    elif name in ("1/sqrt(x)", "1/x^0.5"):
        variant = _even(
            name,
            "1/sqrt(abs(x))",
            limit,
            limit**-2,
            lambda x: 1 / np.sqrt(np.abs(x)),
            lambda g, x: g.op("Reciprocal", g.op("Sqrt", g.op("Abs", x))),
        )
    elif name.startswith("1/x"):
        n, plain = int(name[4:] or 1), SYMBOLIC[name]
        text, threshold = "1/x" if n == 1 else f"1/x**{n}", limit ** (-1 / n)
        if n % 2:
            variant = _odd(name, text, limit / threshold, threshold, plain.evaluate, plain.emit)
        else:
            variant = _even(name, text, limit, threshold, plain.evaluate, plain.emit)
    elif name in known:
        variant = known[name](limit)
    elif name == "arcsin":
        variant = _ends(name, "pi/2*sgn(x)", np.arcsin, lambda x: np.pi / 2 * _sign(x), float64_ops.arcsin)
    elif name == "arccos":
        outside = "pi/2*(1 - sgn(x))"
        variant = _ends(name, outside, np.arccos, lambda x: np.pi / 2 * (1 - _sign(x)), float64_ops.arccos)
    else:
        return SYMBOLIC[name]
    return replace(variant, recipe=(AVOIDING, name, limit))


def _sign(x: Array) -> Array:
    return SYMBOLIC["sgn"].evaluate(x)


def _mix(first: Array, second: Array, choose: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> Array:
    """A product with each condition, and their sum, as pykan computes it, including values that are not finite."""
    return np.asarray(first * choose + np.nan_to_num(second) * other)


def _no_nan(g: Graph, x: Value, value: Value) -> Value:
    """Zero if x is NaN."""
    return g.op("Where", g.op("IsNaN", x), g.const(0.0), value)


def _inside(g: Graph, x: Value, threshold: float) -> Value:
    return g.op("Less", g.op("Abs", x), g.const(threshold))


def _sqrt(name: str, limit: float) -> Unary:
    threshold = limit**-2

    def emit(g: Graph, x: Value) -> Value:
        return g.mul(g.op("Sqrt", g.op("Abs", x)), g.op("Sign", x))

    outside = "sgn(x)*sqrt(abs(x))"
    return _odd(name, outside, threshold / limit, threshold, lambda x: np.sqrt(np.abs(x)) * _sign(x), emit)


def _odd(
    name: str, text: str, slope: float, threshold: float, outside: Callable[[Array], Array], emit_outside: Emit
) -> Unary:
    """A line through zero inside; NaN if x is not finite, because the line is multiplied by zero there."""

    def evaluate(x: Array) -> Array:
        size = np.abs(x)
        return _mix(slope * x, outside(x), size < threshold, size >= threshold)

    def emit(g: Graph, x: Value) -> Value:
        line = g.mul(x, g.const(slope))
        chosen = g.op("Where", _inside(g, x, threshold), line, emit_outside(g, x))
        return g.add(chosen, g.sub(x, x))

    return Unary(name, evaluate, emit, f"{slope!r}*x if abs(x) < {threshold!r} else {text}")


def _even(
    name: str, text: str, top: float, threshold: float, outside: Callable[[Array], Array], emit_outside: Emit
) -> Unary:
    """A constant inside; zero if x is NaN."""

    def evaluate(x: Array) -> Array:
        size = np.abs(x)
        return _mix(np.full_like(x, top), outside(x), size < threshold, size >= threshold)

    def emit(g: Graph, x: Value) -> Value:
        chosen = g.op("Where", _inside(g, x, threshold), g.const(top), emit_outside(g, x))
        return _no_nan(g, x, chosen)

    return Unary(name, evaluate, emit, f"{top!r} if abs(x) < {threshold!r} else {text}")


def _log(limit: float) -> Unary:
    threshold = math.exp(-limit)

    def evaluate(x: Array) -> Array:
        size = np.abs(x)
        return _mix(np.full_like(x, -limit), np.log(size), size < threshold, size >= threshold)

    def emit(g: Graph, x: Value) -> Value:
        # The logarithm grows: a maximum is the same as the condition, whose threshold float32 may not hold.
        largest = float(np.finfo(g.dtype).max)
        low = -limit if threshold > 0 else -largest
        return _no_nan(g, x, g.clip(g.op("Log", g.op("Abs", x)), low, largest))

    return Unary("log", evaluate, emit, f"{-limit!r} if abs(x) < {threshold!r} else log(abs(x))")


def _tan(limit: float) -> Unary:
    width = math.pi / 2 - math.atan(limit)
    slope = -limit / width

    def evaluate(x: Array) -> Array:
        turned = np.mod(x, np.pi)
        distance = np.abs(turned - np.pi / 2)
        return _mix(slope * (turned - np.pi / 2), np.tan(turned), distance < width, distance >= width)

    def emit(g: Graph, x: Value) -> Value:
        turns = g.op("Floor", g.mul(x, g.const(1 / math.pi)))
        turned = g.sub(g.sub(x, g.mul(turns, g.const(PI_HIGH))), g.mul(turns, g.const(PI_LOW)))
        distance = g.sub(turned, g.const(math.pi / 2))
        return g.op("Where", _inside(g, distance, width), g.mul(distance, g.const(slope)), float64_ops.tan(g, turned))

    inner = "x % pi - pi/2"
    return Unary("tan", evaluate, emit, f"{slope!r}*({inner}) if abs({inner}) < {width!r} else tan(x)")


def _arctanh(limit: float) -> Unary:
    end = 1 - (1 - math.tanh(limit) + 1e-4)

    def evaluate(x: Array) -> Array:
        size = np.abs(x)
        return _mix(limit * _sign(x), np.arctanh(x), size > end, size <= end)

    def emit(g: Graph, x: Value) -> Value:
        outside = g.op("Greater", g.op("Abs", x), g.const(end))
        top = g.mul(g.op("Sign", x), g.const(limit))
        return _no_nan(g, x, g.op("Where", outside, top, float64_ops.arctanh(g, x)))

    return Unary("arctanh", evaluate, emit, f"{limit!r}*sgn(x) if abs(x) > {end!r} else arctanh(x)")


def _exp(limit: float) -> Unary:
    threshold = math.log(limit)

    def evaluate(x: Array) -> Array:
        return np.asarray(limit * (x > threshold) + np.exp(x) * (x <= threshold))

    def emit(g: Graph, x: Value) -> Value:
        chosen = g.op("Where", g.op("Greater", x, g.const(threshold)), g.const(limit), g.op("Exp", x))
        return g.op("Where", g.op("Greater", x, g.const(EXP_OVERFLOW)), g.nan(), chosen)

    return Unary("exp", evaluate, emit, f"{limit!r} if x > {threshold!r} else exp(x)")


def _ends(
    name: str, text: str, inside: Callable[[Array], Array], outside: Callable[[Array], Array], emit_inside: Emit
) -> Unary:
    """An inverse function with its argument clipped to [-1, 1]; zero if x is NaN."""

    def evaluate(x: Array) -> Array:
        size = np.abs(x)
        return _mix(outside(x), inside(x), size > 1, size <= 1)

    def emit(g: Graph, x: Value) -> Value:
        return _no_nan(g, x, emit_inside(g, g.clip(x, -1.0, 1.0)))

    return Unary(name, evaluate, emit, f"{text} if abs(x) > 1 else {name}(x)")
