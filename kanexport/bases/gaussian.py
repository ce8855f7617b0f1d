"""Gaussian radial basis functions: exp(-((x - g_c) / d)^2).

Source: FastKAN's RadialBasisFunction (ZiyaoLi/fast-kan) and RBF-KAN's (sidhu2690/RBF-KAN), where
all sources share the centres; KANLib's GaussianRbfBasis (julianhoever/KANLib), where each has its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan
from kanexport.graph.builder import Graph, Value


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian(Basis):
    """Gaussian basis with one function per center.

    centres      [K], or [I, K] with centres of its own for each source
    denominator  d, one number, or one for each centre in the shape of `centres`
    """

    centres: Array
    denominator: float | Array

    kind = "gaussian"

    def __post_init__(self) -> None:
        shape = self.centres.shape
        if len(shape) not in (1, 2) or 0 in shape or not np.isfinite(self.centres).all():
            raise InvalidKan(
                f"centers have shape {shape}, expected one or more finite numbers",
                code="weights-not-finite",
                hint=REPAIR,
            )
        width = np.asarray(self.denominator, dtype=np.float64)
        if width.shape not in (shape[:-1], shape):
            raise InvalidKan(
                f"denominators of shape {width.shape} do not fit centers of shape {shape}",
                code="tensors-inconsistent",
                hint=CHECK_FAMILY,
            )
        wrong = width[~((np.abs(width) > 0) & (np.abs(width) < np.inf))]
        if wrong.size:
            raise InvalidKan(
                f"the denominator of the Gaussians is {float(wrong[0])}, expected a nonzero number",
                code="option-out-of-range",
                hint="pass --option denominator=NUMBER",
            )

    @property
    def sources(self) -> int | None:
        """I if every source has separate centers, otherwise None."""
        return len(self.centres) if self.centres.ndim == 2 else None

    @property
    def functions(self) -> int:
        """K, one for each center."""
        return int(self.centres.shape[-1])

    @property
    def _columns(self) -> Array:
        """The centers as [K, 1] or [K, I], for arrays with sources last."""
        return np.atleast_2d(self.centres).T

    @property
    def _each(self) -> bool:
        """Whether every center has a separate width."""
        return np.shape(self.denominator) == self.centres.shape

    @property
    def _widths(self) -> Array:
        """The widths as [], [I], [K, 1] or [K, I], for arrays with sources last."""
        return np.atleast_2d(self.denominator).T if self._each else np.asarray(self.denominator)

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        return np.asarray(np.exp(-(((x[:, None, :] - self._columns) / self._widths) ** 2)))

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], or [B, I] if K is 1."""
        distances = g.sub(g.reshape(x, 0, 1, sources), g.const(self._columns[None]))
        distances = g.mul(distances, g.const(1 / self._widths))
        value = g.op("Exp", g.op("Neg", g.mul(distances, distances)))
        return g.reshape(value, *((0, sources) if self.functions == 1 else (0, self.functions, sources)))

    def support(self, sources: int) -> Support:
        """The range from the first center to the last, and three widths further; every center is a point."""
        points = np.broadcast_to(self._columns, (self.functions, sources))
        low, high = points.min(axis=0), points.max(axis=0)
        reach = 3 * np.abs(self._widths)
        reach = reach.max(axis=0) if self._each else reach
        return Support((low, high), (low - reach, high + reach), points)

    def parameters(self) -> dict[str, str]:
        """The width d, or the range of the widths of the sources."""
        widths = np.unique(self.denominator)
        if len(widths) == 1:
            return {"denominator": repr(float(widths[0]))}
        whose = "center" if self._each else "source"
        return {"denominator": f"{float(widths[0])!r} to {float(widths[-1])!r}, one per {whose}"}

    def knots(self) -> Array:
        """The centers, [1, K] or [I, K]."""
        return np.atleast_2d(self.centres)
