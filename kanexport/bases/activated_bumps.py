"""Bumps of any activation: (act(x - l) act(h - x) r)^p, or x times that, with separate ends for every source.

Source: copies of ReLU-KAN's ReLUKANLayer with another activation, and those that multiply by x and do not square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.bases.relu_bumps import ReluBumps
from kanexport.functions.elementwise import Unary
from kanexport.graph.builder import Graph, Value


@dataclass(frozen=True, slots=True, eq=False)
class ActivatedBumps(Basis):
    """Basis of K bumps per source, which may reach beyond their ends.

    bumps     ends, rate and power, as for the ReLU
    function  act
    times_x   whether each function is multiplied by x
    """

    bumps: ReluBumps
    function: Unary
    times_x: bool = False

    kind = "activated-bumps"

    @property
    def functions(self) -> int:
        """K of each source."""
        return self.bumps.functions

    @property
    def sources(self) -> int | None:
        """I: every source has separate ends."""
        return self.bumps.sources

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        u = x[:, None, :]
        with np.errstate(over="ignore", invalid="ignore"):
            sides = self.function.evaluate(u - self.bumps.low.T), self.function.evaluate(self.bumps.high.T - u)
            value = np.asarray((sides[0] * sides[1] * self.bumps.rate) ** self.bumps.power)
            return value * u if self.times_x else value

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], or [B, I] if K is 1."""
        x = g.reshape(x, 0, 1, sources)
        small, g.small_values = g.small_values, True  # a small side is multiplied by a large one
        rising = self.function.emit(g, g.sub(x, g.const(self.bumps.low.T[None])))
        falling = self.function.emit(g, g.sub(g.const(self.bumps.high.T[None]), x))
        g.small_values = small
        value = bump = g.mul(g.mul(rising, falling), g.const(self.bumps.rate))
        for _ in range(self.bumps.power - 1):
            value = g.mul(value, bump)
        if self.times_x:
            value = g.mul(value, x)
        return g.reshape(value, *((0, sources) if self.functions == 1 else (0, self.functions, sources)))

    def support(self, sources: int) -> Support:
        """The range of the ends, as for the ReLU."""
        return self.bumps.support(sources)

    def parameters(self) -> dict[str, str]:
        """The function, the rate and the power, and whether x multiplies them."""
        times = {"times_x": "true"} if self.times_x else {}
        return {"function": self.function.name, **self.bumps.parameters(), **times}

    def knots(self) -> Array:
        """[I, 2 K]: all ends, in order."""
        return self.bumps.knots()
