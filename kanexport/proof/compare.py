"""The largest difference between two arrays: how large, relative to what, and where."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.proof.tolerance import Allowance

Array = npt.NDArray[np.float64]


@dataclass
class LargestError:
    """The largest error so far, and where it is.

    max_abs    the largest absolute difference; infinite where one value is not finite and the other is
    max_rel    the largest, relative to the largest finite magnitude expected, or to the allowance's scale
               if that is larger
    excess     the largest error over what was allowed; a proof fails above 1
    condition  what rounding nodes and weights alone changes, in the draws that were made to excuse an error; else 0
    where      the place of `max_rel`, as its caller names it, or ""
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    excess: float = 0.0
    condition: float = 0.0
    where: str = ""

    def add(self, given: Array, expected: Array, allowance: Allowance, where: Callable[[tuple[int, ...]], str]) -> None:
        """Take in one comparison of arrays of one shape; `where` names an element by its index.
        NaN must meet NaN and an infinity the same one."""
        if expected.size == 0:
            return
        finite = np.isfinite(expected)
        same = np.where(finite, np.isfinite(given), _same_class(given, expected))
        if not same.all():
            at = tuple(int(v) for v in np.argwhere(~same)[0])
            self._take(math.inf, math.inf, math.inf, f"{where(at)}: {given[at]} where {expected[at]} is expected")
            return
        if not finite.any():
            return
        with np.errstate(invalid="ignore"):
            error = np.where(finite, np.abs(given - expected), 0.0)
        at = tuple(int(v) for v in np.unravel_index(int(error.argmax()), error.shape))
        scale = max(float(np.abs(expected[finite]).max()), allowance.scale)
        largest = float(error[at])
        rel = largest / scale if scale > 0 else (0.0 if largest == 0 else math.inf)
        change = _excuse(rel, allowance)
        self.condition = max(self.condition, change)
        self._take(largest, rel, rel / (allowance.tolerance + allowance.excuse * change), where(at))

    def _take(self, largest: float, rel: float, excess: float, where: str) -> None:
        if rel >= self.max_rel:
            self.where = where
        self.max_abs, self.max_rel = max(self.max_abs, largest), max(self.max_rel, rel)
        self.excess = max(self.excess, excess)


def _excuse(rel: float, allowance: Allowance) -> float:
    """What rounding alone changes, as far as that has to be known: a draw that excuses the error is the last."""
    change = 0.0
    if allowance.tolerance < rel < math.inf:
        for one in allowance.changes():
            change = max(change, one)
            if rel <= allowance.tolerance + allowance.excuse * change:
                break
    return change


def _same_class(given: Array, expected: Array) -> npt.NDArray[np.bool_]:
    nan = np.isnan(given) & np.isnan(expected)
    return np.asarray(nan | ((given == expected) & np.isinf(expected)))


def relative_change(a: Array, b: Array) -> float:
    """The largest relative difference where both are finite."""
    both = np.isfinite(a) & np.isfinite(b)
    scale = magnitude(a)
    return float(np.abs(a[both] - b[both]).max()) / scale if both.any() and scale > 0 else 0.0


def magnitude(a: Array) -> float:
    """The largest finite magnitude, or zero."""
    finite = a[np.isfinite(a)]
    return float(np.abs(finite).max()) if finite.size else 0.0
