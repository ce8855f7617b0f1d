"""Fit of c * f(a * x + b) + d to the values of one edge on rows.

a and b: a grid, then Levenberg-Marquardt. c and d: linear least squares (variable projection).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.edit import library
from kanexport.edit.library import Candidate, Search

Array = npt.NDArray[np.float64]

COARSE = 96  # points at which the grid is compared
BEST = 3  # pairs of the grid from which a search begins
STEPS = 25
CANCELLATION = 1e3  # times its spread: a function with larger values is used for its slope or bend at one point only


@dataclass(frozen=True, slots=True)
class Form:
    """Function c * f(a * x + b) + d."""

    candidate: Candidate
    a: float
    b: float
    c: float
    d: float

    def having(self, name: str, value: float) -> Form:
        """The form with another value of one of a, b, c and d."""
        changed = {"a": self.a, "b": self.b, "c": self.c, "d": self.d} | {name: value}
        return Form(self.candidate, changed["a"], changed["b"], changed["c"], changed["d"])

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
    range of x."""
    if candidate.name == "0" or np.ptp(x) == 0:
        constant = Form(candidate, 1.0, 0.0, 0.0, float(y.mean()))
        return constant if candidate.name == "0" else None
    middle, half = (x.max() + x.min()) / 2, np.ptp(x) / 2
    z = (x - middle) / half
    coarse = np.unique(np.linspace(0, len(x) - 1, min(len(x), COARSE)).round().astype(int))
    pairs = library.starts(candidate)
    errors = _errors(candidate, pairs, z[coarse], y[coarse])
    order = np.argsort(errors, kind="stable")
    best: tuple[float, Array, float, float] | None = None
    for at in _apart(pairs, order[np.isfinite(errors[order])]):
        found = _refined(candidate, pairs[at], z, y)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        return None
    _, (a, b), c, d = best
    form = Form(candidate, float(a / half), float(b - a * middle / half), c, d)
    return form if form.defined(float(x.min()), float(x.max())) and not form.cancels(x) else None


def _apart(pairs: Array, order: npt.NDArray[np.intp]) -> list[int]:
    """The best pairs of a grid, of which no two are neighbors."""
    kept: list[int] = []
    for at in order[:200]:
        near = [np.abs(pairs[at] - pairs[k]).max() < 0.3 * (0.3 + np.abs(pairs[at]).max()) for k in kept]
        if not any(near):
            kept.append(int(at))
        if len(kept) == BEST:
            break
    return kept


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


def _linear(candidate: Candidate, a: float, b: float, z: Array, y: Array) -> tuple[float, float, Array]:
    """c, d and the residuals [N]; NaN if the function has no finite values."""
    with np.errstate(all="ignore"):
        f = candidate.function.evaluate(a * z + b)
        centred = f - f.mean()
        power = float(centred @ centred)
        c = float(centred @ y) / power if power > 0 else float("nan")
        d = float(y.mean()) - c * float(f.mean())
        return c, d, c * f + d - y


def _refined(candidate: Candidate, pair: Array, z: Array, y: Array) -> tuple[float, Array, float, float] | None:
    """The squared error, a and b, c, d after a local search from one pair; None without finite values."""
    low, high = float(z.min()), float(z.max())
    free = {Search.NONE: [], Search.CENTRE: [1], Search.RATE: [0], Search.BOTH: [0, 1]}[candidate.search]
    at, damping = pair.copy(), 1e-3
    c, d, residual = _linear(candidate, at[0], at[1], z, y)
    error = float(residual @ residual)
    if not np.isfinite(error):
        return None
    for _ in range(STEPS if free else 0):
        columns = []
        for k in free:
            moved = at.copy()
            moved[k] += 1e-6 * max(1e-2, abs(at[k]))
            columns.append((_linear(candidate, moved[0], moved[1], z, y)[2] - residual) / (moved[k] - at[k]))
        jacobian = np.stack(columns, axis=1)
        if not np.isfinite(jacobian).all():
            break
        normal, slope = jacobian.T @ jacobian, jacobian.T @ residual
        moved = at.copy()
        moved[free] -= np.linalg.lstsq(normal + damping * np.diag(np.diag(normal)), slope, rcond=None)[0]
        ends = sorted((moved[0] * low + moved[1], moved[0] * high + moved[1]))
        after = _linear(candidate, moved[0], moved[1], z, y) if library.defined(candidate.domain, *ends) else None
        new = float(after[2] @ after[2]) if after is not None else np.inf
        if after is not None and new < error:
            gain, at, error, damping = error - new, moved, new, damping / 5
            c, d, residual = after
            if gain < 1e-9 * error or error < 1e-28 * len(y):
                break
        else:
            damping *= 8
            if damping > 1e8:
                break
    return error, at, c, d
