"""Fourier basis: cos(x) .. cos(K x), sin(x) .. sin(K x), without a constant.

Source: GistNoesis/FourierKAN, NaiveFourierKANLayer.forward; GraphKAN has a copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, InvalidKan
from kanexport.graph.builder import Graph, Value

# 2 pi in three parts; the first two have 8 and 11 bits, so that their products with a
# number of turns up to 2^13 are exact in float32 (W. J. Cody and W. Waite, 1980).
TURN = 2 * math.pi
FIRST = 201 / 32
SECOND = round((TURN - FIRST) * 2**20) / 2**20
THIRD = TURN - FIRST - SECOND
# An angle is a number of cells and the rest: cells times a harmonic is an exact integer.
CELLS = 4096
CELL = TURN / CELLS
CELL_FIRST = round(CELL * 2**21) / 2**21
SINGLE_PRODUCT_HARMONICS = 16  # up to so many, one product keeps enough digits: an angle below 50 is good to 4e-6


@dataclass(frozen=True, slots=True)
class Fourier(Basis):
    """Fourier basis of K cosines and then K sines; `harmonics` is K."""

    harmonics: int

    kind = "fourier"

    def __post_init__(self) -> None:
        if self.harmonics < 1:
            raise InvalidKan(
                "a Fourier series has no harmonic, expected at least one",
                code="tensors-inconsistent",
                hint=CHECK_FAMILY,
            )

    @property
    def functions(self) -> int:
        """2 K: a cosine and a sine for each harmonic."""
        return 2 * self.harmonics

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, 2 K, I], float64, the cosines first."""
        angles = x[:, None, :] * np.arange(1, self.harmonics + 1, dtype=x.dtype)[:, None]
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, 2 K, I]. In float32 the angle is reduced first, to keep its digits."""
        x = g.reshape(x, 0, 1, sources)
        order = g.const(np.arange(1, self.harmonics + 1)[:, None])
        if g.exact_waves:
            angles = g.mul(x, order)
        elif self.harmonics <= SINGLE_PRODUCT_HARMONICS:
            near, rest = _reduced(g, x)
            angles = g.mul(g.sub(near, rest), order)
        else:
            # order * x modulo 2 pi to 2e-7, for any order below 4096.
            near, rest = _reduced(g, x)
            cells = g.op("Round", g.mul(near, g.const(1 / CELL)))  # up to 2049: exact products below
            fine = g.sub(g.sub(near, g.mul(cells, g.const(CELL_FIRST))), g.mul(cells, g.const(CELL - CELL_FIRST)))
            whole = g.mul(cells, order)
            whole = g.sub(whole, g.mul(g.op("Round", g.mul(whole, g.const(1 / CELLS))), g.const(CELLS)))
            angles = g.add(g.mul(whole, g.const(CELL)), g.mul(g.sub(fine, rest), order))
        return g.op("Concat", g.op("Cos", angles), g.op("Sin", angles), axis=1)

    def support(self, sources: int) -> Support:
        """One period around zero, and two."""
        half = np.full(sources, math.pi)
        return Support((-half, half), (-2 * half, 2 * half), np.linspace(-half, half, 17))

    def parameters(self) -> dict[str, str]:
        """The number of harmonics."""
        return {"harmonics": str(self.harmonics)}


def _reduced(g: Graph, x: Value) -> tuple[Value, Value]:
    """x modulo 2 pi as near - rest. Without it, the rounding error of K x is proportional to K |x|. `near` is exact and
    `rest` small, for |x| up to 5e4; below pi they are x and zero."""
    turns = g.op("Round", g.mul(x, g.const(1 / TURN)))
    near = g.sub(g.sub(x, g.mul(turns, g.const(FIRST))), g.mul(turns, g.const(SECOND)))
    return near, g.mul(turns, g.const(THIRD))
