"""ReLU basis: products of two ramps to a power, ((x - l)+ (h - x)+ r)^p, with separate ends for every source.

Source: ReLU-KAN's ReLUKANLayer (quiqi/relu_kan), where l and h are trained, r is fixed and p is 2;
higher-order ReLU-KANs have other powers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan
from kanexport.graph.builder import Graph, Value

POWER_LIMIT = 16  # every power is a multiplication of the graph


@dataclass(frozen=True, slots=True, eq=False)
class ReluBumps(Basis):
    """ReLU basis of K bumps per source. A function whose ends have crossed is zero.

    low, high  [I, K]: the ends of each bump
    rate       r
    power      p
    """

    low: Array
    high: Array
    rate: float
    power: int = 2

    kind = "relu-bumps"
    compact = True

    def __post_init__(self) -> None:
        if self.low.ndim != 2 or self.low.shape != self.high.shape or 0 in self.low.shape:
            raise InvalidKan(
                f"ends have shapes {self.low.shape} and {self.high.shape}, expected [sources, functions]",
                code="tensors-inconsistent",
                hint=CHECK_FAMILY,
            )
        for name, ends in (("low", self.low), ("high", self.high)):
            bad = np.argwhere(~np.isfinite(ends))
            if len(bad):
                source, at = (int(v) for v in bad[0])
                raise InvalidKan(
                    f"{name} end {at} of source {source} is {float(ends[source, at])!r}, expected a finite number",
                    code="weights-not-finite",
                    hint=REPAIR,
                )
        if not 0 < self.rate < np.inf:
            raise InvalidKan(
                f"the rate of the functions is {self.rate}, expected a positive number",
                code="option-out-of-range",
                hint="pass a positive finite number for the rate",
            )
        if not 1 <= self.power <= POWER_LIMIT:
            raise InvalidKan(
                f"the power of the functions is {self.power}, expected 1 to {POWER_LIMIT}",
                code="option-out-of-range",
                hint=f"pass a power from 1 to {POWER_LIMIT}",
            )

    @property
    def functions(self) -> int:
        """K of each source."""
        return int(self.low.shape[1])

    @property
    def sources(self) -> int | None:
        """I: every source has separate ends."""
        return len(self.low)

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        # Non-finite values are outside of every function.
        u = np.where(np.isfinite(x), x, self.support(len(self.low)).outer[0])[:, None, :]
        return np.asarray((np.maximum(u - self.low.T, 0) * np.maximum(self.high.T - u, 0) * self.rate) ** self.power)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], or [B, I] if K is 1."""
        # Outside there is nothing, and infinity times zero would be NaN.
        low, high = self.support(sources).outer
        x = g.reshape(g.op("Min", g.op("Max", x, g.const(low)), g.const(high)), 0, 1, sources)
        # The product is positive between the ends; where they have crossed they are put
        # together, and it never is.
        end = np.maximum(self.low, self.high)
        root = np.sqrt(self.rate)
        rising = g.mul(g.sub(x, g.const(self.low.T[None])), g.const(root))
        falling = g.mul(g.sub(g.const(end.T[None]), x), g.const(root))
        bump = g.op("Relu", g.mul(rising, falling))
        value = bump
        for _ in range(self.power - 1):
            value = g.mul(value, bump)
        return g.reshape(value, *((0, sources) if self.functions == 1 else (0, self.functions, sources)))

    def support(self, sources: int) -> Support:
        """The outermost ends, and the middle half of the range between them."""
        high = np.maximum(self.low, self.high)
        first, last = self.low.min(axis=1), high.max(axis=1)
        quarter = (last - first) / 4
        points = np.concatenate([self.low, high], axis=1).T
        return Support((first + quarter, last - quarter), (first, last), points)

    def parameters(self) -> dict[str, str]:
        """The rate r, and the power p unless it is 2."""
        return {"rate": repr(self.rate)} | ({} if self.power == 2 else {"power": str(self.power)})

    def knots(self) -> Array:
        """[I, 2 K]: all ends, in order."""
        return np.sort(np.concatenate([self.low, self.high], axis=1), axis=1)
