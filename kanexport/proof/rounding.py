"""The changes that float32 itself makes to the outputs of a network.

There are two measures, and the larger one counts. The first is the network computed in float32 in the order of its
formula, as libraries do. The second is the float64 evaluation with nodes and weights off by random parts of a float32's
last digits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan
from kanexport.form.ir import Kan
from kanexport.operators import precision
from kanexport.proof import evaluate
from kanexport.proof.evaluate import Jitter

Array = npt.NDArray[np.float64]
T = TypeVar("T")

CONSTANTS = "steps"  # the field of bases that holds a recurrence's constants
ORDERS = 4  # computations in float32, the first without random constants
DRAWS = 8  # draws of random last digits
LAST = 2.0  # units of the largest output of a row: its own rounding


def narrowed(part: T, seed: int = 0) -> T:
    """The same object with every array in float32. Bases, steps and layers compute in the type of their arrays. With
    a `seed`, constants of recurrences that are not integers are off by random last digits, since libraries multiply
    and divide in other orders. Raises InvalidKan if the numbers do not survive it, such as two knots that become
    one."""
    return cast(T, _narrowed(part, "", seed))


def _narrowed(part: Any, name: str, seed: int) -> Any:
    """The part in float32, or the same object if there is nothing to change. `name`: of the field that has it."""
    if isinstance(part, np.ndarray):
        return _array(part, name, seed)
    if isinstance(part, tuple):
        changed = _changed(dict(enumerate(part)), seed)
        return tuple(changed.get(at, old) for at, old in enumerate(part)) if changed else part
    return part if isinstance(part, type) or not dataclasses.is_dataclass(part) else _with_fields(part, seed)


def _array(values: npt.NDArray[Any], name: str, seed: int) -> npt.NDArray[Any]:
    if values.dtype != np.float64:
        return values
    if name == CONSTANTS and seed:
        moved = Jitter(precision.rounding("float32"), seed).shake(values)
        values = np.where(values == np.rint(values), values, moved)
    return values.astype(np.float32)


def _with_fields(part: Any, seed: int) -> Any:
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
    changed = _changed(fields, seed)
    return dataclasses.replace(part, **changed) if changed else part


def _changed(fields: dict[Any, Any], seed: int) -> dict[Any, Any]:
    return {name: new for name, old in fields.items() if (new := _narrowed(old, str(name), seed)) is not old}


def draws(kan: Kan, x: Array, exact: Array, dtype: str) -> Iterator[Array]:
    """Draw by draw, the largest absolute change that rounding of `dtype` makes to each row's outputs, [B]. `exact`
    [B, outputs]: the outputs for rows x [B, inputs] in float64. The first draw is the effect of the last rounding
    alone."""
    size = precision.rounding(dtype)
    yield LAST * size * _largest(exact)
    if dtype == "float32":
        yield from (_apart(in_float32(kan, x, seed), exact) for seed in range(ORDERS))
    for seed in range(DRAWS):
        yield _apart(evaluate.evaluate(kan, x, jitter=Jitter(size, seed, functions=True)).y, exact)


def in_float32(kan: Kan, x: Array, seed: int = 0) -> Array:
    """[B, outputs]: the outputs in float32; NaN if the numbers of the network do not survive it. `seed`: see
    `narrowed`."""
    with np.errstate(over="ignore"):
        try:
            return evaluate.evaluate(narrowed(kan, seed), x.astype(np.float32)).y.astype(np.float64)
        except InvalidKan:
            return np.full((len(x), kan.n_outputs), np.nan)


def _largest(values: Array) -> Array:
    """[B, outputs] -> [B]: the largest finite magnitude."""
    return np.asarray(np.where(np.isfinite(values), np.abs(values), 0).max(axis=1, initial=0))


def _apart(given: Array, exact: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return _largest(given - exact)
