"""Rational basis, one function shared by all edges of a source: P(x) / Q(x); K = 1.

Source: Adamdad/rational_kat_cu, src/rational_kernel_group.cu and rational_triton.py, for
coefficients a_0 .. a_n and b_1 .. b_m:

    r(x) = (a_0 + a_1 x + .. + a_n x^n) / (1 + |b_1| |x| + .. + |b_m| |x|^m)

The pure-torch fallback of the same library has x^k in the denominator instead of |x|^k
(`signed`), so that it differs for negative x, and has poles. The paper (arXiv 2409.10594) and
other safe Pade units have 1 + |b_1 x + .. + b_m x^m| there (`outer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.bases.polynomial import DEGREE_LIMIT
from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan
from kanexport.graph.builder import Graph, Value

ROOM = {"float32": 1e36, "float64": 1e300}  # for the values of a polynomial
BENT = {"float32": 1e-7, "float64": 1e-15}  # how far from a line a function may be beyond the limit, relative
KINDS = ("abs", "signed", "outer")  # where the denominator takes absolute values


@dataclass(frozen=True, slots=True, eq=False)
class Rational(Basis):
    """Rational basis of one function per source.

    numerator    [I, n + 1], a_0 first
    denominator  [I, m], b_1 first
    kind_below   the form of the denominator, one of KINDS
    """

    numerator: Array
    denominator: Array
    kind_below: str = "abs"

    kind = "rational"
    functions = 1

    def __post_init__(self) -> None:
        shapes = self.numerator.shape, self.denominator.shape
        if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][0] != shapes[1][0]:
            raise InvalidKan(
                f"coefficients of shapes {shapes[0]} and {shapes[1]} do not make rational functions of sources",
                code="tensors-inconsistent",
                hint=CHECK_FAMILY,
            )
        degree = max(shapes[0][1] - 1, shapes[1][1])
        if degree > DEGREE_LIMIT:
            raise InvalidKan(
                f"a rational function has degree {degree}, expected at most {DEGREE_LIMIT}",
                code="network-too-large",
                hint=CHECK_FAMILY,
            )
        if not (np.isfinite(self.numerator).all() and np.isfinite(self.denominator).all()):
            raise InvalidKan(
                "a coefficient of a rational function is not finite", code="weights-not-finite", hint=REPAIR
            )
        if self.kind_below not in KINDS:
            raise InvalidKan(
                f"the denominator is {self.kind_below!r}, expected one of {', '.join(KINDS)}",
                code="option-value-unknown",
                hint=f"pass one of {', '.join(KINDS)}",
            )

    @property
    def sources(self) -> int | None:
        """I: every source has a row of coefficients."""
        return len(self.numerator)

    @property
    def degree(self) -> int:
        """The highest power with a nonzero coefficient, above or below; 1 or more."""
        return max(1, *(degree for _, degree in self._parts()))

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, 1, I], float64: the scheme of Horner."""
        inner = np.abs(x) if self.kind_below == "abs" else x
        above, below = np.zeros_like(x), np.zeros_like(x)
        for a in self.numerator.T[::-1]:
            above = above * x + a
        for b in self._below.T[::-1]:
            below = (below + b) * inner
        if self.kind_below == "outer":
            below = np.abs(below)
        return np.asarray((above / (below + 1))[:, None, :])

    @property
    def _below(self) -> Array:
        """b_1 .. b_m as factors of the powers."""
        return self.denominator if self.kind_below == "outer" else np.abs(self.denominator)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """P(y) / Q(y) of y, which is x up to a limit, and beyond it the line r(y) + a_n / b_m (x - y). If there is no
        such limit, both polynomials in z = x s with s = 1 / max(1, |x|), times s^degree. No power overflows in either
        form, in contrast to the fifth power of 1e8 in float32."""
        limit = self.limit(g.dtype)
        return self._emit_powers(g, x) if limit is None else self._emit_within(g, x, limit)

    def limit(self, dtype: np.dtype[Any]) -> float | None:
        """The limit of y, from which on each function is a line; None if that is not so."""
        parts = (above, n), (below, m) = self._parts()
        even = m % 2 == 0 or self.kind_below == "signed"
        if not (n == m + 1 and even and above[:, n].all() and below[:, m].all()):  # far away, it is nearly a line
            return None
        sizes = [(np.abs(powers).sum(axis=1).max() + 1, degree) for powers, degree in parts if degree]
        limit = float(2.0 ** np.floor(np.log2(min((ROOM[dtype.name] / size) ** (1 / n) for size, n in sizes))))
        # [I]: the sizes of all powers below the highest one, relative to it, at the limit.
        rest = sum(
            np.abs(powers[:, :degree] / powers[:, degree, None]) @ limit ** np.arange(-degree, 0.0)
            for powers, degree in parts
        )
        return limit if float(np.max(rest)) ** 2 <= BENT[dtype.name] else None

    def _parts(self) -> tuple[tuple[Array, int], tuple[Array, int]]:
        """The coefficients above, and below (1, b_1 .. b_m), and the highest power of each."""
        above = self.numerator
        below = np.concatenate([np.ones((len(self.denominator), 1)), self._below], axis=1)
        return (above, _degree(above)), (below, _degree(below))

    def _emit_within(self, g: Graph, x: Value, limit: float) -> Value:
        y = g.clip(g.add(x, g.sub(x, x)), -limit, limit)  # NaN for infinities
        value = _horner(g, self.numerator, y)
        (above, n), (below, m) = self._parts()
        if m:
            lower = _horner(
                g, below * (np.arange(below.shape[1]) > 0), g.op("Abs", y) if self.kind_below == "abs" else y
            )
            lower = g.op("Abs", lower) if self.kind_below == "outer" else lower
            value = g.op("Div", value, g.add(lower, g.const(1.0)))
        slope = above[:, n] / (np.abs(below[:, m]) if self.kind_below == "outer" else below[:, m])
        return g.add(value, g.mul(g.sub(x, y), g.const(slope[None])))

    def _emit_powers(self, g: Graph, x: Value) -> Value:
        size = g.op("Abs", x)
        small = g.op("Reciprocal", g.op("Max", size, g.const(1.0)))
        z = g.mul(x, small)
        powers = [small]
        for _ in range(self.degree - 1):
            powers.append(g.mul(powers[-1], small))
        above = _homogeneous(g, self.numerator, z, powers)
        outer = self.kind_below == "outer"
        first = np.zeros if outer else np.ones
        coefficients = np.concatenate([first((len(self.denominator), 1)), self._below], axis=1)
        below = _homogeneous(g, coefficients, g.op("Abs", z) if self.kind_below == "abs" else z, powers)
        return g.op("Div", above, g.add(powers[-1], g.op("Abs", below)) if outer else below)

    def support(self, sources: int) -> Support:
        """The library fits its initial functions on [-3, 3]; |x| has a kink at zero."""
        ones = np.ones(sources)
        return Support((-3 * ones, 3 * ones), (-10 * ones, 10 * ones), np.zeros((1, sources)))

    def parameters(self) -> dict[str, str]:
        """The degrees above and below, the kind of denominator, and how many functions differ."""
        pairs = np.concatenate([self.numerator, self.denominator], axis=1)
        return {
            "degrees": f"{self.numerator.shape[1] - 1}/{self.denominator.shape[1]}",
            "denominator": self.kind_below,
            "groups": str(len(np.unique(pairs, axis=0))),
        }


def _degree(coefficients: Array) -> int:
    """The highest power that a function [I, n + 1] has; 0 if there is none."""
    return int(np.flatnonzero(coefficients.any(axis=0)).max(initial=0))


def _horner(g: Graph, coefficients: Array, y: Value) -> Value:
    """sum_k c_k y^k, for coefficients [I, n + 1] that are not all zero."""
    total: Value | None = None
    for column in coefficients.T[::-1]:
        total = None if total is None else g.mul(total, y)
        if column.any():
            row = g.const(column[None])
            total = row if total is None else g.add(total, row)
    assert total is not None
    return total


def _homogeneous(g: Graph, coefficients: Array, z: Value, powers: list[Value]) -> Value:
    """sum_k c_k z^k s^(degree - k) by the scheme of Horner; `powers` are s, s^2, .. s^degree."""
    total: Value | None = None
    for missing in range(len(powers) + 1):
        total = None if total is None else g.mul(total, z)
        column = coefficients[:, len(powers) - missing : len(powers) - missing + 1]
        if not column.any():
            continue
        row = g.const(column.T)
        part = row if missing == 0 else g.mul(powers[missing - 1], row)
        total = part if total is None else g.add(total, part)
    return g.mul(z, g.const(0.0)) if total is None else total
