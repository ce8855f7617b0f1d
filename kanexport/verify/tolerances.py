"""Tolerances between an exported graph and the float64 evaluation, and their relaxation for ill-conditioning.

An error beyond the tolerance is excused only where the model itself amplifies
rounding: up to `CONDITION` times the change that rounding every node and weight
makes in the float64 evaluation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan
from kanexport.graph import precision
from kanexport.ir.model import Kan
from kanexport.verify import float64_reference
from kanexport.verify.float64_reference import Jitter

OUTPUT_TOLERANCE = 1e-5  # relative, unless the user says otherwise
EDGE_TOLERANCE = 5e-5  # beside it
CONDITION = 32.0  # times the change that rounding makes
DRAWS = 4  # of that rounding
OVERFLOW = 1e30  # beyond this, float32 may overflow where float64 does not
SLACK = 10.0  # for other machines' order of summation, in the server's load check


@dataclass(frozen=True, slots=True)
class Allowance:
    """Allowed error of one comparison.

    scale    the least magnitude that errors are relative to
    changes  relative changes by the rounding of nodes and weights alone, draw by draw; evaluated only beyond the
             tolerance, and no longer than needed
    excuse   how many times the largest change is allowed

    Example: tolerance 1e-5, excuse 32 and a change of 1e-5 allow 1e-5 + 32 * 1e-5.
    """

    tolerance: float
    scale: float
    changes: Callable[[], Iterable[float]]
    excuse: float


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Tolerances of one verification: the bounds, relative; their relaxation for ill-conditioning; and the draws of
    rounding that measure conditioning."""

    outputs: float
    edges: float
    excuse: float
    jitters: tuple[Jitter, ...]

    @classmethod
    def for_graph(cls, outputs: float, dtype: str) -> Tolerance:
        """The tolerances of a graph.

        outputs  the allowed error of outputs, relative; edges are allowed in proportion
        dtype    the graph's, whose rounding conditioning amplifies
        """
        # A user who allows less than the usual tolerance wants no larger excuse than that.
        excuse = CONDITION * min(1.0, outputs / OUTPUT_TOLERANCE)
        size = precision.rounding(dtype)
        return cls(
            outputs, outputs * EDGE_TOLERANCE / OUTPUT_TOLERANCE, excuse, tuple(Jitter(size, s) for s in range(DRAWS))
        )

    def of_reference(self) -> float:
        """The tolerance of the server's load check, which runs on other machines."""
        return self.outputs * SLACK


Array = npt.NDArray[np.float64]


@dataclass
class LargestError:
    """Largest error so far, and its place.

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

    def add(
        self, computed: Array, expected: Array, allowance: Allowance, where: Callable[[tuple[int, ...]], str]
    ) -> None:
        """Add one comparison of arrays of one shape; `where` names an element by its index. NaN must match NaN, and
        an infinity the same infinity."""
        if expected.size == 0:
            return
        finite = np.isfinite(expected)
        same_class = (np.isnan(computed) & np.isnan(expected)) | ((computed == expected) & np.isinf(expected))
        same = np.where(finite, np.isfinite(computed), same_class)
        if not same.all():
            at = tuple(int(v) for v in np.argwhere(~same)[0])
            self._take(math.inf, math.inf, math.inf, f"{where(at)}: {computed[at]}, expected {expected[at]}")
            return
        if not finite.any():
            return
        with np.errstate(invalid="ignore"):
            error = np.where(finite, np.abs(computed - expected), 0.0)
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
    """The change by rounding only, as far as it is needed: the first draw that explains the error is the last."""
    change = 0.0
    if allowance.tolerance < rel < math.inf:
        for draw in allowance.changes():
            change = max(change, draw)
            if rel <= allowance.tolerance + allowance.excuse * change:
                break
    return change


def relative_change(a: Array, b: Array) -> float:
    """The largest relative difference between values that are finite in both."""
    both = np.isfinite(a) & np.isfinite(b)
    scale = magnitude(a)
    return float(np.abs(a[both] - b[both]).max()) / scale if both.any() and scale > 0 else 0.0


def magnitude(a: Array) -> float:
    """The largest finite magnitude, or zero."""
    finite = a[np.isfinite(a)]
    return float(np.abs(finite).max()) if finite.size else 0.0


T = TypeVar("T")

# Fields of bases: constants of recurrences and rational functions.
CONSTANTS = ("steps", "numerator", "denominator")
KNOTS = "extended"  # the field of bases that holds knots; libraries compute those that no float32 file holds
ORDERS = 4  # computations in float32, the first without random constants
ROUNDING_DRAWS = 8  # draws of random last digits
LAST = 2.0  # units of the largest output of a row: its own rounding


def narrowed(part: T, seed: int = 0) -> T:
    """The same object with every array in float32. Bases, steps and layers compute in the type of their arrays. With
    a `seed`, constants of recurrences that are not integers change in random last digits, because libraries multiply
    and divide in other orders. Raises InvalidKan if float32 makes the numbers invalid, such as two knots that become
    equal."""
    return cast(T, _narrowed(part, "", seed))


def _narrowed(part: Any, name: str, seed: int) -> Any:
    """The part in float32, or the same object if it has no arrays. `name`: of its field."""
    if isinstance(part, np.ndarray):
        return _array(part, name, seed)
    if isinstance(part, tuple):
        changed = _changed(dict(enumerate(part)), seed)
        return tuple(changed.get(at, old) for at, old in enumerate(part)) if changed else part
    if isinstance(part, type) or not dataclasses.is_dataclass(part):
        return part
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
    changed = _changed(fields, seed)
    return dataclasses.replace(cast(Any, part), **changed) if changed else part


def _array(values: npt.NDArray[Any], name: str, seed: int) -> npt.NDArray[Any]:
    if values.dtype != np.float64:
        return values
    if seed and name in CONSTANTS:
        moved = Jitter(precision.rounding("float32"), seed).shake(values)
        values = np.where(values == np.rint(values), values, moved)
    if seed and name == KNOTS and (values != values.astype(np.float32)).any():
        change = np.random.default_rng(seed).uniform(-2, 2, size=values.shape)
        values = values + change * precision.rounding("float32") * np.abs(values).max()
    return values.astype(np.float32)


def _changed(fields: dict[Any, Any], seed: int) -> dict[Any, Any]:
    return {name: new for name, old in fields.items() if (new := _narrowed(old, str(name), seed)) is not old}


def draws(kan: Kan, x: Array, exact: Array, dtype: str) -> Iterator[Array]:
    """For each draw, the largest absolute change that rounding of `dtype` causes in the outputs of each row, [B].
    `exact` [B, outputs]: the outputs for rows x [B, inputs] in float64. The first draw is the effect of only the
    last rounding."""
    size = precision.rounding(dtype)
    yield LAST * size * float64_reference.peak(exact)
    if dtype == "float32":
        yield from (_largest_difference(in_float32(kan, x, seed), exact) for seed in range(ORDERS))
    for seed in range(ROUNDING_DRAWS):
        yield _largest_difference(
            float64_reference.evaluate(kan, x, jitter=Jitter(size, seed, functions=True)).y, exact
        )


def in_float32(kan: Kan, x: Array, seed: int = 0) -> Array:
    """[B, outputs]: the outputs in float32; NaN if float32 makes the network invalid. `seed`: see `narrowed`."""
    with np.errstate(over="ignore"):
        try:
            return float64_reference.evaluate(narrowed(kan, seed), x.astype(np.float32)).y.astype(np.float64)
        except InvalidKan:
            return np.full((len(x), kan.n_outputs), np.nan)


def _largest_difference(computed: Array, exact: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return float64_reference.peak(computed - exact)
