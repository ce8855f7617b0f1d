"""Polynomial bases by a recurrence of any length, in which u may multiply every earlier polynomial.

    P_0 = first,   P_1 = A_11 u + B_11,   P_n = sum_{k=1..r} (A_nk u + B_nk) P_{n-k}

with u of the source as in `squash`. Three terms that start at the ends of [-1, 1] are
`polynomial.py`'s; these are computed as they stand. Most of the families here are from the
collection seydi1370/Basis_Functions (Seydi, arXiv 2406.02583), whose formulas are not always the
textbook's: weights are trained to them as they are. `weight` is a function that multiplies every
polynomial.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kanexport.bases import Array
from kanexport.bases.polynomial import Squashed, constant, times
from kanexport.errors import InvalidKan
from kanexport.functions.domain_maps import Raw, Sigmoid, Squash, Tanh
from kanexport.functions.elementwise import Unary
from kanexport.graph.builder import Graph, Value

Row = Sequence[tuple[float, float]]  # A_nk and B_nk for k = 1, 2, ... of one n


@dataclass(frozen=True, slots=True, eq=False)
class Recurrence(Squashed):
    """Polynomial basis P_0 .. P_D by a recurrence over r earlier polynomials.

    steps  [D, r, 2]: A_nk and B_nk for n = 1 .. D and k = 1 .. r; in the first row only k = 1 is used, without P_0
    """

    TABLE = (3, 2)

    kind: str = field()  # not the property of Basis
    steps: Array
    first: float = 1.0
    squash: Squash = field(default_factory=Sigmoid)
    weight: Unary | None = None
    settings: tuple[tuple[str, float], ...] = ()

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, D + 1, I], float64: the recurrence."""
        u = self.squash.evaluate(x)
        chain = [np.where(np.isnan(u), u, self.first) if self.squash.open else self.first + 0 * u]
        for n, row in enumerate(self.steps, start=1):
            parts = [(a * u + b if a else b) * (chain[n - k] if n > 1 else 1.0) for k, a, b in _used(n, row)]
            chain.append(sum(parts[1:], start=parts[0]) + 0 * chain[0] if parts else 0 * chain[0])
        values = np.stack(chain, axis=1)
        return values * self.weight.evaluate(u)[:, None] if self.weight else values

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, D + 1, I], or [B, I] if D is 0."""
        u = self.squash.emit(g, g.reshape(x, 0, 1, sources))
        ones = constant(g, u, 1.0, whole=self.squash.open)
        chain = [times(g, ones, self.first)]
        slopes = sorted(set(self.steps[..., 0].flat) - {0.0})
        scaled = {float(a): times(g, u, a) for a in slopes}
        for n, row in enumerate(self.steps, start=1):
            earlier = chain if n > 1 else [ones]
            parts = [_product(g, scaled.get(a), b, earlier[-k]) for k, a, b in _used(n, row)]
            chain.append(functools.reduce(g.add, parts) if parts else g.mul(ones, g.const(0.0)))
        values = g.op("Concat", *chain, axis=1) if len(chain) > 1 else chain[0]
        if self.weight:
            values = g.mul(values, self.weight.emit(g, u))
        return values if self.functions > 1 else g.reshape(values, 0, sources)


def _used(n: int, row: Array) -> list[tuple[int, float, float]]:
    """k, A and B of the nonzero terms: 0 * inf would be NaN."""
    terms = [(k, float(a), float(b)) for k, (a, b) in enumerate(row, start=1) if a or b]
    return terms if n > 1 else terms[:1]


def _product(g: Graph, scaled: Value | None, b: float, earlier: Value) -> Value:
    """(a u + b) P with a u given; None for zero."""
    if scaled is None:
        return times(g, earlier, b)
    return g.mul(scaled if b == 0 else g.add(scaled, g.const(b)), earlier)


def table(degree: int, row: Callable[[int], Row]) -> Array:
    """[D, r, 2] of the rows for n = 1 .. degree."""
    with np.errstate(all="ignore"):  # the constructor refuses what is not finite
        rows = [list(row(n)) for n in range(1, degree + 1)]
    reach = max((len(each) for each in rows), default=1)
    return np.array([each + [(0.0, 0.0)] * (reach - len(each)) for each in rows], np.float64).reshape(degree, reach, 2)


def monomials(degree: int) -> Recurrence:
    """x^n of the source itself. Source: Muyuzhierchengse/TaylorKAN, TaylorLayer."""
    return Recurrence("monomials", table(degree, lambda n: [(1, 0)]), squash=Raw())


def gottlieb(degree: int, alpha: float) -> Recurrence:
    """Source: Basis_Functions, GottliebKANLayer; alpha is trained."""

    def row(n: int) -> Row:
        return [(2 * alpha, 0)] if n == 1 else [(2 * (alpha + n - 1), 0), (0, -(alpha + 2 * n - 2))]

    return Recurrence("gottlieb", table(degree, row), settings=(("alpha", alpha),))


def boubaker(degree: int) -> Recurrence:
    """Source: Basis_Functions, BoubakerKANLayer."""
    steps = table(degree, lambda n: [(1, 0)] if n == 1 else [(2 * n - 1, 0), (0, 1 - n)])
    return Recurrence("boubaker", steps)


def charlier(degree: int, a: float) -> Recurrence:
    """Source: Basis_Functions, CharlierKANLayer; a is an argument of the constructor. Raises InvalidKan."""
    if a == 0:
        raise InvalidKan(
            "option a is 0, and charlier polynomials divide by a",
            code="option-out-of-range",
            hint="pass --option a=NUMBER",
        )

    def row(n: int) -> Row:
        return [(-1 / a, 1)] if n == 1 else [(-1 / a / n, (2 * n - 1) / n), (0, -(n - 1) / n)]

    return Recurrence("charlier", table(degree, row), settings=(("a", a),))


def vieta_pell(degree: int) -> Recurrence:
    """Source: Basis_Functions, VietaPellKANLayer: Lucas polynomials from 2."""
    steps = table(degree, lambda n: [(1, 0)] if n == 1 else [(1, 0), (0, 1)])
    return Recurrence("vieta-pell", steps, first=2.0, squash=Tanh())


def narayana(degree: int) -> Recurrence:
    """Source: Basis_Functions, NarayanaKANLayer."""
    return Recurrence("narayana", table(degree, lambda n: [(1, 0)] if n == 1 else [(1, 0), (1, 0)]))


def padovan(degree: int) -> Recurrence:
    """Source: Basis_Functions, PadoKANLayer."""
    return Recurrence("padovan", table(degree, lambda n: [(1, 0)] if n < 3 else [(0, 0), (1, 0), (0, 1)]))


# The powers with which these begin, from P_1 on; then x times the last plus as many before it.
POWERS = {
    "tribonacci": (0, 1),
    "tetranacci": (0, 1, 2),
    "pentanacci": (0, 1, 1, 2),
    "hexanacci": (0, 1, 2, 2, 3),
    "heptanacci": (0, 1, 1, 2, 2, 3),
    "octanacci": (0, 1, 2, 2, 3, 3, 4),
}


def nacci(kind: str, degree: int) -> Recurrence:
    """Sums of the last three to eight, from P_0 = 0. Source: Basis_Functions, TriboKANLayer to OctanacciKANLayer."""
    powers = POWERS[kind]

    def row(n: int) -> Row:
        if n > len(powers):
            return [(1, 0), *[(0, 1)] * len(powers)]
        return [(1, 0)] if n > 1 and powers[n - 1] > powers[n - 2] else [(0, 1)]

    return Recurrence(kind, table(degree, row), first=0.0)


def al_salam_carlitz(degree: int, a: float, q: float) -> Recurrence:
    """Source: Basis_Functions, AlSalamCarlitzKANLayer; a and q are trained."""

    def row(n: int) -> Row:
        return [(1, -a)] if n == 1 else [(1, -(a + q**n)), (0, -a * q ** (n - 1))]

    return Recurrence("al-salam-carlitz", table(degree, row), squash=Tanh(), settings=(("a", a), ("q", q)))


def bannai_ito(degree: int, a: float, b: float, c: float) -> Recurrence:
    """Source: Basis_Functions, BannaiItoKANLayer; a, b, c are trained. Raises InvalidKan."""

    def row(n: int) -> Row:
        if n == 1:
            return [(_ratio(1, b + c + 1), _ratio(-a, b + c + 1))]
        s = n + b + c
        shift = _ratio((s + n - 1) * (s + n), 2 * s)
        return [(_ratio(1, s), _ratio(-shift, s)), (0, _ratio(_ratio((n + b - 1) * (n + c - 1), 2 * s), s))]

    return Recurrence("bannai-ito", table(degree, row), squash=Tanh(), settings=(("a", a), ("b", b), ("c", c)))


def boas_buck(degree: int, a: Array, b: Array) -> Recurrence:
    """Source: Basis_Functions, BoasBuckKANLayer; a and b [D + 1] are trained. Raises InvalidKan."""

    def row(n: int) -> Row:
        difference = float(a[n] - b[n])
        linear = (_ratio(float(a[n - 1]), difference), _ratio(float(-b[n - 1]), difference))
        return [linear] if n == 1 else [linear, (0, _ratio(float(b[n - 2] - a[n - 2]), difference))]

    return Recurrence("boas-buck", table(degree, row))


def meixner_pollaczek(degree: int, lam: float, phi: float) -> Recurrence:
    """Source: Basis_Functions, MeixnerPollaczekKANLayer, of the source itself; lambda and phi are
    trained. Raises InvalidKan."""

    def row(n: int) -> Row:
        if n == 1:
            return [(2 * lam + 1, (2 * phi - 1) * lam)]
        s = n + lam
        return [(_ratio(2 * (s - 1) * float(np.sin(phi)), s), _ratio(n + 2 * lam - 1, s)), (0, _ratio(-n, s))]

    settings = (("lambda", lam), ("phi", phi))
    return Recurrence("meixner-pollaczek", table(degree, row), squash=Raw(), settings=settings)


def askey_wilson(degree: int, a: float, b: float, c: float, d: float, q: float) -> Recurrence:
    """Source: Basis_Functions, AskeyWilsonKANLayer, of the source itself; all five are trained.
    Raises InvalidKan."""
    ab, cd = a * b, c * d

    def row(n: int) -> Row:
        if n == 1:
            below = 1 + ab * cd * q**2
            return [(_ratio(2 * (1 + ab * q), below), _ratio(-(a + b) * (1 + cd * q), below))]
        even, odd, whole = 1 - ab * cd * q ** (2 * n - 2), 1 - ab * cd * q ** (2 * n - 1), 1 - ab * cd * q ** (2 * n)
        common = (1 - ab * q ** (n - 1)) * (1 - cd * q ** (n - 1)) * even
        shift, third = _ratio(common, odd * whole), _ratio((1 - q**n) * common, even * odd)
        return [(_ratio(2, 1 - q**n), _ratio(-shift, 1 - q**n)), (0, _ratio(-third, 1 - q**n))]

    settings = (("a", a), ("b", b), ("c", c), ("d", d), ("q", q))
    return Recurrence("askey-wilson", table(degree, row), squash=Raw(), settings=settings)


def hermite_functions(degree: int, epsilon: float) -> Recurrence:
    """pi^(-1/4) exp(-u^2 / 2) times the normalized Hermite polynomials, u = tanh(x) (sqrt(2 D + 1) + epsilon).

    Source: HermiteFuncKANLayer, in public copies of X-KANeRF's hermite_kan.py."""
    stretch = math.sqrt(2 * degree + 1) + epsilon

    def row(n: int) -> Row:
        linear = (stretch * math.sqrt(2 / n), 0)
        return [linear] if n == 1 else [linear, (0, -math.sqrt((n - 1) / n))]

    return Recurrence(
        "hermite-functions", table(degree, row), squash=Tanh(), weight=bell(stretch), settings=(("epsilon", epsilon),)
    )


BELL = "hermite-bell"  # kind of recipe


def bell(stretch: float) -> Unary:
    """The weight of the Hermite functions at u * stretch."""
    return Unary(
        "pi^(-1/4) exp(-u^2 / 2)",
        lambda u: np.asarray(math.pi**-0.25 * np.exp(-((stretch * u) ** 2) / 2)),
        lambda g, u: g.mul(g.op("Exp", g.mul(g.mul(u, u), g.const(-(stretch**2) / 2))), g.const(math.pi**-0.25)),
        recipe=(BELL, stretch),
    )


def _ratio(above: float, below: float) -> float:
    """above / below; infinite if below is 0, which the constructor rejects."""
    return above / below if below else math.inf
