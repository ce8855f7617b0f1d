"""Uniform cubic splines with separate starts: N((x - s_c) / h).

Source: flashkan's `bspline_basis` (and inkan's before 0.4), for starts s [K] and a
cell width h. N is the cubic B-spline on the knots 0, 1, 2, 3, 4. There it is a sum
of truncated powers, which is the same function with fewer digits. The starts are
stored rounded, so they are no multiples of h apart, and no common knots exist.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.bases.bspline import CUBIC_SCALE, MAX_KNOT_MAGNITUDE, UNIFORM_TOLERANCE, emit_uniform_cubic
from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan
from kanexport.graph.builder import Graph, Value

DEGREE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Cubic(Basis):
    """Uniform cubic basis with one spline per start [K], K >= 4; `step` is h."""

    starts: Array
    step: float

    kind = "bspline"
    compact = True

    def __post_init__(self) -> None:
        if self.starts.ndim != 1 or len(self.starts) <= DEGREE:
            raise InvalidKan(
                f"starts of shape {self.starts.shape} do not make cubic splines, expected (G + 3,) with G >= 1",
                code="grid-wrong-shape",
                hint=CHECK_FAMILY,
            )
        if not (np.abs(self.starts) < MAX_KNOT_MAGNITUDE).all() or not (np.diff(self.starts) > 0).all():
            raise InvalidKan(
                f"the starts of the splines are {self.starts.tolist()[:8]}, expected finite and increasing numbers",
                code="knots-not-increasing",
                hint=REPAIR,
            )
        if not 0 < self.step < MAX_KNOT_MAGNITUDE:
            raise InvalidKan(
                f"the grid interval of the splines is {self.step}, expected a positive number",
                code="option-out-of-range",
                hint="pass --option h=NUMBER",
            )

    @property
    def functions(self) -> int:
        """K, one spline for each start."""
        return len(self.starts)

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        u = (x[:, None, :] - self.starts[:, None]) / self.step
        # Non-finite values are outside.
        distance = np.abs(np.where(np.isfinite(u), u, -1.0) - 2)
        return np.asarray((np.maximum(2 - distance, 0) ** 3 - 4 * np.maximum(1 - distance, 0) ** 3) / 6)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], divided by CUBIC_SCALE."""
        return emit_uniform_cubic(g, g.reshape(x, 0, 1, sources), self.starts + 2 * self.step, self.step)

    def emitted_scale(self, g: Graph) -> float:
        """CUBIC_SCALE."""
        return CUBIC_SCALE

    def common_knots(self) -> Array | None:
        """[1, K + 4]: knots of B-splines that are the same functions except for rounding; None if the starts are not a
        grid interval apart."""
        knots = self.starts[0] + self.step * np.arange(len(self.starts) + DEGREE + 1)
        away = np.abs(knots[: len(self.starts)] - self.starts)
        return knots[None] if (away <= UNIFORM_TOLERANCE * self.step).all() else None

    def support(self, sources: int) -> Support:
        """The range that all splines cover, and the ends of the outermost splines; every knot is a point."""
        knots = self.knots()[0]
        core, outer = (np.repeat(ends[:, None], sources, axis=1) for ends in (knots[[DEGREE, -4]], knots[[0, -1]]))
        return Support((core[0], core[1]), (outer[0], outer[1]), np.repeat(knots[:, None], sources, axis=1))

    def parameters(self) -> dict[str, str]:
        """Degree and number of grid intervals, as for a B-spline."""
        return {"degree": str(DEGREE), "intervals": str(self.functions - DEGREE), "uniform": "true"}

    def knots(self) -> Array:
        """[1, K + 4]: the starts, and the ends of the four intervals after the last one."""
        end = self.starts[-1] + self.step * np.arange(1, DEGREE + 2)
        return np.concatenate([self.starts, end])[None]
