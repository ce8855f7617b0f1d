"""Piecewise linear functions on equally spaced points, with straight lines beyond the ends.

Source: KANditioned's KANLayer.forward, for P points on [-w/2, w/2]:

    u = (x + w/2) (P - 1) / w,  a = min(max(floor(u), 0), P - 2)
    value = (1 - (u - a)) v_a + (u - a) v_{a+1}

As a basis: P hats max(0, 1 - |u' - c|) of u' = u kept within [0, P - 1], and the
distances beyond the first and the last point, min(u, 0) and max(u - (P - 1), 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, InvalidKan
from kanexport.graph.builder import Graph, Value


@dataclass(frozen=True, slots=True)
class Hats(Basis):
    """Piecewise linear basis on P equally spaced points; K = P + 2.

    points  P >= 2
    width   w, the distance of two points
    """

    points: int
    width: float

    kind = "piecewise-linear"

    def __post_init__(self) -> None:
        if self.points < 2:
            raise InvalidKan(
                f"the layer has {self.points} point, expected 2 or more", code="grid-wrong-shape", hint=CHECK_FAMILY
            )
        if not 0 < self.width < np.inf:
            raise InvalidKan(
                f"the points have the width {self.width}, expected a positive number",
                code="option-out-of-range",
                hint="pass a positive width",
            )

    @property
    def functions(self) -> int:
        """K = P + 2: a hat for each point, and a line beyond each end."""
        return self.points + 2

    @staticmethod
    def coefficients(values: Array) -> Array:
        """Coefficients [I, O, P + 2] of functions with the values [I, P, O] at the points."""
        low, high = values[:, 1] - values[:, 0], values[:, -1] - values[:, -2]
        return np.concatenate([values, low[:, None], high[:, None]], axis=1).transpose(0, 2, 1)

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        last = self.points - 1
        u = ((x + self.width / 2) * last / self.width)[:, None, :]
        hats = np.maximum(0, 1 - np.abs(np.clip(u, 0, last) - np.arange(self.points)[:, None]))
        return np.concatenate([hats, np.minimum(u, 0), np.maximum(u - last, 0)], axis=1)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I]."""
        last = float(self.points - 1)
        u = g.mul(g.add(x, g.const(self.width / 2)), g.const(last / self.width))
        u = g.reshape(u, 0, 1, sources)
        zero = g.const(0.0)
        below, above = g.op("Min", u, zero), g.op("Max", g.sub(u, g.const(last)), zero)
        inside = g.op("Min", g.op("Max", u, zero), g.const(last))
        distance = g.op("Abs", g.sub(inside, g.const(np.arange(self.points)[None, :, None])))
        hats = g.op("Relu", g.sub(g.const(1.0), distance))
        return g.op("Concat", hats, below, above, axis=1)

    def support(self, sources: int) -> Support:
        """The range [-w/2, w/2], and twice as much; `points` are the P points."""
        half, points = np.full(sources, self.width / 2), self.knots()[0]
        return Support((-half, half), (-2 * half, 2 * half), np.repeat(points[:, None], sources, axis=1))

    def parameters(self) -> dict[str, str]:
        """The number of grid intervals and the width of the range."""
        return {"intervals": str(self.points - 1), "width": repr(self.width)}

    def knots(self) -> Array:
        """[1, P]: the points."""
        return np.linspace(-self.width / 2, self.width / 2, self.points)[None]
