"""Refuses modules whose rows cannot be served one by one: randomness, and rows that depend on each other.

The same rows must give the same outputs, and a row the same whatever else is in its batch
(no edge class C)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from kanexport.errors import InvalidKan
from kanexport.hybrid.capture import Call, Oracle
from kanexport.hybrid.recognise import Whole, shown

Array = npt.NDArray[np.float64]

LIMITS = {torch.float64: 1e-6, torch.float32: 1e-4}  # relative: what other rows of a batch may change in a row
FREEZE = "freeze batch statistics: BatchNorm with track_running_stats, fixed ranges instead of batch min/max"


def require_fixed(oracle: Oracle, x: Array) -> None:
    """One row of output for each of x, and the same ones again. Raises InvalidKan."""
    first, second = (oracle.run(x)[0] for _ in range(2))
    if len(first) != len(x):
        raise InvalidKan(f"the module gives {len(first)} rows for {len(x)}; the first axis must be the batch")
    if first.shape != second.shape or not _close(second, first, LIMITS[oracle.dtype]):
        raise InvalidKan(
            "the module gives different outputs for the same rows: something in it is random at inference",
            hint="for one, functional.dropout without training=self.training",
        )


def require_independent(whole: Whole, oracle: Oracle, x: Array) -> None:
    """Every row of x by itself gives what it gives among the others. Raises InvalidKan, which
    names the submodule that does it: nothing could be said about such a model row by row."""
    limit = LIMITS[oracle.dtype]
    together, _ = oracle.run(x)
    try:
        rows = [oracle.run(row)[0] for row in _singly(x)]
    except InvalidKan as error:
        raise InvalidKan(f"{error.message}; rows cannot be served one by one", hint=FREEZE) from error
    if any(row.shape != (1, *together.shape[1:]) for row in rows):
        raise InvalidKan(
            f"a row gives {list(rows[0].shape[1:])} by itself and {list(together.shape[1:])} among others",
            hint="a served model gives every row an output of the same shape",
        )
    if not _close(np.concatenate(rows), together, limit):
        culprit = _culprit(whole, oracle, x, limit)
        because = f", because of {culprit}" if culprit not in ("", shown("body")) else ""
        raise InvalidKan(
            f"the output of a row depends on the other rows of its batch (edge class C){because}; it cannot be served",
            hint=FREEZE,
        )


def _singly(x: Array) -> list[Array]:
    return [x[at : at + 1] for at in range(len(x))]


def _culprit(whole: Whole, oracle: Oracle, x: Array, limit: float) -> str:
    """The first submodule, innermost first, that gives a row something else among others; empty
    where none can be named."""
    modules = {name: module for name, module in whole.named_modules() if name}
    together, *alone = (oracle.run(rows, modules, nested=True)[1] for rows in (x, *_singly(x)))
    if any([call.name for call in calls] != [call.name for call in together] for calls in alone):
        return ""
    calls = zip(together, *alone, strict=True)
    return next((shown(many.name) for many, *single in calls if _mixes_rows(many, single, limit)), "")


def _mixes_rows(many: Call, single: Sequence[Call], limit: float) -> bool:
    """Whether a call with all rows took for some row what the call with that row alone took,
    and gave something else. `single`: one call for each row."""
    rows = len(single)
    for at, one in enumerate(single):
        if many.x.size != one.x.size * rows or many.y.size != one.y.size * rows:
            continue
        x, y = (values.reshape(rows, -1)[at] for values in (many.x, many.y))
        if _close(x, one.x.reshape(-1), limit) and not _close(y, one.y.reshape(-1), limit):
            return True
    return False


def _close(values: Array, expected: Array, limit: float) -> bool:
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0) or 1.0
    return bool(np.allclose(values, expected, rtol=0, atol=limit * scale, equal_nan=True))
