"""From any source to [-1, 1], where polynomials live: tanh, or a scaled range.

Both have a second emission, as a sign and the rest w = 1 - |u|. Near the ends, where most
polynomials are steepest, w keeps all its digits, while u itself would be rounded to 6e-8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, OptionError
from kanexport.options import Options

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]


class Squash(Protocol):
    """How a source x becomes u; arrays of any shape."""

    @property
    def name(self) -> str:
        """What is computed, in terms of x."""

    def evaluate(self, x: Array) -> Array:
        """u of x, float64."""

    def emit(self, g: Graph, x: Value) -> Value:
        """u, with all its digits near zero."""

    def emit_rest(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, and the rest 1 - |u|, with all its digits near the ends."""

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Core and outer ends, as in `Support`."""


@dataclass(frozen=True, slots=True)
class Tanh:
    """u = tanh(x)."""

    name = "tanh(x)"

    def evaluate(self, x: Array) -> Array:
        """tanh(x), float64."""
        return np.tanh(x)

    def emit(self, g: Graph, x: Value) -> Value:
        """u, with all its digits near zero."""
        # onnxruntime's Tanh alone is off by up to 2e-7 where u is large.
        sign, rest = self.emit_rest(g, x)
        small = g.op("Greater", rest, g.const(0.75))
        return g.op("Where", small, g.op("Tanh", x), g.mul(sign, g.sub(g.const(1.0), rest)))

    def emit_rest(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, and 1 - |u| with all its digits near the ends."""
        # 1 - tanh|x| = 2 e / (1 + e) with e = exp(-2|x|). Not by Sigmoid: onnxruntime's
        # is exact to 1e-8, not to a share of so small a value.
        e = g.op("Exp", g.mul(g.op("Abs", x), g.const(-2.0)))
        return g.op("Sign", x), g.op("Div", g.add(e, e), g.add(e, g.const(1.0)))

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Core [-2, 2], where tanh bends, and outer [-6, 6], where it has reached its ends."""
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
        """u of x, float64."""
        return 2 * (x - self.low) / (self.high - self.low) - 1

    def emit(self, g: Graph, x: Value) -> Value:
        """u, with all its digits near zero."""
        middle, slope = (self.low + self.high) / 2, 2 / (self.high - self.low)
        return g.mul(g.sub(x, g.const(middle)), g.const(slope))

    def emit_rest(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, and 1 - |u| with all its digits near the ends."""
        nearest = g.op("Min", g.sub(g.const(self.high), x), g.sub(x, g.const(self.low)))
        middle = g.const((self.low + self.high) / 2)
        return g.op("Sign", g.sub(x, middle)), g.mul(nearest, g.const(2 / (self.high - self.low)))

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Core: the range; outer: a quarter of it further on each side."""
        low, high = np.full(sources, self.low), np.full(sources, self.high)
        reach = (high - low) / 4
        return (low, high), (low - reach, high + reach)


def frozen(options: Options, at: int, count: int) -> Range:
    """The range of layer `at` of `count`, from the options x_min and x_max, of a library that
    scales by the smallest and largest source of each batch. Raises OptionError."""
    names = ("x_min", "x_max")
    texts = [options.optional(name) for name in names]
    if None in texts:
        raise OptionError(
            "the library scales a layer's sources by the smallest and largest of the whole batch, so that a row's "
            f"output depends on the other rows; the ranges must be frozen, and {' and '.join(names)} are not given",
            hint="run the training rows through the model once, note x.min() and x.max() before each of its "
            f"{count} layers, and give --option x_min=A,B,... --option x_max=C,D,...",
        )
    low, high = (_numbers(name, text or "", count)[at] for name, text in zip(names, texts, strict=True))
    if not low < high:
        raise OptionError(f"x_min of layer {at} is {low!r}, and x_max {high!r}: expected a range, low < high")
    return Range(low, high)


def _numbers(name: str, text: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise OptionError(f"option {name} is {text[:80]!r}, expected {count} numbers with commas, one for each layer")
    return numbers
