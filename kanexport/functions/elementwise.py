"""Elementwise functions with two implementations: float64 numpy, and ONNX operators.

They serve as base activations (one function for every edge) and as the
functions of symbolic edges. A symbolic function is one line in a table here.
The numpy form of an activation is in `shared/step_rules.py`, since the server
needs it too.

The symbolic table is that of pykan 0.2.8 (kan/utils.py, SYMBOLIC_LIB) and the
two names that only pykan 0.0.x has, with plain, unguarded semantics: the
logarithm of a negative number is NaN, the reciprocal of zero is infinite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import UnknownFunction
from kanexport.graph import float64_ops
from kanexport.graph.builder import Graph, Value
from kanexport.shared.step_rules import FUNCTIONS

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Unary:
    """Function of one number. `evaluate` is float64, `emit` the same as operators.

    expression  the function in terms of x, in Python's syntax, if the name does not show it
    effort      its time as a multiple of an ordinary function's time, so that the verification uses fewer rows
    recipe      the kind of maker and its arguments, for `ir/archive.py`; empty: a file cannot hold the function
    """

    name: str
    evaluate: Callable[[Array], Array]
    emit: Callable[[Graph, Value], Value]
    expression: str = ""
    effort: int = 1
    recipe: tuple[Any, ...] = ()


def _op(kind: str) -> Callable[[Graph, Value], Value]:
    return lambda g, x: g.op(kind, x)


# The normal distribution's tail Q(a) = (1 - erf(a / sqrt 2)) / 2 for a >= 0, as
# exp(-a^2 / 2) (c_1 t + ... + c_8 t^8) with t = 1 / (1 + 0.3 a): a least-maximum fit of
# our own on [0, 14], good to 1.5e-7 of the value.
TAIL = (
    0.119629299, 0.120753955, 0.0999135014, 0.128561596, -0.0536835856, 0.206353442, -0.157203046, 0.0356747653,
)  # fmt: skip
TAIL_SLOPE = 0.3


def _emit_gelu(g: Graph, x: Value) -> Value:
    """x times the normal distribution function. In float32 it uses the tail of the function if small values affect the
    result, because 1 + erf has no correct digit below -5. Else, 1 + erf loses what it loses in torch."""
    if g.dtype == np.float64 or not g.small_values:
        erf = float64_ops.erf(g, g.mul(x, g.const(math.sqrt(0.5))))
        return g.mul(g.mul(x, g.const(0.5)), g.add(erf, g.const(1.0)))
    t = g.op("Reciprocal", g.add(g.mul(g.op("Abs", x), g.const(TAIL_SLOPE)), g.const(1.0)))
    series = g.const(TAIL[-1])
    for c in TAIL[-2::-1]:
        series = g.add(g.mul(series, t), g.const(c))
    tail = g.mul(g.op("Exp", g.mul(g.mul(x, x), g.const(-0.5))), g.mul(series, t))
    below = g.op("Less", x, g.const(0.0))
    return g.mul(x, g.op("Where", below, tail, g.sub(g.const(1.0), tail)))


def _emit_gelu_tanh(g: Graph, x: Value) -> Value:
    """x (1 + tanh u) / 2 = x / (1 + exp(-2 u))."""
    inner = g.mul(g.add(x, g.mul(g.pow(x, 3.0), g.const(0.044715))), g.const(math.sqrt(2 / math.pi)))
    return g.op("Div", x, _one_and_exp(g, g.add(inner, inner)))


def _power(n: int) -> Unary:
    def emit(g: Graph, x: Value) -> Value:
        # Products, not Pow: exact for negative numbers and as fast.
        value = x
        for _ in range(n - 1):
            value = g.mul(value, x)
        return value

    return Unary("x" if n == 1 else f"x^{n}", lambda x: x**n, emit)


def _reciprocal(n: int) -> Unary:
    power = _power(n)
    return Unary(
        "1/x" if n == 1 else f"1/x^{n}",
        lambda x: 1 / x**n,
        lambda g, x: g.op("Reciprocal", power.emit(g, x)),
    )


def _inverse_sqrt(name: str) -> Unary:
    return Unary(name, lambda x: 1 / np.sqrt(x), lambda g, x: g.op("Reciprocal", g.op("Sqrt", x)))


def _three_halves(g: Graph, x: Value) -> Value:
    root = g.op("Sqrt", x)
    return g.mul(g.mul(root, root), root)


def _one_and_exp(g: Graph, x: Value) -> Value:
    """1 + exp(-x), for the logistic function with all digits of small values. The Sigmoid of onnxruntime has an
    error of 1e-7, which exceeds small values: a row of inputs below -5 loses three digits by it."""
    return g.add(g.op("Exp", g.op("Neg", x)), g.const(1.0))


def _emit_sigmoid(g: Graph, x: Value) -> Value:
    return g.op("Reciprocal", _one_and_exp(g, x))


def _emit_sign(g: Graph, x: Value) -> Value:
    # torch's sign of NaN is 0, onnxruntime's and numpy's NaN.
    zero = g.const(0.0)
    return g.sub(g.cast(g.op("Greater", x, zero)), g.cast(g.op("Less", x, zero)))


def table(kind: str, *functions: Unary) -> dict[str, Unary]:
    """Functions by name. `kind`: the first value of their recipes, whose second is the name."""
    return {function.name: replace(function, recipe=(kind, function.name)) for function in functions}


EMITTED: dict[str, Callable[[Graph, Value], Value]] = {
    "silu": lambda g, x: g.op("Div", x, _one_and_exp(g, x)),
    "identity": lambda g, x: x,
    "zero": lambda g, x: g.mul(x, g.const(0.0)),
    "relu": _op("Relu"),
    "sigmoid": _emit_sigmoid,
    "tanh": _op("Tanh"),
    "sin": _op("Sin"),
    "cos": _op("Cos"),
    "softplus": float64_ops.softplus,
    "gelu": _emit_gelu,
    "gelu_tanh": _emit_gelu_tanh,
}
# Kinds of recipes.
ACTIVATION, SYMBOLIC_FUNCTION, SHAPE, LIMITED = "activation", "symbolic", "shape", "limited"
ACTIVATIONS = table(ACTIVATION, *(Unary(name, FUNCTIONS[name], emit) for name, emit in EMITTED.items()))

SYMBOLIC = table(
    SYMBOLIC_FUNCTION,
    *(_power(n) for n in (1, 2, 3, 4, 5)),
    *(_reciprocal(n) for n in (1, 2, 3, 4, 5)),
    Unary("sqrt", np.sqrt, _op("Sqrt")),
    Unary("x^0.5", np.sqrt, _op("Sqrt")),
    Unary("x^1.5", lambda x: np.sqrt(x) ** 3, _three_halves),
    _inverse_sqrt("1/sqrt(x)"),
    _inverse_sqrt("1/x^0.5"),
    Unary("exp", np.exp, _op("Exp")),
    Unary("log", np.log, _op("Log")),
    Unary("abs", np.abs, _op("Abs")),
    Unary("sin", np.sin, _op("Sin")),
    Unary("cos", np.cos, _op("Cos")),
    Unary("tan", np.tan, float64_ops.tan),
    Unary("tanh", np.tanh, _op("Tanh")),
    Unary("sgn", lambda x: np.asarray((x > 0).astype(np.float64) - (x < 0)), _emit_sign),
    Unary("arcsin", np.arcsin, float64_ops.arcsin),
    Unary("arccos", np.arccos, float64_ops.arccos),
    Unary("arctan", np.arctan, float64_ops.arctan),
    Unary("arctanh", np.arctanh, float64_ops.arctanh),
    Unary("0", lambda x: x * 0, lambda g, x: g.mul(x, g.const(0.0))),
    Unary("gaussian", lambda x: np.exp(-(x**2)), lambda g, x: g.op("Exp", g.op("Neg", g.mul(x, x)))),
    Unary("sigmoid", FUNCTIONS["sigmoid"], _emit_sigmoid),
    Unary("cosh", np.cosh, float64_ops.cosh),
)

# Functions that only some libraries have.
SHAPES = table(
    SHAPE,
    Unary("softsign", lambda x: x / (1 + np.abs(x)), lambda g, x: g.op("Div", x, g.add(g.op("Abs", x), g.const(1.0)))),
    Unary(
        "sech2",
        lambda u: 1 - np.tanh(u) ** 2,
        lambda g, u: g.sub(g.const(1.0), g.mul(g.op("Tanh", u), g.op("Tanh", u))),
    ),
)


def limited(
    function: Unary, a: float, b: float, c: float, d: float, low: float, high: float, expression: str = ""
) -> Unary:
    """c * function(a * x + b) + d, limited to [low, high]. An infinite value becomes a limit, and NaN stays.
    `expression`: the same as text. Raises ValueError for values that make no function."""
    numbers = (a, b, c, d, low, high)
    if not (isinstance(function, Unary) and all(map(math.isfinite, numbers)) and low <= high):
        raise ValueError(f"a function is limited to {low} to {high} by the values {numbers}")
    listed = ",".join(map(repr, numbers))
    digest = hashlib.sha256(f"{function.name},{function.expression},{listed}".encode()).hexdigest()

    def emit(g: Graph, x: Value) -> Value:
        value = function.emit(g, g.add(g.mul(x, g.const(a)), g.const(b)))
        return g.clip(g.add(g.mul(value, g.const(c)), g.const(d)), low, high)

    return Unary(
        f"limited_{digest[:8]}",
        lambda x: np.clip(c * function.evaluate(a * x + b) + d, low, high),
        emit,
        expression,
        function.effort,
        (LIMITED, function, *numbers, str(expression)),
    )


def activation(name: str) -> Unary:
    """The base activation of that name. Raises UnknownFunction, with the known names."""
    return _lookup(ACTIVATIONS, name, "base activation")


def symbolic(name: str) -> Unary:
    """The symbolic function of that name. Raises UnknownFunction, with the known names."""
    return _lookup(SYMBOLIC, name, "symbolic function")


def _lookup(table: dict[str, Unary], name: Any, what: str) -> Unary:
    if not isinstance(name, str) or name not in table:
        raise UnknownFunction(
            f"unknown {what} {str(name)[:80]!r}", code="function-unknown", hint="available: " + ", ".join(table)
        )
    return table[name]
