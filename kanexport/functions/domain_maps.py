"""Domain maps from a source to [-1, 1] or [0, 1] for polynomials: tanh and similar, a scaled range, the logistic
function, the identity.

Those that end at -1 and 1 have a second emission, as a sign and the rest w = 1 - |u|. Near the
ends, where most polynomials are steepest, w keeps all its digits, while u itself would be rounded
to 6e-8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kanexport.errors import InvalidKan, OptionError
from kanexport.functions import elementwise
from kanexport.functions.elementwise import Array, Unary
from kanexport.graph.builder import Graph, Value
from kanexport.options import Options


class Squash(Protocol):
    """Domain map from a source x to u; arrays of any shape. Members with a value here are those of most maps."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The formula in terms of x."""

    @property
    def open(self) -> bool:
        """Whether an infinite x gives an infinite u, and constants of it are constants. Otherwise u is bounded, or
        an infinite x gives NaN."""
        return False

    def evaluate(self, x: Array) -> Array:
        """u of x, float64."""

    def emit(self, g: Graph, x: Value) -> Value:
        """u, with all its digits near zero."""

    def emit_rest(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, and the rest 1 - |u|. A map whose u is rounded near its ends computes the rest without it."""
        u = self.emit(g, x)
        return g.op("Sign", u), g.sub(g.const(1.0), g.op("Abs", u))

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Core and outer ends, as in `Support`: [-4, 4] and [-10, 10]."""
        ones = np.ones(sources)
        return (-4 * ones, 4 * ones), (-10 * ones, 10 * ones)


@dataclass(frozen=True, slots=True)
class Tanh(Squash):
    """Domain map u = tanh(slope x + shift), at least `short` away from -1 and 1. Some libraries need that for the
    derivative of acos."""

    slope: float = 1.0
    shift: float = 0.0
    short: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite([self.slope, self.shift]).all() and 0 <= self.short < 1):
            raise InvalidKan(
                f"{self.name} does not map to [-1, 1]", code="option-out-of-range", hint="pass a small positive epsilon"
            )

    @property
    def name(self) -> str:
        """Such as "tanh(x)", or "tanh(0.5 x) up to 1 - 1e-06"."""
        scaled = "x" if self.slope == 1 else f"{self.slope:.6g} x"
        text = f"tanh({scaled})" if self.shift == 0 else f"tanh({scaled} + {self.shift:.6g})"
        return f"{text} up to 1 - {self.short:g}" if self.short else text

    def evaluate(self, x: Array) -> Array:
        """tanh, float64."""
        u = np.tanh(x if self.slope == 1 and self.shift == 0 else x * self.slope + self.shift)
        return np.clip(u, self.short - 1, 1 - self.short) if self.short else u

    def emit(self, g: Graph, x: Value) -> Value:
        """u, with all its digits near zero."""
        # onnxruntime's Tanh alone is off by up to 2e-7 where u is large.
        inner = self._inner(g, x)
        sign, rest = self._emit_rest(g, inner)
        small = g.op("Greater", rest, g.const(0.75))
        return g.op("Where", small, g.op("Tanh", inner), g.mul(sign, g.sub(g.const(1.0), rest)))

    def emit_rest(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, and 1 - |u| with all its digits near the ends."""
        return self._emit_rest(g, self._inner(g, x))

    def _inner(self, g: Graph, x: Value) -> Value:
        scaled = x if self.slope == 1 else g.mul(x, g.const(self.slope))
        return scaled if self.shift == 0 else g.add(scaled, g.const(self.shift))

    def _emit_rest(self, g: Graph, inner: Value) -> tuple[Value, Value]:
        # 1 - tanh|x| = 2 e / (1 + e) with e = exp(-2|x|). Not by Sigmoid: onnxruntime's
        # is exact to 1e-8, not to a share of so small a value.
        e = g.op("Exp", g.mul(g.op("Abs", inner), g.const(-2.0)))
        rest = g.op("Div", g.add(e, e), g.add(e, g.const(1.0)))
        if self.short:  # not by Max, which may lose NaN
            rest = g.op("Where", g.op("Less", rest, g.const(self.short)), g.const(self.short), rest)
        return g.op("Sign", inner), rest

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Core: the range in which tanh bends, [-2, 2] before slope and shift; outer [-6, 6], where it reaches its
        limits."""
        slope = abs(self.slope) or 1.0
        middle, width = np.full(sources, -self.shift / (self.slope or 1.0)), np.ones(sources) / slope
        return (middle - 2 * width, middle + 2 * width), (middle - 6 * width, middle + 6 * width)


@dataclass(frozen=True, slots=True)
class Clip(Squash):
    """Domain map u = x clamped to -1 and 1, or to -1 + `short` and 1 - `short`."""

    short: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.short < 1:
            raise InvalidKan(
                f"x is clamped {self.short} before -1 and 1, expected at least 0 and below 1",
                code="option-out-of-range",
                hint="pass a small positive epsilon",
            )

    @property
    def name(self) -> str:
        """Such as "x between -1 and 1"."""
        return f"x between -1 and 1, up to {self.short:g} before them" if self.short else "x between -1 and 1"

    def evaluate(self, x: Array) -> Array:
        """x, or the nearer limit, float64."""
        return np.clip(x, self.short - 1, 1 - self.short)

    def emit(self, g: Graph, x: Value) -> Value:
        """u; NaN for NaN."""
        end = 1 - self.short
        below = g.op("Where", g.op("Less", x, g.const(-end)), g.const(-end), x)
        return g.op("Where", g.op("Greater", x, g.const(end)), g.const(end), below)

    def emit_rest(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, and 1 - |u|, which is exact."""
        rest = g.sub(g.const(1.0), g.op("Abs", x))
        return g.op("Sign", x), g.op("Where", g.op("Less", rest, g.const(self.short)), g.const(self.short), rest)

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Core [-1, 1], outer [-2, 2]."""
        ones = np.ones(sources)
        return (-ones, ones), (-2 * ones, 2 * ones)


@dataclass(frozen=True, slots=True)
class Bounded(Squash):
    """Domain map u = scale f(x) + shift, with a bounded function f, so that u is between -1 and 1."""

    function: Unary
    scale: float = 1.0
    shift: float = 0.0

    @property
    def name(self) -> str:
        """Such as "arctan(x) times 0.63662"."""
        text = f"{self.function.name}(x)" + (f" times {self.scale:.6g}" if self.scale != 1 else "")
        return f"{text} plus {self.shift:.6g}" if self.shift else text

    def evaluate(self, x: Array) -> Array:
        """u of x, float64."""
        return self.function.evaluate(x) * self.scale + self.shift

    def emit(self, g: Graph, x: Value) -> Value:
        """u."""
        scaled = self.function.emit(g, x)
        scaled = scaled if self.scale == 1 else g.mul(scaled, g.const(self.scale))
        return g.add(scaled, g.const(self.shift)) if self.shift else scaled


@dataclass(frozen=True, slots=True)
class TanhOf(Squash):
    """Domain map u = tanh(inner(x)), with an inner function between -1 and 1, so that u is at most tanh(1) = 0.76."""

    inner: Tanh | Clip

    @property
    def name(self) -> str:
        """Such as "tanh(tanh(x))"."""
        return f"tanh({self.inner.name})"

    def evaluate(self, x: Array) -> Array:
        """tanh of the inner function, float64."""
        return np.tanh(self.inner.evaluate(x))

    def emit(self, g: Graph, x: Value) -> Value:
        """u, with all its digits near zero."""
        return Tanh().emit(g, self.inner.emit(g, x))

    def emit_rest(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, and 1 - |u|."""
        return Tanh().emit_rest(g, self.inner.emit(g, x))

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """The support of the inner function."""
        return self.inner.support(sources)


@dataclass(frozen=True, slots=True)
class Raw(Squash):
    """Identity map u = x: polynomials of the source itself."""

    name = "x"
    open = True

    def evaluate(self, x: Array) -> Array:
        """x."""
        return x

    def emit(self, g: Graph, x: Value) -> Value:
        """x."""
        return x

    def support(self, sources: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Core [-1, 1], outer [-2, 2]."""
        return Clip().support(sources)


@dataclass(frozen=True, slots=True)
class Sigmoid(Squash):
    """Domain map u = 1 / (1 + exp(-x)), from 0 to 1."""

    name = "sigmoid(x)"

    def evaluate(self, x: Array) -> Array:
        """The logistic function, float64."""
        return elementwise.ACTIVATIONS["sigmoid"].evaluate(x)

    def emit(self, g: Graph, x: Value) -> Value:
        """u, with all its digits near zero."""
        return g.op("Reciprocal", g.add(g.op("Exp", g.op("Neg", x)), g.const(1.0)))

    def emit_rest(self, g: Graph, x: Value) -> tuple[Value, Value]:
        """The sign of u, which is 1, and 1 - u."""
        u = self.emit(g, g.op("Neg", x))
        return g.add(g.mul(u, g.const(0.0)), g.const(1.0)), u


@dataclass(frozen=True, slots=True)
class Range(Squash):
    """Domain map u = 2 (x - low) / (high - low) - 1, from [low, high] to [-1, 1] and beyond."""

    low: float
    high: float

    name = "x scaled from its range"

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise InvalidKan(
                f"the range of the sources of a layer is {self.low} to {self.high}, expected low < high",
                code="option-out-of-range",
                hint="pass --option x_min=LOW --option x_max=HIGH",
            )

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
        """Core: the range; outer: 25% more on each side."""
        low, high = np.full(sources, self.low), np.full(sources, self.high)
        reach = (high - low) / 4
        return (low, high), (low - reach, high + reach)


SQUASH = "squash"  # kind of recipe


def function(squash: Squash) -> Unary:
    """The map as a function of one number."""
    return Unary(squash.name, squash.evaluate, squash.emit, recipe=(SQUASH, squash))


def frozen(options: Options, at: int, count: int) -> Range:
    """The range of layer `at` of `count`, from the options x_min and x_max, for a library that scales by the
    smallest and largest source of each batch. Raises OptionError."""
    low_text, high_text = options.optional("x_min"), options.optional("x_max")
    if low_text is None or high_text is None:
        raise OptionError(
            "the library scales the sources of a layer by the range of the whole batch, so an output depends on other "
            "rows; the options x_min and x_max must fix the range",
            code="option-required",
            hint=f"run the training rows through the model, note x.min() and x.max() before each of its {count} "
            "layers, and pass --option x_min=A,B --option x_max=C,D",
        )
    ends = []
    for name, text in (("x_min", low_text), ("x_max", high_text)):
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise OptionError(
                f"option {name} is {text[:80]!r}, expected {count} numbers, one per layer",
                code="option-not-a-number",
                hint="write the numbers with commas between them",
            )
        ends.append(numbers[at])
    low, high = ends
    if not low < high:
        raise OptionError(
            f"option x_min of layer {at} is {low!r} and x_max {high!r}, expected x_min < x_max",
            code="option-out-of-range",
            hint="pass --option x_min=A,B --option x_max=C,D",
        )
    return Range(low, high)
