"""Float64 forms of functions that onnxruntime computes only in float32, from operators that it has in float64.

In a float32 graph each is its operator; in a float64 graph it is accurate to a few units in
the last place, and NaN and infinities do what they do in numpy. With `e` for 2.2e-16:

    tan       sin / cos
    arctan    the float32 arctangent y as a first guess, and one correction: with
              t = (x cos y - sin y) / (cos y + x sin y) = tan(arctan x - y), about 1e-7,
              arctan x = y + t to t^3 / 3 < e
    arcsin    2 arctan(x / (1 + sqrt((1 - x) (1 + x))))                 (DLMF 4.24.1, half angles)
    arccos    2 arctan(sqrt((1 - x) / (1 + x)))
    arctanh   log((1 + x) / (1 - x)) / 2, beside zero by log1p(2 x / (1 - x))
    log1p     u log(w) / (w - 1) with w = 1 + u, or u where w is 1       (Kahan)
    cosh      with r = exp(|x| / 2): (r^2 + 1 / r^2) / 2, which overflows only where cosh does
    softplus  max(x, 0) + log1p(exp(-|x|))
    erf       2 / sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!       (DLMF 7.6.2; one sign)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kanexport.graph.builder import Graph, Value

Emit = Callable[["Graph", "Value"], "Value"]

ERF_TERMS = 110  # enough for 17 digits up to ERF_END
ERF_END = 6.0  # beyond, erf is 1 in float64
LARGE = 1e300  # beyond, arctan is pi / 2 in float64


def _or_operator(kind: str) -> Callable[[Emit], Emit]:
    """The operator in float32, the function in float64."""

    def wrap(wide: Emit) -> Emit:
        return lambda g, x: g.op(kind, x) if g.dtype == np.float32 else wide(g, x)

    return wrap


@_or_operator("Tan")
def tan(g: Graph, x: Value) -> Value:
    """tan x, from sine and cosine."""
    return g.op("Div", g.op("Sin", x), g.op("Cos", x))


@_or_operator("Atan")
def arctan(g: Graph, x: Value) -> Value:
    """arctan x, from the float32 arctangent and one correction."""
    x = g.clip(x, -LARGE, LARGE)
    guess = g.cast(g.op("Atan", g.single(x)))
    sine, cosine = g.op("Sin", guess), g.op("Cos", guess)
    remainder = g.op("Div", g.sub(g.mul(x, cosine), sine), g.add(cosine, g.mul(x, sine)))
    return g.add(guess, remainder)


@_or_operator("Asin")
def arcsin(g: Graph, x: Value) -> Value:
    """arcsin x by half angles; NaN outside [-1, 1]."""
    unit = g.const(1.0)
    cosine = g.op("Sqrt", g.mul(g.sub(unit, x), g.add(unit, x)))
    return g.mul(arctan(g, g.op("Div", x, g.add(unit, cosine))), g.const(2.0))


@_or_operator("Acos")
def arccos(g: Graph, x: Value) -> Value:
    """arccos x by half angles; NaN outside [-1, 1]."""
    unit = g.const(1.0)
    half = g.op("Sqrt", g.op("Div", g.sub(unit, x), g.add(unit, x)))
    return g.mul(arctan(g, half), g.const(2.0))


@_or_operator("Atanh")
def arctanh(g: Graph, x: Value) -> Value:
    """arctanh x; infinite at -1 and 1, NaN beyond."""
    unit, half = g.const(1.0), g.const(0.5)
    far = g.op("Log", g.op("Div", g.add(unit, x), g.sub(unit, x)))
    near = _log1p(g, g.op("Div", g.add(x, x), g.sub(unit, x)))
    return g.mul(g.op("Where", g.op("Less", g.op("Abs", x), g.const(0.25)), near, far), half)


@_or_operator("Cosh")
def cosh(g: Graph, x: Value) -> Value:
    """cosh x; it overflows at the same x as in numpy."""
    root = g.op("Exp", g.mul(g.op("Abs", x), g.const(0.5)))
    inverse = g.op("Reciprocal", root)
    half = g.const(0.5)
    return g.add(g.mul(g.mul(root, half), root), g.mul(g.mul(inverse, half), inverse))


@_or_operator("Softplus")
def softplus(g: Graph, x: Value) -> Value:
    """log(1 + exp(x)) without overflow."""
    small = g.op("Exp", g.op("Neg", g.op("Abs", x)))
    return g.add(g.op("Max", x, g.const(0.0)), _log1p(g, small))


@_or_operator("Erf")
def erf(g: Graph, x: Value) -> Value:
    """The error function, by its series up to ERF_END and its limits beyond."""
    inner = g.clip(x, -ERF_END, ERF_END)
    square = g.mul(inner, inner)
    total = g.const(1.0)
    for n in range(ERF_TERMS, 0, -1):
        total = g.add(g.mul(total, g.mul(square, g.const(2 / (2 * n + 1)))), g.const(1.0))
    outer = g.mul(g.op("Exp", g.op("Neg", square)), g.const(2 / math.sqrt(math.pi)))
    series = g.mul(g.mul(inner, outer), total)
    # One exactly: gelu multiplies what is left of 1 - erf by x.
    beyond = g.op("GreaterOrEqual", g.op("Abs", x), g.const(ERF_END))
    return g.op("Where", beyond, g.op("Sign", x), series)


def _log1p(g: Graph, u: Value) -> Value:
    unit = g.const(1.0)
    w = g.add(u, unit)
    exact = g.op("Div", g.mul(g.op("Log", w), u), g.sub(w, unit))
    return g.op("Where", g.op("Equal", w, unit), u, exact)
