"""From any source to [-1, 1], where polynomials live: tanh, or a scaled range.

Both are emitted as a sign and the rest w = 1 - |u|. Near the ends, where polynomials are
steepest, w keeps all its digits, while u itself would be rounded to 6e-8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan

if TYPE_CHECKING:
    from kanexport.graph import Graph, Value

Array = npt.NDArray[np.float64]


class Squash(Protocol):
    """How a source x becomes u; arrays of any shape."""

    @property
    def name(self) -> str: ...
    def evaluate(self, x: Array) -> Array: ...

    def emit(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, and the rest 1 - |u|."""

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Core and outer ends, as in `Support`."""


@dataclass(frozen=True, slots=True)
class Tanh:
    """u = tanh(x)."""

    name = "tanh(x)"

    def evaluate(self, x: Array) -> Array:
        return np.tanh(x)

    def emit(self, g: Graph, x: Value) -> tuple[Value, Value]:
        # 1 - tanh|x| = 2 e / (1 + e) with e = exp(-2|x|). Not by Sigmoid: onnxruntime's
        # is exact to 1e-8, not to a share of so small a value.
        e = g.op("Exp", g.mul(g.op("Abs", x), g.const(-2.0)))
        return g.op("Sign", x), g.op("Div", g.add(e, e), g.add(e, g.const(1.0)))

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        one = np.ones(sources)
        return (-2 * one, 2 * one), (-6 * one, 6 * one)


@dataclass(frozen=True, slots=True)
class Range:
    """u = 2 (x - low) / (high - low) - 1, from [low, high] to [-1, 1] and beyond."""

    low: float
    high: float

    name = "x scaled from its range"

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise InvalidKan(f"the range of a layer's sources is {self.low} to {self.high}, expected low < high")

    def evaluate(self, x: Array) -> Array:
        return 2 * (x - self.low) / (self.high - self.low) - 1

    def emit(self, g: Graph, x: Value) -> tuple[Value, Value]:
        nearest = g.op("Min", g.sub(g.const(self.high), x), g.sub(x, g.const(self.low)))
        middle = g.const((self.low + self.high) / 2)
        return g.op("Sign", g.sub(x, middle)), g.mul(nearest, g.const(2 / (self.high - self.low)))

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        low, high = np.full(sources, self.low), np.full(sources, self.high)
        reach = (high - low) / 4
        return (low, high), (low - reach, high + reach)


def emit_squashed(g: Graph, squash: Squash, x: Value) -> Value:
    """u itself. Not by Tanh: onnxruntime's is off by up to 2e-7 in float32."""
    sign, rest = squash.emit(g, x)
    return g.mul(sign, g.sub(g.const(1.0), rest))
