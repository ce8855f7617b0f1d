"""Squared hyperbolic secants on shared centers: sech^2((x - g_c) * r) = 1 - tanh^2.

Source: FasterKAN's ReflectionalSwitchFunction (AthanasiosDelis/faster-kan).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.errors import REPAIR, InvalidKan
from kanexport.graph.builder import Graph, Value


@dataclass(frozen=True, slots=True, eq=False)
class Sech2(Basis):
    """Squared hyperbolic secant basis: one function per center [K]; `rate` is r."""

    centres: Array
    rate: float = 1.0

    kind = "sech2"

    def __post_init__(self) -> None:
        if self.centres.ndim != 1 or not len(self.centres) or not np.isfinite(self.centres).all():
            raise InvalidKan(
                f"centers have shape {self.centres.shape}, expected one or more finite numbers",
                code="weights-not-finite",
                hint=REPAIR,
            )
        if not np.isfinite(self.rate):
            raise InvalidKan(
                f"the rate of the functions is {self.rate}, expected a finite number",
                code="option-out-of-range",
                hint="pass --option denominator=NUMBER",
            )

    @property
    def functions(self) -> int:
        """K, one for each center."""
        return len(self.centres)

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        e = np.exp(-2 * np.abs((x[:, None, :] - self.centres[:, None]) * self.rate))
        return np.asarray(4 * e / (1 + e) ** 2)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], or [B, I] if K is 1; the functions divided by 4."""
        # Not 1 - tanh^2, whose difference has lost its digits where the function is small.
        distances = g.op("Abs", g.sub(g.reshape(x, 0, 1, sources), g.const(self.centres[None, :, None])))
        e = g.op("Exp", g.mul(distances, g.const(-2 * abs(self.rate))))
        above = g.add(e, g.const(1.0))
        value = g.op("Div", e, g.mul(above, above))
        return g.reshape(value, *((0, sources) if self.functions == 1 else (0, self.functions, sources)))

    def emitted_scale(self, g: Graph) -> float:
        """4: `emit` leaves that factor out."""
        return 4.0

    def support(self, sources: int) -> Support:
        """The range from the first center to the last, and three widths further; every center is a point."""
        low, high = (np.full(sources, edge) for edge in (self.centres.min(), self.centres.max()))
        reach = 3 / max(abs(self.rate), 1e-3)
        return Support((low, high), (low - reach, high + reach), np.repeat(self.centres[:, None], sources, axis=1))

    def parameters(self) -> dict[str, str]:
        """The rate r."""
        return {"rate": repr(self.rate)}

    def knots(self) -> Array:
        """[1, K]: the centers."""
        return self.centres[None]
