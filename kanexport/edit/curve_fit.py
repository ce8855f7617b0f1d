"""Fit of c * f(a * x + b) + d to the values of one edge on rows.

a and b: a grid, then Levenberg-Marquardt. c and d: linear least squares (variable projection).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.edit import library
from kanexport.edit.library import Candidate, Search
from kanexport.shared.formula import TEXTS
from kanexport.shared.formula_printer import ATOM, EXACT, Linear, Text, applied, number

Array = npt.NDArray[np.float64]

COARSE = 96  # points at which the grid is compared
POINTS = 160  # of a local search
BEST, TRIED = 2, 200  # pairs of the grid from which a search begins, of those with the smallest errors
STEPS = 12
WORST = 0.25  # of the variance: functions that leave more of it are not searched
CANCELLATION = 1e3  # times its spread: a function with larger values is used for its slope or bend at one point only


@dataclass(frozen=True, slots=True)
class Form:
    """Function c * f(a * x + b) + d."""

    candidate: Candidate
    a: float
    b: float
    c: float
    d: float

    def text(self, digits: int = EXACT) -> str:
        """The form as an expression of x, such as "2*sin(3*x + 1) - 0.5"."""
        numbers = Linear.from_text(Text("x", ATOM)).affine(self.a, self.b)
        if self.candidate.name == "0":
            return number(self.d, digits).text
        inner = applied(TEXTS[self.candidate.name], numbers.render(digits), digits)
        return Linear.from_text(inner).affine(self.c, self.d).render(digits).text

    def having(self, name: str, value: float) -> Form:
        """The form with another value of one of a, b, c and d."""
        changed: dict[str, Any] = {name: value}
        return dataclasses.replace(self, **changed)

    def values(self, x: Array) -> Array:
        """[N] -> [N]"""
        if self.candidate.name == "0":
            return np.full(x.shape, self.d)
        with np.errstate(all="ignore"):
            return np.asarray(self.c * self.candidate.function.evaluate(self.a * x + self.b) + self.d)

    def defined(self, low: float, high: float) -> bool:
        """Whether the function is defined for all sources from low to high."""
        ends = sorted((self.a * low + self.b, self.a * high + self.b))
        return library.defined(self.candidate.domain, ends[0], ends[1])

    def cancels(self, x: Array) -> bool:
        """Whether the values of the function at x [N] are much larger than their spread, so that d cancels them."""
        if self.candidate.name in ("0", "x"):
            return False
        with np.errstate(all="ignore"):
            f = self.candidate.function.evaluate(self.a * x + self.b)
        return not float(np.abs(f).max()) <= CANCELLATION * float(f.std())


def fit(candidate: Candidate, x: Array, y: Array) -> Form | None:
    """The form of one function that is nearest to y [N] at x [N], in the mean square; None if no form is defined on the
    range of x, or if x is constant."""
    if candidate.name == "0":
        return Form(candidate, 1.0, 0.0, 0.0, float(y.mean()))
    if np.ptp(x) == 0:
        return None
    # The search is for sources z from -1 to 1: a z + b = (a / half) x + b - a middle / half.
    middle, half = (x.max() + x.min()) / 2, np.ptp(x) / 2
    z = (x - middle) / half
    order = np.argsort(z, kind="stable")
    coarse, fine = (order[evenly(len(z), most)] for most in (COARSE, POINTS))
    begun = (_refined(candidate, pair, z[fine], y[fine]) for pair in _best_pairs(candidate, z[coarse], y[coarse]))
    best = min((point for point in begun if point is not None), key=lambda point: point.error, default=None)
    if best is None:
        return None
    a, b = best.pair
    form = Form(candidate, float(a / half), float(b - a * middle / half), best.c, best.d)
    return form if form.defined(float(x.min()), float(x.max())) and not form.cancels(x) else None


def _best_pairs(candidate: Candidate, z: Array, y: Array) -> list[Array]:
    """The BEST pairs of a and b of the grid, without their neighbors."""
    pairs = library.starts(candidate)
    errors = _errors(candidate, pairs, z, y)
    limit = np.inf if candidate.search is Search.NONE else WORST * len(z) * y.var()
    apart: list[Array] = []
    order = np.argsort(errors, kind="stable")
    for pair in pairs[order[np.isfinite(errors[order]) & (errors[order] <= limit)][:TRIED]]:
        if all(np.abs(pair - other).max() >= 0.3 * (0.3 + np.abs(pair).max()) for other in apart):
            apart.append(pair)
        if len(apart) == BEST:
            break
    return apart


def evenly(count: int, most: int) -> npt.NDArray[np.intp]:
    """Up to `most` of `count` numbers, at equal distances, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _errors(candidate: Candidate, pairs: Array, z: Array, y: Array) -> Array:
    """[S]: the squared error of each pair with the best c and d; infinite where the function is not defined."""
    with np.errstate(all="ignore"):
        values = candidate.function.evaluate(pairs[:, :1] * z + pairs[:, 1:])
        values = values - values.mean(axis=1, keepdims=True)
        centred = y - y.mean()
        power = (values**2).sum(axis=1)
        errors = (centred**2).sum() - (values @ centred) ** 2 / power
    ends = np.sort(pairs[:, :1] * np.array([z.min(), z.max()]) + pairs[:, 1:], axis=1)
    valid = [library.defined(candidate.domain, low, high) for low, high in ends]
    return np.where(np.isfinite(errors) & (power > 1e-24 * len(z)) & valid, errors, np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """A pair of a and b with the best c and d, the residuals [N] and the squared error; infinite if the function is
    not defined."""

    pair: Array
    c: float
    d: float
    residual: Array
    error: float

    @classmethod
    def of(cls, candidate: Candidate, pair: Array, z: Array, y: Array) -> _Point:
        """Linear least squares for one pair."""
        with np.errstate(all="ignore"):
            f = candidate.function.evaluate(pair[0] * z + pair[1])
            centred = f - f.mean()
            power = float(centred @ centred)
            c = float(centred @ y) / power if power > 0 else float("nan")
            d = float(y.mean()) - c * float(f.mean())
            residual = c * f + d - y
            error = float(residual @ residual)
        ends = sorted(float(pair[0] * end + pair[1]) for end in (z.min(), z.max()))
        valid = np.isfinite(error) and library.defined(candidate.domain, ends[0], ends[1])
        return cls(pair, c, d, residual, error if valid else float("inf"))


def _refined(candidate: Candidate, pair: Array, z: Array, y: Array) -> _Point | None:
    """The result of a local search from one pair; None without finite values."""
    free, damping = ["ab".index(name) for name in candidate.free], 1e-3
    best = _Point.of(candidate, pair, z, y)
    if not np.isfinite(best.error):
        return None
    for _ in range(STEPS if free else 0):
        columns = []  # the derivatives of the residuals in a and b, as far as they are free
        for k in free:
            moved = best.pair.copy()
            moved[k] += 1e-6 * max(1e-2, abs(moved[k]))
            with np.errstate(all="ignore"):
                change = _Point.of(candidate, moved, z, y).residual - best.residual
            columns.append(change / (moved[k] - best.pair[k]))
        jacobian = np.stack(columns, axis=1)
        if not np.isfinite(jacobian).all():
            break
        normal, slope = jacobian.T @ jacobian, jacobian.T @ best.residual
        moved = best.pair.copy()
        moved[free] -= np.linalg.lstsq(normal + damping * np.diag(np.diag(normal)), slope, rcond=None)[0]
        tested = _Point.of(candidate, moved, z, y)
        if tested.error < best.error:
            gain, best, damping = best.error - tested.error, tested, damping / 5
            if gain < 1e-9 * best.error or best.error < 1e-28 * len(y):
                break
        else:
            damping *= 8
            if damping > 1e8:
                break
    return best
