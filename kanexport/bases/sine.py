"""Sine basis with common frequencies, and separate phases for each source: sin(w_c x + p_ci).

Source: ereinha/SineKAN, SineKANLayer.forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan
from kanexport.graph.builder import Graph, Value


@dataclass(frozen=True, slots=True, eq=False)
class Sine(Basis):
    """Sine basis with frequencies [K] and phases [K, I]."""

    frequencies: Array
    phases: Array

    kind = "sine"

    def __post_init__(self) -> None:
        if self.phases.ndim != 2 or self.frequencies.shape != self.phases.shape[:1] or not self.phases.size:
            raise InvalidKan(
                f"frequencies {self.frequencies.shape} and phases {self.phases.shape} do not fit",
                code="tensors-inconsistent",
                hint=CHECK_FAMILY,
            )
        if not (np.isfinite(self.frequencies).all() and np.isfinite(self.phases).all()):
            raise InvalidKan("a frequency or a phase is not finite", code="weights-not-finite", hint=REPAIR)

    @property
    def functions(self) -> int:
        """K, one for each frequency."""
        return len(self.frequencies)

    @property
    def sources(self) -> int:
        """I: every source has separate phases."""
        return int(self.phases.shape[1])

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64."""
        return np.sin(x[:, None, :] * self.frequencies[:, None] + self.phases)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], or [B, I] if K is 1. In float32 whole turns are subtracted from the angle first, to keep
        its digits."""
        x = g.reshape(x, 0, 1, sources)
        frequencies = self.frequencies[:, None]
        small = np.remainder(self.phases + math.pi, 2 * math.pi) - math.pi
        product = g.mul(x, g.const(frequencies)) if g.exact_waves else _exact_product(g, x, frequencies)
        angles = g.add(product, g.const(small if g.dtype == np.float32 else self.phases))
        sines = g.op("Sin", angles)
        return sines if self.functions > 1 else g.reshape(sines, 0, sources)

    def support(self, sources: int) -> Support:
        """One period of sin(x) around zero, and two."""
        half = np.full(sources, math.pi)
        return Support((-half, half), (-2 * half, 2 * half), np.linspace(-half, half, 17))

    def parameters(self) -> dict[str, str]:
        """The first eight frequencies."""
        return {"frequencies": ", ".join(f"{w:.6g}" for w in self.frequencies[:8].tolist())}


def _exact_product(g: Graph, x: Value, frequencies: Array) -> Value:
    """frequencies * x modulo 2 pi. The rounding error of a single product would be proportional to it.

    Both are split into halves of 12 bits (T. J. Dekker, 1971), so that the product of the
    upper halves, in turns, is exact, and its whole turns can be taken off.
    """
    turns = frequencies / (2 * math.pi)
    upper = np.ldexp(np.round(np.ldexp(np.frexp(turns)[0], 12)), np.frexp(turns)[1] - 12)
    swollen = g.mul(x, g.const(2.0**12 + 1))
    x_upper = g.sub(swollen, g.sub(swollen, x))
    product = g.mul(x_upper, g.const(upper))
    partial = g.mul(g.sub(product, g.op("Round", product)), g.const(2 * math.pi))
    # One product of [K, 2] and [B, 2, I] is faster than two that broadcast and their sum.
    halves = g.op("Concat", x_upper, g.sub(x, x_upper), axis=1)
    rest = g.op("MatMul", g.const(np.concatenate([(turns - upper) * (2 * math.pi), frequencies], axis=1)), halves)
    return g.add(partial, rest)
