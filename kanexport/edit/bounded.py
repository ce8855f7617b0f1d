"""Least squares with bounds on the variables.

    minimize |A v - b|^2 for low <= v <= high

Source: the active-set method of Stark and Parker, "Bounded-variable least-squares: an algorithm and applications",
Computational Statistics 10 (1995). It solves the free variables exactly and moves one variable at a time between its
bounds and the free set, so that the solution meets the bounds without a tolerance. The base install has numpy only;
a test compares the solutions with scipy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.errors import REPORT, InvalidKan

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

TURNS = 20  # per variable, before the method gives up
FLAT = 1e-12  # of the largest gradient: below it, a bound is optimal


def solve(a: Array, b: Array, low: Array, high: Array, start: Array) -> Array:
    """The solution v [V] for a [n, V] and b [n]. Variables that no row depends on keep the value of `start`. Raises
    InvalidKan if the method does not end."""
    if len(a) > a.shape[1]:
        q, a = np.linalg.qr(a)
        b = q.T @ b
    v = np.clip(start, low, high)
    used = np.abs(a).sum(axis=0) > 0
    free = used & (v > low) & (v < high)
    tolerance = FLAT * max(1.0, float(np.abs(a.T @ b).max(initial=0)))
    for _ in range(TURNS * len(v) + TURNS):
        _settle(a, b, v, free, (low, high))
        if not _release(a, b, v, free, (low, high), used, tolerance):
            return v
    raise InvalidKan(
        f"least squares with bounds on {len(v)} variables did not end", code="internal-check-failed", hint=REPORT
    )


def _solved(a: Array, b: Array, v: Array, free: Flags) -> Array:
    """The best values of the free variables, the others fixed."""
    fixed = b - a[:, ~free] @ v[~free]
    # The solution nearest to the present values, where rows leave it open.
    step, *_ = np.linalg.lstsq(a[:, free], fixed - a[:, free] @ v[free], rcond=None)
    return np.asarray(v[free] + step)


def _settle(a: Array, b: Array, v: Array, free: Flags, bounds: tuple[Array, Array]) -> None:
    """Move the free variables to their best values; those that reach a bound stay there. Changes v and free."""
    low, high = bounds
    while free.any():
        target = _solved(a, b, v, free)
        below, above = target < low[free], target > high[free]
        if not (below | above).any():
            v[free] = target
            return
        limit = np.where(below, low[free], high[free])
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(below | above, (limit - v[free]) / (target - v[free]), np.inf)
        at = int(np.argmin(share))
        members = np.flatnonzero(free)
        v[members] = np.clip(v[members] + max(share[at], 0.0) * (target - v[members]), low[members], high[members])
        v[members[at]] = limit[at]
        free[members[at]] = False


def _release(
    a: Array, b: Array, v: Array, free: Flags, bounds: tuple[Array, Array], used: Flags, tolerance: float
) -> bool:
    """Free the variable at a bound whose move reduces the error most. Returns False if there is none."""
    low, high = bounds
    gradient = a.T @ (b - a @ v)  # where it is positive, a larger variable is better
    gain = np.where(~free & used & (low < high), np.maximum((v <= low) * gradient, (v >= high) * -gradient), 0.0)
    while gain.max(initial=0) > tolerance:
        at = int(np.argmax(gain))
        trial = free.copy()
        trial[at] = True
        target = _solved(a, b, v, trial)[np.searchsorted(np.flatnonzero(trial), at)]
        if low[at] < target if v[at] <= low[at] else target < high[at]:
            free[at] = True
            return True
        gain[at] = 0.0  # by rounding it would turn back at once
    return False
