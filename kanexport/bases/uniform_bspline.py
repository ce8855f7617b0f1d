"""B-splines on nearly equidistant knots, in a closed form of few operators.

With p for the degree and d = |x - centre| / step, a cardinal B-spline is, by its truncated powers taken from
both sides (Schoenberg 1946; degree 3: ((2 - d)+^3 - 4 (1 - d)+^3) / 6),

    B(x) = sum_j (-1)^j C(p + 1, j) ((p + 1) / 2 - j - d)+^p / p!        for j with (p + 1) / 2 - j > 0

It stands in for a `BSpline` in float32 graphs alone, and only where the proof holds: knots that are stored in
float32 miss their places by up to 1e-5 of a cell on grids of hundreds of cells. Where all sources share their knots,
the centres are the stored ones, so x - centre has no error, and `fit` makes new coefficients of the old, those of
the splines nearest to the stored ones: that halves what is left. Elsewhere each source has its own place and step.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kanexport.bases import Array, Basis, Support
from kanexport.bases.bspline import BSpline
from kanexport.errors import REPORT, InvalidKan
from kanexport.graph.builder import Graph, Value

DEGREES = range(1, 7)  # of 7 on, a term of the closed form exceeds 1, where HardSigmoid ends
NEAR = 2e-5  # of a cell, that a knot may be off its place to be worth a trial; outputs are proved to 1e-5
POINTS = 8  # of a cell, on which a fit is made


def departure(spline: BSpline) -> float:
    """The largest distance of a knot from equal spacing, in grid intervals; infinite if the knots do not increase."""
    start, step = _line(spline)
    if not (step > 0).all():
        return math.inf
    ideal = start[:, None] + step[:, None] * np.arange(spline.extended.shape[1])
    return float((np.abs(spline.extended - ideal) / step[:, None]).max())


def _line(spline: BSpline) -> tuple[Array, Array]:
    """Start and step [I] of the equal distances nearest to the knots of a source, by least squares."""
    t = spline.extended
    n = np.arange(t.shape[1]) - (t.shape[1] - 1) / 2
    step = (t @ n) / (n @ n)
    return t.mean(axis=1) + step * n[0], step


def placed(g: Graph, spline: BSpline, x: Value) -> tuple[Value, Array, float]:
    """Values [B, I] in the unit in which the functions have one step, the centers there, [K, 1], and the step."""
    if spline.shared:
        places, step = _shared(spline)
        return x, places[:, None], step
    # Half of the grid in cells, from its middle: small numbers, which the subtraction leaves exact.
    start, steps = _line(spline)
    middle = start + steps * (spline.extended.shape[1] - 1) / 2
    x = g.mul(g.sub(x, g.const(middle[None])), g.const(1 / steps[None]))
    return x, np.arange(spline.functions, dtype=np.float64)[:, None] - (spline.functions - 1) / 2, 1.0


def _shared(spline: BSpline) -> tuple[Array, float]:
    """The centers [K] of shared knots, as in a float32 graph, and the step."""
    _, step = _line(spline)
    t, k, p = spline.extended[0], spline.functions, spline.degree
    middle = (p + 1) // 2
    places = t[middle : middle + k] if p % 2 else (t[middle : middle + k] + t[middle + 1 : middle + 1 + k]) / 2
    return places.astype(np.float32).astype(np.float64), float(step[0])


@dataclass(frozen=True, eq=False)
class UniformSpline(Basis):
    """Closed form of `spline`, which has nearly uniform knots. Its float64 values are those of the spline; the emitted
    operators are close to them."""

    spline: BSpline

    kind = "bspline"
    compact = True

    def __post_init__(self) -> None:
        if self.spline.degree not in DEGREES or departure(self.spline) > NEAR:
            raise InvalidKan(
                f"splines of degree {self.spline.degree} on these knots have no closed form",
                code="internal-check-failed",
                hint=REPORT,
            )

    @property
    def functions(self) -> int:
        """K of the spline."""
        return self.spline.functions

    @property
    def sources(self) -> int | None:
        """I of the spline."""
        return self.spline.sources

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64: the values of the spline."""
        return self.spline.evaluate(x)

    @cached_property
    def fit(self) -> Array | None:
        """[K, K]: the matrix from the coefficients of a source to those of the emitted functions; None: the same."""
        if not self.spline.shared:
            return None
        knots = self.spline.extended[0]
        x = (knots[:-1, None] + np.diff(knots)[:, None] * (np.arange(POINTS) + 0.5) / POINTS).reshape(-1, 1)
        shared_spline = BSpline(knots[None], self.spline.degree)
        solution, *_ = np.linalg.lstsq(self.closed(x), shared_spline.evaluate(x)[:, :, 0], rcond=None)
        return np.asarray(solution)

    def closed(self, x: Array) -> Array:
        """[n, 1] -> [n, K]: the values of the graph on shared knots, without rounding."""
        places, step = _shared(self.spline)
        distance = np.abs(x - places) / step
        reach, terms = _terms(self.spline.degree)
        powers = [s * (w * np.maximum(a - distance, 0)) ** self.spline.degree for s, w, a in terms]
        return np.asarray(sum(powers), dtype=np.float64) * _scale(self.spline.degree, reach)

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I], divided by `emitted_scale`; in float64 the form of the spline, which keeps its
        digits."""
        if g.dtype != np.float32:
            return self.spline.emit(g, x, sources)
        x, places, step = placed(g, self.spline, x)
        distance = g.op("Abs", g.sub(g.reshape(x, 0, 1, sources), g.const(places[None])))
        _, terms = _terms(self.spline.degree)
        total: Value | None = None
        for sign, weight, end in terms:
            side = g.hard_sigmoid(distance, alpha=-weight / step, beta=weight * end)
            power = _power(g, side, self.spline.degree)
            total = power if total is None else g.add(total, power) if sign > 0 else g.sub(total, power)
        assert total is not None
        return total

    def emitted_scale(self, g: Graph) -> float:
        """The factor from the truncated power to the largest value of the first term, 1."""
        if g.dtype != np.float32:
            return self.spline.emitted_scale(g)
        return _scale(self.spline.degree, (self.spline.degree + 1) / 2)

    def support(self, sources: int) -> Support:
        """The support of the spline, and a grid interval more: the value that replaces NaN is at the end, and must be
        outside here, too."""
        own = self.spline.support(sources)
        _, step = _line(self.spline)
        return dataclasses.replace(own, outer=(own.outer[0] - step, own.outer[1] + step))

    def parameters(self) -> dict[str, str]:
        """The parameters of the spline."""
        return self.spline.parameters()

    def knots(self) -> Array:
        """The knots of the spline."""
        return self.spline.knots()


def _terms(degree: int) -> tuple[float, list[tuple[int, float, float]]]:
    """The reach r = (p + 1) / 2, and for each term its sign, weight w and end a: sign * (w (a - d))+^p. The first term
    is 1 at the center, and no term is larger."""
    reach = (degree + 1) / 2
    terms = []
    for j in range(math.ceil(reach)):
        weight = math.comb(degree + 1, j) ** (1 / degree) / reach
        terms.append((-1 if j % 2 else 1, weight, reach - j))
    return reach, terms


def _scale(degree: int, reach: float) -> float:
    return float(reach**degree / math.factorial(degree))


def _power(g: Graph, a: Value, exponent: int) -> Value:
    """a to a small whole power, by products."""
    if exponent == 1:
        return a
    root = _power(g, a, exponent // 2)
    square = g.mul(root, root)
    return g.mul(square, a) if exponent % 2 else square
