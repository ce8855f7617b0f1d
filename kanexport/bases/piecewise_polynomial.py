"""Continuous piecewise polynomials, in powers of the distance from the previous knot.

Truncated powers, a_0 + .. + a_d x^d + sum_k c_k (x - t_k)+^d, are large numbers that cancel: in float32 a
spline of 100 cells loses all digits but one. With knots t_1 < .. < t_N the same function is

    a_0 + sum_p a_p min(x, t_1)^p                            below the first knot
        + sum_k sum_p q_kp (clip(x, t_k, t_k+1) - t_k)^p / w_k^p      cell by cell, w_k its width
        + sum_p q_Np max(x - t_N, 0)^p                       above the last,    p = 1 .. d

where every term is exact to its last digit, and where a cell that x has passed adds what the
function rose by over it. `coefficients` makes the q from the truncated powers in float64. Source of
those: TruKAN's truncated_power_basis (alibayeh/trukan).

At infinity the truncated powers are infinite, and their sum is NaN unless all have one sign. Two last
functions, max(x - 3.4e38, 0), give an edge the same: with opposite coefficients inf - inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan
from kanexport.graph.builder import Graph, Value

DEGREE_LIMIT = 32
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class LocalPowers(Basis):
    """Piecewise polynomial basis in powers of the distance from the previous knot; K = 3 + d (N + 1).

    The functions are 1, then d powers for each of the N + 1 pieces from the lowest to the highest, then the two that
    are not zero only at infinity. `inner` [I, N]: the knots of every source.
    """

    inner: Array
    degree: int

    kind = "piecewise-polynomial"

    def __post_init__(self) -> None:
        if self.inner.ndim != 2 or 0 in self.inner.shape or not np.isfinite(self.inner).all():
            raise InvalidKan(
                f"knots have shape {self.inner.shape}, expected one or more finite numbers per source",
                code="weights-not-finite",
                hint=REPAIR,
            )
        if not 1 <= self.degree <= DEGREE_LIMIT:
            raise InvalidKan(
                f"the pieces have degree {self.degree}, expected 1 to {DEGREE_LIMIT}",
                code="network-too-large",
                hint=CHECK_FAMILY,
            )
        bad = np.argwhere(~(np.diff(self.inner, axis=1) > 0))
        if len(bad):
            source, at = (int(v) for v in bad[0])
            raise InvalidKan(
                f"knots of source {source} are not strictly increasing: {float(self.inner[source, at])!r} is "
                f"followed by {float(self.inner[source, at + 1])!r}",
                code="knots-not-increasing",
                hint="train the model again with distinct knots",
            )

    @property
    def sources(self) -> int | None:
        """I: every source has a row of knots."""
        return len(self.inner)

    @property
    def functions(self) -> int:
        """K = 3 + d (N + 1)."""
        return 3 + self.degree * (int(self.inner.shape[1]) + 1)

    def coefficients(self, powers: Array, truncated: Array) -> Array:
        """[I, O, K] of the functions with coefficients a [I, O, d + 1] of the powers of x, and c
        [I, O, N] of the truncated ones."""
        d, (n, count) = self.degree, self.inner.shape
        pieces = [powers[:, :, 0:1], powers[:, :, 1:]]
        widths = np.concatenate([np.diff(self.inner, axis=1), np.ones((n, 1))], axis=1)
        for k in range(count):
            # Taylor's coefficients about t_k of everything that has begun there.
            at = self.inner[:, k, None, None]
            row = np.zeros((*powers.shape[:2], d))
            for p in range(1, d + 1):
                exponents = np.arange(p, d + 1)
                binomials = np.array([math.comb(int(n), p) for n in exponents], dtype=np.float64)
                row[:, :, p - 1] = (powers[:, :, p:] * binomials * at ** (exponents - p)).sum(axis=2)
                distances = self.inner[:, k : k + 1] - self.inner[:, :k]  # [I, k]
                row[:, :, p - 1] += math.comb(d, p) * (truncated[:, :, :k] * (distances ** (d - p))[:, None]).sum(
                    axis=2
                )
            row[:, :, d - 1] += truncated[:, :, k]
            pieces.append(row * widths[:, k, None, None] ** np.arange(1, d + 1))
        # The two last functions make the sum of infinite terms NaN or infinite, as it is in the library.
        infinite = np.concatenate([powers[:, :, 1:], truncated], axis=2)
        up, down = (infinite > 0).all(axis=2), (infinite < 0).all(axis=2)
        last = np.stack([np.where(down, -1.0, 1.0), np.where(up, 1.0, -1.0)], axis=2)
        return np.concatenate([*pieces, last], axis=2)

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        low, high = self.inner[:, :-1].T, self.inner[:, 1:].T
        u = x[:, None, :]
        cells = np.clip((u - low) / (high - low), 0, 1)
        parts = [np.minimum(u, self.inner[:, 0]), cells, np.maximum(u - self.inner[:, -1], 0)]
        pieces = np.concatenate(parts, axis=1)  # [B, N + 1, I]
        values = pieces[:, :, None, :] ** np.arange(1, self.degree + 1)[:, None]
        flat = values.reshape(len(x), self.functions - 3, x.shape[1])
        last = np.maximum(u - LARGEST, 0)
        return np.concatenate([np.where(np.isnan(u), u, 1.0), flat, last, last], axis=1)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I]."""
        low, high = self.inner[:, :-1].T, self.inner[:, 1:].T
        u = g.reshape(x, 0, 1, sources)
        zero = g.const(0.0)
        below = g.op("Min", u, g.const(self.inner[None, None, :, 0]))
        above = g.op("Max", g.sub(u, g.const(self.inner[None, None, :, -1])), zero)
        pieces = [below, above]
        if low.size:
            share = g.mul(g.sub(u, g.const(low[None])), g.const(1 / (high - low)[None]))
            pieces.insert(1, g.op("Min", g.op("Max", share, zero), g.const(1.0)))
        first = g.op("Concat", *pieces, axis=1)
        powers = [first]
        for _ in range(self.degree - 1):
            powers.append(g.mul(powers[-1], first))
        # Concat goes power by power, the functions piece by piece.
        joined = g.op("Concat", *powers, axis=1) if len(powers) > 1 else first
        count = self.inner.shape[1] + 1
        order = [p * count + piece for piece in range(count) for p in range(self.degree)]
        joined = g.gather(joined, order, axis=1) if self.degree > 1 else joined
        ones = g.op("Where", g.op("IsNaN", u), u, g.const(1.0))
        last = g.op("Max", g.sub(u, g.const(LARGEST)), zero)
        return g.op("Concat", ones, joined, last, last, axis=1)

    def support(self, sources: int) -> Support:
        """The range from the first knot to the last, and half of that further; every knot is a point."""
        low, high = self.inner[:, 0], self.inner[:, -1]
        reach = np.maximum((high - low) / 2, 1.0)
        return Support((low - reach / 4, high + reach / 4), (low - reach, high + reach), self.inner.T)

    def parameters(self) -> dict[str, str]:
        """The degree, and the number of grid intervals between the knots."""
        return {"degree": str(self.degree), "intervals": str(self.inner.shape[1] - 1)}

    def knots(self) -> Array:
        """[I, N], or [1, N] if all sources share them."""
        return self.inner[:1] if (self.inner == self.inner[0]).all() else self.inner
