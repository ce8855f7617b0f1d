"""Fixed activation function of all edges: the base branch of a KAN layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.functions.elementwise import Unary
from kanexport.graph.builder import Graph, Value


@dataclass(frozen=True, slots=True)
class Activation(Basis):
    """Basis of one fixed function: phi(x) = w * function(x); K = 1."""

    function: Unary

    functions = 1

    @property
    def kind(self) -> str:
        """The name of the function, such as "silu"."""
        return self.function.name

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, 1, I], float64."""
        return self.function.evaluate(x)[:, None, :]

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, I]."""
        return self.function.emit(g, x)

    def support(self, sources: int) -> Support:
        """[-1, 1] and [-3, 3], with a point at zero: a base function has no grid."""
        ones = np.ones(sources)
        return Support((-ones, ones), (-3 * ones, 3 * ones), np.zeros((1, sources)))

    def parameters(self) -> dict[str, str]:
        """The expression of a custom function. The name identifies all others."""
        return {"expression": self.function.expression} if self.function.expression else {}
