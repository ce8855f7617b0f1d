"""Fermat basis: 1, and (u^(2^n) - 1) / 2 for n = 1 .. D, of u = sigmoid(x).

Source: seydi1370/Basis_Functions, FermatKANLayer.forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, InvalidKan
from kanexport.functions import elementwise
from kanexport.functions.domain_maps import Sigmoid
from kanexport.graph.builder import Graph, Value

LARGEST = 30  # of D: then u^(2^D) is a step


@dataclass(frozen=True, slots=True)
class Fermat(Basis):
    """Fermat basis of degree D (`degree`)."""

    degree: int

    kind = "fermat"

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= LARGEST:
            raise InvalidKan(
                f"fermat has degree {self.degree}, expected 0 to {LARGEST}", code="network-too-large", hint=CHECK_FAMILY
            )

    @property
    def functions(self) -> int:
        """D + 1."""
        return self.degree + 1

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, D + 1, I], float64."""
        u = Sigmoid().evaluate(x)
        powers = [(u ** (2.0**n) - 1) / 2 for n in range(1, self.functions)]
        return np.stack([1 + 0 * u, *powers], axis=1)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, D + 1, I], or [B, I] if D is 0."""
        # u^(2^n) = exp(-2^n log(1 + exp(-x))): squaring would double a rounding n times.
        logarithm = elementwise.ACTIVATIONS["softplus"].emit(g, g.op("Neg", g.reshape(x, 0, 1, sources)))
        ones = g.add(g.mul(g.op("Exp", g.op("Neg", logarithm)), g.const(0.0)), g.const(1.0))
        if self.degree == 0:
            return g.reshape(ones, 0, sources)
        orders = g.const(-(2.0 ** np.arange(1, self.functions))[:, None])
        powers = g.op("Exp", g.mul(logarithm, orders))
        return g.op("Concat", ones, g.mul(g.sub(powers, g.const(1.0)), g.const(0.5)), axis=1)

    def support(self, sources: int) -> Support:
        """The range in which the logistic function bends, and the points at which it reaches its limits."""
        core, outer = Sigmoid().support(sources)
        return Support(core, outer, np.linspace(*core, 2 * self.functions + 1))

    def parameters(self) -> dict[str, str]:
        """Degree, and the argument of the powers."""
        return {"degree": str(self.degree), "of": Sigmoid.name}
