"""Errors of emitted operators in float32: a stand-in for the graph builder that computes bounds in place of nodes.

The code that emits a basis runs with `Bounds` in place of `Graph`. Each value is then the range of the exact number,
and a bound for its float32 error (`taylor.Taylor` without derivatives). The operators are those of the served graph,
so that the bound covers them in their order. The kernel's programs have the same operators, some of them joined, which
rounds less.

Constants have the error of their storage in float32. `UnboundedError` says that an operator is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.certify import taylor
from kanexport.certify.taylor import LIBRARY, SINGLE, Choice, Taylor, UnboundedError

Array = npt.NDArray[np.float64]


class Bounds:
    """The methods of `graph.builder.Graph` that bases use, for ranges and errors [n, ...] of n cells."""

    def __init__(self, *, small_values: bool) -> None:
        self.dtype = np.dtype(np.float32)
        self.small_values = small_values
        self.exact_waves = True
        self.unpacked = False
        self.weights = None

    @staticmethod
    def source(low: Array, high: Array) -> Taylor:
        """Float32 numbers from low to high, without an error."""
        return Taylor.source(low, high, order=0, unit=SINGLE)

    @staticmethod
    def const(array: Any) -> Taylor:
        """A constant, with the error of its storage."""
        exact = np.asarray(array, dtype=np.float64)
        with np.errstate(over="ignore"):
            error = np.abs(exact - exact.astype(np.float32).astype(np.float64)) + 1e-15 * np.abs(exact)
        return Taylor([(exact, exact)], error, SINGLE)

    @staticmethod
    def index(array: Any) -> npt.NDArray[np.int64]:
        """Whole numbers."""
        return np.asarray(array, dtype=np.int64)

    @staticmethod
    def nan() -> Taylor:
        """A constant for inputs that are not finite. The bounds do not cover them."""
        return Bounds.const(0.0)

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> Any:
        """The bounds of an operator. Raises UnboundedError."""
        if kind not in OPERATORS:
            raise UnboundedError(f"the operator {kind}")
        return OPERATORS[kind](*inputs, **attributes)

    def add(self, a: Taylor, b: Taylor) -> Any:
        """a + b"""
        return a + b

    def sub(self, a: Taylor, b: Taylor) -> Any:
        """a - b"""
        return a - b

    def mul(self, a: Taylor, b: Taylor) -> Any:
        """a * b"""
        return a * b

    def pow(self, a: Taylor, exponent: float) -> Taylor:
        """a to the power of a constant."""
        return _pow(a, self.const(exponent))

    def cube(self, a: Taylor) -> Any:
        """a to the third power by products."""
        return a * a * a

    def clip(self, a: Taylor, low: float, high: float) -> Taylor:
        """a between two constants."""
        return taylor.clip(a, self.const(low), self.const(high))

    def hard_sigmoid(self, a: Taylor, *, alpha: float, beta: float) -> Taylor:
        """clip(alpha a + beta, 0, 1)"""
        return taylor.clip(a * self.const(alpha) + self.const(beta), self.const(0.0), self.const(1.0))

    def cast(self, a: Any) -> Any:
        """A number from the result of a comparison."""
        return taylor.where(a, self.const(1.0), self.const(0.0)) if isinstance(a, Choice) else a

    def gather(self, a: Taylor, indices: Any, *, axis: int) -> Taylor:
        """numpy.take"""
        return a.mapped(lambda array: np.take(array, np.asarray(indices), axis=axis))

    def slice(self, a: Taylor, start: int, stop: int, *, axis: int) -> Taylor:
        """a[start:stop] on one axis."""
        return self.gather(a, np.arange(start, stop), axis=axis)

    def reshape(self, a: Taylor, *shape: int) -> Taylor:
        """Another shape, in which 0 keeps an axis."""
        kept = [a.shape[at] if size == 0 else size for at, size in enumerate(shape)]
        return a.reshape(*kept)


def _pow(a: Taylor, exponent: Taylor) -> Taylor:
    value = float(exponent.coefs[0][0].reshape(()))
    result = taylor.power(a, value)
    return Taylor(result.coefs, result.error + LIBRARY[SINGLE] * np.maximum(result.size, 1.0), SINGLE)


def _library(function: Any) -> Callable[[Taylor], Taylor]:
    """A function that a runtime computes as one operator."""

    def bounded(a: Taylor) -> Taylor:
        result = function(a)
        return Taylor(result.coefs, result.error + LIBRARY[SINGLE] * np.maximum(result.size, 1.0), SINGLE)

    return bounded


def _erf(a: Taylor) -> Taylor:
    result: Taylor = taylor.normal(taylor.multiplied(a, a.constant(math.sqrt(2.0)))) * 2.0 - 1.0
    return result


def _concat(*parts: Taylor, axis: int) -> Taylor:
    # Numbers of one row [1, ...] stand for all cells.
    shapes = [part.shape for part in parts]
    common = [max(sizes) for sizes in zip(*shapes, strict=True)]
    return taylor.concatenate([_filled(part, common, axis) for part in parts], axis=axis)


def _filled(part: Taylor, common: Sequence[int], axis: int) -> Taylor:
    shape = (*common[:axis], part.shape[axis], *common[axis + 1 :])
    return part.mapped(lambda array: np.broadcast_to(array, shape))


def _where(condition: Any, a: Any, b: Any) -> Any:
    return taylor.where(condition, a, b)


def _relu(a: Taylor) -> Taylor:
    return taylor.larger(a, a.constant(0.0))


def _reshape(a: Taylor, shape: Any) -> Taylor:
    return Bounds(small_values=False).reshape(a, *map(int, shape))


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
    "Erf": _library(_erf),
    "Sigmoid": taylor.sigmoid,
    "Softplus": taylor.softplus,
    "Reciprocal": lambda a: a.constant(1.0) / a,
    "Relu": _relu,
    "Max": np.maximum,
    "Min": np.minimum,
    "Clip": taylor.clip,
    "Sign": np.sign,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "IsNaN": np.isnan,
    "Where": _where,
    "Pow": _pow,
    "Concat": _concat,
    "Reshape": _reshape,
}
