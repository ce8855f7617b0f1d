"""Errors of emitted operators in float32: a graph builder that computes bounds in place of nodes.

The code that emits a basis runs with `Bounds`, which has the methods of `Graph` and its own operators and constants.
Each value is then the range of the exact number, and a bound for its float32 error (`taylor.Taylor` without
derivatives). The operators are those of the served graph, so that the bound covers them in their order. The kernel's
programs have the same operators, some of them joined, which rounds less.

Constants have the error of their storage in float32. `UnboundedError` says that an operator is not known here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.certify import taylor
from kanexport.certify.taylor import LIBRARY, SINGLE, Choice, Taylor, UnboundedError
from kanexport.graph.builder import Graph

Array = npt.NDArray[np.float64]


class Bounds(Graph):
    """Graph builder whose values are ranges and errors [n, ...] of n cells. An operator without a row in OPERATORS has
    no bound."""

    def __init__(self, *, small_values: bool) -> None:
        super().__init__("bounds", np.float32)
        self.small_values, self.exact_waves = small_values, True

    @staticmethod
    def source(low: Array, high: Array) -> Taylor:
        """Float32 numbers from low to high, without an error."""
        return Taylor.source(low, high, order=0, unit=SINGLE)

    @staticmethod
    def const(array: Any) -> Any:
        """A constant, with the error of its storage."""
        exact = np.asarray(array, dtype=np.float64)
        with np.errstate(over="ignore"):
            error = np.abs(exact - exact.astype(np.float32).astype(np.float64)) + 1e-15 * np.abs(exact)
        return Taylor([(exact, exact)], error, SINGLE)

    def index(self, array: Any) -> Any:
        """Whole numbers."""
        return np.asarray(array, dtype=np.int64)

    def nan(self) -> Any:
        """A constant for inputs that are not finite. The bounds do not cover them."""
        return self.const(0.0)

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> Any:
        """The bounds of an operator. Raises UnboundedError."""
        if kind not in OPERATORS:
            raise UnboundedError(f"the operator {kind}")
        return OPERATORS[kind](*inputs, **attributes)

    def cast(self, a: Any) -> Any:
        """A number from the result of a comparison."""
        return taylor.where(a, self.const(1.0), self.const(0.0)) if isinstance(a, Choice) else a


def _library(function: Callable[..., Any]) -> Callable[..., Taylor]:
    """A function that a runtime computes as one operator."""

    def bounded(*operands: Taylor) -> Taylor:
        result = function(*operands)
        return Taylor(result.coefs, result.error + LIBRARY[SINGLE] * np.maximum(result.size, 1.0), SINGLE)

    return bounded


def _concat(*parts: Taylor, axis: int) -> Taylor:
    # Numbers of one row [1, ...] stand for all cells.
    common = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    shapes = [(*common[:axis], part.shape[axis], *common[axis + 1 :]) for part in parts]
    filled = [
        part.mapped(functools.partial(np.broadcast_to, shape=shape)) for part, shape in zip(parts, shapes, strict=True)
    ]
    return taylor.concatenate(filled, axis=axis)


def _hard_sigmoid(a: Taylor, *, alpha: float, beta: float) -> Taylor:
    return taylor.clip(a * Bounds.const(alpha) + Bounds.const(beta), Bounds.const(0.0), Bounds.const(1.0))


def _gather(a: Taylor, indices: npt.NDArray[np.int64], *, axis: int) -> Taylor:
    return a.mapped(lambda array: np.take(array, indices, axis=axis))


def _reshape(a: Taylor, shape: npt.NDArray[np.int64]) -> Taylor:
    """Another shape, in which 0 keeps an axis."""
    return a.reshape(*(a.shape[at] if size == 0 else int(size) for at, size in enumerate(shape)))


OPERATORS: dict[str, Any] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Neg": np.negative,
    "Abs": np.absolute,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": _library(np.tan),
    "Tanh": np.tanh,
    "Asin": _library(np.arcsin),
    "Acos": _library(np.arccos),
    "Atan": np.arctan,
    "Atanh": _library(np.arctanh),
    "Cosh": _library(np.cosh),
    "Erf": _library(lambda a: taylor.normal(taylor.multiplied(a, a.constant(math.sqrt(2.0)))) * 2.0 - 1.0),
    "Sigmoid": taylor.sigmoid,
    "Softplus": taylor.softplus,
    "Reciprocal": lambda a: a.constant(1.0) / a,
    "Relu": lambda a: taylor.larger(a, a.constant(0.0)),
    "Max": np.maximum,
    "Min": np.minimum,
    "Clip": taylor.clip,
    "HardSigmoid": _hard_sigmoid,
    "Sign": np.sign,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "IsNaN": np.isnan,
    "Where": taylor.where,
    "Pow": _library(lambda a, exponent: taylor.power(a, float(exponent.coefs[0][0].reshape(())))),
    "Concat": _concat,
    "Gather": _gather,
    "Slice": lambda a, start, stop, axis: _gather(a, np.arange(start[0], stop[0]), axis=axis[0]),
    "Reshape": _reshape,
}
