"""How a layer's rows lie in the tensors it takes and gives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan
from kanexport.hybrid.capture import Call

Array = npt.NDArray[np.float64]

KEEP, FLAT, COLUMN = "keep", "flat", "column"  # [..., n] -> [..., m]; -> [rows, m]; -> [rows, m, 1]
TAP, TAP_AFTER = "tap", "tap after"  # nothing is replaced: what goes in, or comes out, is looked at, and passes


def form(call: Call, n: int, m: int) -> str:
    """How a layer of n sources and m destinations shapes its output. Raises InvalidKan
    where it is none of the known ways."""
    rows, rest = divmod(call.x.size, n)
    if not rest and call.x.ndim:
        if call.x.shape[-1] == n and call.y.shape == (*call.x.shape[:-1], m):
            return KEEP
        if call.y.shape == (rows, m):
            return FLAT
        if call.y.shape == (rows, m, 1):
            return COLUMN
    raise InvalidKan(
        f"maps {list(call.x.shape)} to {list(call.y.shape)}, which {n} sources and {m} destinations do not"
    )


def lead(two: Call, three: Call, n: int) -> tuple[int, ...] | None:
    """Axes of a layer's vectors, -1 at the rows of the batch, from calls with 2 and 3
    rows: (-1, 8) for 8 tokens, (8, -1) where the batch comes second. None where the
    rows cannot be told apart."""
    return lead_of(*(_lead(call, n) for call in (two, three)))


def lead_of(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """The same from the axes of both calls' vectors."""
    if len(first) != len(second):
        return None
    moved = [axis for axis, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if len(moved) != 1 or first[moved[0]] * 3 != second[moved[0]] * 2:
        return None
    axis, each = moved[0], first[moved[0]] // 2
    return (*first[:axis], -1, *(() if each == 1 else (each,)), *first[axis + 1 :])


def _lead(call: Call, n: int) -> tuple[int, ...]:
    return call.x.shape[:-1] if call.x.shape[-1] == n else (call.x.size // n,)


def by_row(flat: Array, axes: tuple[int, ...]) -> Array:
    """[rows of the layer, n] -> [B, *positions, n]"""
    return np.moveaxis(flat.reshape(*axes, flat.shape[-1]), axes.index(-1), 0)
