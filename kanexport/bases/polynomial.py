"""Polynomials P_0 .. P_D of a source squashed to [-1, 1], by a three-term recurrence.

    P_0 = first,   P_1 = A_0 u + B_0,   P_{n+1} = (A_n u + B_n) P_n - C_n P_{n-1}

with u = tanh(x), or x scaled from a range. All KANs with polynomials on their edges
are this formula with other constants; the families at the end of the file name the
source of theirs. `outer` is a function that a library applies to every polynomial.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan
from kanexport.functions.domain_maps import Squash, Tanh
from kanexport.functions.elementwise import Unary
from kanexport.graph.builder import Graph, Value

DEGREE_LIMIT = 1000  # every degree is a few operators of the graph


class Squashed(Basis):
    """Polynomials P_0 .. P_D of a squashed source, by a recurrence. TABLE: the number of axes of `steps` [D, ...], and
    the length of the last one."""

    __slots__ = ()
    TABLE = (2, 3)
    steps: Array
    squash: Squash
    settings: tuple[tuple[str, float], ...]  # parameters for the manifest besides the degree

    def __post_init__(self) -> None:
        if (self.steps.ndim, self.steps.shape[-1]) != self.TABLE or not np.isfinite(self.steps).all():
            raise InvalidKan(
                f"the recurrence of {self.kind} is not a finite table", code="weights-not-finite", hint=REPAIR
            )
        if len(self.steps) > DEGREE_LIMIT:
            raise InvalidKan(
                f"{self.kind} has degree {len(self.steps)}, expected at most {DEGREE_LIMIT}",
                code="network-too-large",
                hint=CHECK_FAMILY,
            )

    @property
    def functions(self) -> int:
        """K = D + 1."""
        return len(self.steps) + 1

    def support(self, sources: int) -> Support:
        """The support of the domain map; at least two points for each zero of the highest polynomial."""
        core, outer = self.squash.support(sources)
        return Support(core, outer, np.linspace(*core, 2 * self.functions + 1))

    def parameters(self) -> dict[str, str]:
        """Degree, the argument of the polynomials, the function of their values and the settings."""
        functions = {name: getattr(self, name, None) for name in ("outer", "weight")}
        names = {name: function.name for name, function in functions.items() if function}
        shown = {name: repr(value) for name, value in self.settings}
        return {"degree": str(len(self.steps)), "of": self.squash.name, **names, **shown}


@dataclass(frozen=True, slots=True, eq=False)
class Polynomial(Squashed):
    """Polynomial basis P_0 .. P_D by a three-term recurrence.

    steps      [D, 3]: A_n, B_n and C_n; C_0 is not used
    from_ends  emit by differences from the nearer end of [-1, 1]; needs polynomials that are not zero there
    """

    kind: str = field()  # not the property of Basis
    steps: Array
    first: float = 1.0
    squash: Squash = field(default_factory=Tanh)
    outer: Unary | None = None
    from_ends: bool = False
    settings: tuple[tuple[str, float], ...] = ()

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, D + 1, I], float64: the recurrence."""
        values = np.stack(self._chain(self.squash.evaluate(x)), axis=1)
        return self.outer.evaluate(values) if self.outer else values

    def _chain(self, u: Array) -> list[Array]:
        """P_0 .. P_D of u. P_0 of NaN is NaN, too."""
        zero = np.where(np.isnan(u), u, 0.0) if self.squash.open else 0 * u
        chain = [self.first + zero]
        for n, (a, b, c) in enumerate(self.steps):
            linear = a * u + b if a else b + zero
            chain.append(linear * chain[n] - c * chain[n - 1] if n else linear)
        return chain

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, D + 1, I], or [B, I] if D is 0."""
        x = g.reshape(x, 0, 1, sources)
        values = self._emit_from_ends(g, x) if self.from_ends else self._emit_chain(g, self.squash.emit(g, x))
        values = self.outer.emit(g, values) if self.outer else values
        return values if self.functions > 1 else g.reshape(values, 0, sources)

    def _emit_chain(self, g: Graph, u: Value) -> Value:
        zero = constant(g, u, 0.0, whole=self.squash.open)
        chain = [_plus(g, zero, self.first)]
        scaled = {a: times(g, u, a) if a else zero for a in self.steps[:, 0].tolist()}
        for n, (a, b, c) in enumerate(self.steps.tolist()):
            linear = _plus(g, scaled[a], b)
            chain.append(g.sub(g.mul(linear, chain[n]), times(g, chain[n - 1], c)) if n else linear)
        return self._joined(g, chain)

    def _emit_from_ends(self, g: Graph, x: Value) -> Value:
        """Emission from w = 1 - |u|, which is small and exact at the ends, where the polynomials are steepest. u
        would have a rounding error of 6e-8 there, and P_D' is of the order D^2. This is the form of Reinsch."""
        sign, w = self.squash.emit_rest(g, x)
        above = self._emit_differences(g, w, 1.0)
        if not self.steps[:, 1].any():  # P_n(-u) = (-1)^n P_n(u)
            return self._joined(g, [g.mul(p, sign) if n % 2 else p for n, p in enumerate(above)])
        below = self._joined(g, self._emit_differences(g, w, -1.0))
        return g.op("Where", g.op("Less", sign, g.const(0.0)), below, self._joined(g, above))

    def _emit_differences(self, g: Graph, w: Value, end: float) -> list[Value]:
        """P_0 .. P_D at end * (1 - w). With r_n = P_{n+1}(end) / P_n(end):

        E_{n+1} = C_n / r_{n-1} E_n - end A_n w P_n,   P_{n+1} = r_n P_n + E_{n+1}
        """
        ratios = self.end_ratios(end)
        chain = [_plus(g, g.mul(w, g.const(0.0)), self.first)]
        step = chain[0]  # replaced before it is used
        scaled = {a: times(g, w, end * a) for a in self.steps[:, 0].tolist()}
        for n, (a, _, c) in enumerate(self.steps.tolist()):
            fall = g.mul(scaled[a], chain[n])
            step = g.sub(times(g, step, c / ratios[n - 1]), fall) if n else g.op("Neg", fall)
            chain.append(g.add(times(g, chain[n], ratios[n]), step))
        return chain

    def end_ratios(self, end: float) -> list[float]:
        """r_0 .. r_{D-1}. Infinite or NaN after a polynomial that is zero at that end."""
        with np.errstate(all="ignore"):
            values = np.array(self._chain(np.array(end)))
            ratios = values[1:] / values[:-1]
        return [1.0 if abs(ratio - 1) < 1e-13 else float(ratio) for ratio in ratios]

    @staticmethod
    def _joined(g: Graph, chain: list[Value]) -> Value:
        return g.op("Concat", *chain, axis=1) if len(chain) > 1 else chain[0]


def constant(g: Graph, u: Value, value: float, *, whole: bool) -> Value:
    """`value` in the shape of u, and NaN if u is NaN. `whole`: not NaN if u is infinite."""
    if whole:
        return g.op("Where", g.op("IsNaN", u), u, g.const(value))
    return _plus(g, g.mul(u, g.const(0.0)), value)


def times(g: Graph, x: Value, factor: float) -> Value:
    """x * factor."""
    return x if factor == 1 else g.mul(x, g.const(factor))


def _plus(g: Graph, x: Value, shift: float) -> Value:
    return x if shift == 0 else g.add(x, g.const(shift))


def _steps(degree: int, a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike, start: tuple[float, float]) -> Array:
    """The table of A_n, B_n, C_n for n = 0 .. degree - 1; `start` is A_0, B_0."""
    table = np.stack(np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (a, b, c)), np.zeros(degree))[:3], axis=1)
    table[:1] = (*start, 0.0)
    return table


def chebyshev(degree: int, squash: Squash | None = None) -> Polynomial:
    """T_n. Source: SynodicMonth/ChebyKAN, ChebyKANLayer, which computes the same as cos(n acos(u))."""
    steps = _steps(degree, 2, 0, 1, (1, 0))
    return Polynomial("chebyshev", steps, squash=squash or Tanh(), from_ends=True)


def legendre(degree: int, squash: Squash | None = None) -> Polynomial:
    """P_n. Source: OrthogPolyKANs, LegendreKANLayer; torchkan, KAL_Net.compute_legendre_polynomials."""
    n = np.arange(degree)
    steps = _steps(degree, (2 * n + 1) / (n + 1), 0, n / (n + 1), (1, 0))
    return Polynomial("legendre", steps, squash=squash or Tanh(), from_ends=True)


def chebyshev2(degree: int) -> Polynomial:
    """U_n. Source: OrthogPolyKANs, Cheby2KANLayer."""
    return Polynomial("chebyshev2", _steps(degree, 2, 0, 1, (2, 0)), from_ends=True)


def gegenbauer(degree: int, alpha: float) -> Polynomial:
    """C_n^(alpha). Source: OrthogPolyKANs, GegenbauerKANLayer."""
    n = np.arange(degree)
    with np.errstate(all="ignore"):  # the constructor refuses what is not finite
        steps = _steps(degree, 2 * (n + alpha) / (n + 1), 0, (n + 2 * alpha - 1) / (n + 1), (2 * alpha, 0))
    return _from_ends(Polynomial("gegenbauer", steps, settings=(("alpha", alpha),)))


def jacobi(degree: int, a: float, b: float) -> Polynomial:
    """P_n^(a, b). Source: SpaceLearner/JacobiKAN, JacobiKANLayer."""
    i = np.arange(degree) + 1.0
    with np.errstate(all="ignore"):  # the constructor refuses what is not finite
        low = 2 * i * (i + a + b) * (2 * i + a + b - 2)
        first = (2 * i + a + b) * (2 * i + a + b - 1) / (2 * i * (i + a + b))
        second = (2 * i + a + b - 1) * (a * a - b * b) / low
        third = 2 * (i + a - 1) * (i + b - 1) * (2 * i + a + b) / low
    steps = _steps(degree, first, second, third, ((a + b + 2) / 2, (a - b) / 2))
    return _from_ends(Polynomial("jacobi", steps, settings=(("a", a), ("b", b))))


def jacobi_orthogpoly(degree: int, a: float, b: float) -> Polynomial:
    """Basis of JacobiKANLayer of OrthogPolyKANs. Two of its three terms differ from the Jacobi polynomials, and
    weights are trained with these terms."""
    n = np.arange(degree) + 1.0
    s = 2 * n + a + b
    with np.errstate(all="ignore"):
        low = 2 * n * (n + a + b) * (s - 2)
        first = (s - 1) * s * (s - 2) / low
        second = -(s - 1) * (a * a - b * b) / low
        third = (n + a + b - 1) * (n + a - 1) * (n + b - 1) * s / low
    steps = _steps(degree, first, second, third, ((a + b + 2) / 2, (a - b) / 2))
    return Polynomial("jacobi-orthogpoly", steps, settings=(("a", a), ("b", b)))


def jacobi_ikan(degree: int, a: float, b: float, *, ahead: int) -> Polynomial:
    """Basis of JacobiKANLinear of lgy112112/ikan: P_{n+1} from constants of k = n + `ahead` with inverted quotients;
    0 in the library, 1 in its first version."""
    k = np.arange(degree) + float(ahead)
    s = 2 * k + a + b
    with np.errstate(all="ignore"):  # the constructor refuses what is not finite
        below = (s - 2) * (s - 1) * s
        first = 2 * k * (k + a + b) * (s - 2) / below
        second = (s - 1) * (a * a - b * b) / below
        third = 2 * (k + a - 1) * (k + b - 1) * s / below
    steps = _steps(degree, first, second, third, (a + 1, (a - b) / 2))
    return Polynomial("jacobi-ikan", steps, settings=(("a", a), ("b", b)))


def hermite(degree: int) -> Polynomial:
    """H_n, of physics. Source: OrthogPolyKANs, HermiteKANLayer."""
    return Polynomial("hermite", _steps(degree, 2, 0, 2.0 * np.arange(degree), (2, 0)))


def hermite_prob(degree: int) -> Polynomial:
    """He_n, of probability. Source: copies of Hermite layers."""
    return Polynomial("hermite-prob", _steps(degree, 1, 0, 1.0 * np.arange(degree), (1, 0)))


def laguerre(degree: int, alpha: float) -> Polynomial:
    """L_n^(alpha). Source: OrthogPolyKANs, LaguerreKANLayer."""
    n = np.arange(degree)
    steps = _steps(degree, -1 / (n + 1), (2 * n + 1 + alpha) / (n + 1), (n + alpha) / (n + 1), (-1, 1 + alpha))
    return Polynomial("laguerre", steps, settings=(("alpha", alpha),))


def bessel(degree: int) -> Polynomial:
    """y_n. Source: OrthogPolyKANs, BesselKANLayer."""
    return Polynomial("bessel", _steps(degree, 2.0 * np.arange(degree) + 1, 0, -1, (1, 1)))


def fibonacci(degree: int) -> Polynomial:
    """F_n, from F_0 = 0. Source: OrthogPolyKANs, FibonacciKANLayer."""
    return Polynomial("fibonacci", _steps(degree, 1, 0, -1, (0, 1)), first=0.0)


def lucas(degree: int) -> Polynomial:
    """L_n, from L_0 = 2. Source: OrthogPolyKANs, LucasKANLayer."""
    return Polynomial("lucas", _steps(degree, 1, 0, -1, (1, 0)), first=2.0)


def powers(degree: int) -> Polynomial:
    """u^n, for polynomials without a recurrence of three terms."""
    return Polynomial("powers", _steps(degree, 1, 0, 0, (1, 0)))


def gram(beta: Array, outer: Unary) -> Polynomial:
    """Polynomials with trained constants `beta` [D + 1], each through a function.

    Source: torch-conv-kan, GRAMLayer: P_{n+1} = u P_n - b(n, n + 1) P_{n-1} with
    b(n, m) = (m + n)(m - n) n^2 (4 n^2 - 1) / m^2 * beta_n.
    """
    n = np.arange(len(beta) - 1, dtype=np.float64)
    with np.errstate(all="ignore"):  # the constructor refuses what is not finite
        third = (2 * n + 1) * n**2 * (4 * n**2 - 1) / (n + 1) ** 2 * beta[:-1]
    return Polynomial("gram", _steps(len(n), 1, 0, third, (1, 0)), outer=outer)


def squashed(family: Polynomial, squash: Squash) -> Polynomial:
    """The same polynomials of another argument. Emitted from the ends of [-1, 1] only if u is rounded there."""
    return dataclasses.replace(family, squash=squash, from_ends=family.from_ends and not squash.open)


def _from_ends(family: Polynomial) -> Polynomial:
    """The same polynomials, emitted from the ends if none is zero there."""
    ratios = np.array([family.end_ratios(end) for end in (1.0, -1.0)])
    fits = bool(np.isfinite(ratios).all() and ratios.all())
    return dataclasses.replace(family, from_ends=fits)
