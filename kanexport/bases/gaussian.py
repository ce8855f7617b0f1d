"""Gaussians on shared centres: exp(-((x - g_c) / d)^2).

Source: FastKAN's RadialBasisFunction (ZiyaoLi/fast-kan) and RBF-KAN's (sidhu2690/RBF-KAN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis, Support
from kanexport.errors import InvalidKan

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """One function per centre [K]; `denominator` is d."""

    centres: Array
    denominator: float

    kind = "gaussian"
    compact = False
    sources = None

    def __post_init__(self) -> None:
        if self.centres.ndim != 1 or not len(self.centres) or not np.isfinite(self.centres).all():
            raise InvalidKan(f"centres of shape {self.centres.shape} must be one or more finite numbers")
        if not 0 < abs(self.denominator) < np.inf:
            raise InvalidKan(f"the denominator of the Gaussians is {self.denominator}, expected a number that is not 0")

    @property
    def functions(self) -> int:
        """K, one for each centre."""
        return len(self.centres)

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        return np.asarray(np.exp(-(((x[:, None, :] - self.centres[:, None]) / self.denominator) ** 2)))

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], or [B, I] where K is 1."""
        apart = g.sub(g.reshape(x, 0, 1, sources), g.const(self.centres[None, :, None]))
        apart = g.mul(apart, g.const(1 / self.denominator))
        return g.reshape(g.op("Exp", g.op("Neg", g.mul(apart, apart))), *self._flat(sources))

    def _flat(self, sources: int) -> tuple[int, ...]:
        return (0, sources) if self.functions == 1 else (0, self.functions, sources)

    def emitted_scale(self, g: Graph) -> float:
        """1: `emit` gives the functions as they are."""
        return 1.0

    def support(self, sources: int) -> Support:
        """From the first centre to the last, and three widths further; every centre is a point."""
        low, high = (np.full(sources, edge) for edge in (self.centres.min(), self.centres.max()))
        reach = 3 * abs(self.denominator)
        return Support((low, high), (low - reach, high + reach), np.repeat(self.centres[:, None], sources, axis=1))

    def parameters(self) -> dict[str, str]:
        """The width d."""
        return {"denominator": repr(self.denominator)}

    def knots(self) -> Array:
        """[1, K]: the centres."""
        return self.centres[None]


def examples() -> list[Basis]:
    """Small instances for the conformance test."""
    return [
        Gaussian(np.linspace(-2, 2, 8), 4 / 7),
        Gaussian(np.linspace(-1, 3, 5), 0.8),
        Gaussian(np.array([0.5]), 1.0),
    ]
