"""Rows in the shape and type of a model's input, or a refusal that names both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kanserve.console.common import InputError
from kanserve.nouns import DTYPES, TensorInfo

ANY = -1  # an extent that the model leaves open


def fit(name: str, values: Any, tensor: TensorInfo, *, above: int = 0) -> Any:
    """`values` as [rows, *tensor.shape[1:]] in the tensor's dtype. Raises InputError where the
    shape is another one, or a finite number would be lost; `name` is the file's. `above`: rows of the file before
    these."""
    return converted(name, shaped(name, values, tensor), tensor.datatype, above=above)


def shaped(name: str, values: Any, tensor: TensorInfo) -> Any:
    """`values` as [rows, *tensor.shape[1:]], without a copy, in the dtype that they have. Raises InputError."""
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name} holds values of type {values.dtype}; numbers were expected")
    if values.ndim == 0:
        raise InputError(f"{name} holds a single number without an axis; rows were expected")
    if tensor.datatype not in DTYPES:
        raise InputError(f"the model's input {tensor.name!r} is {tensor.datatype}, which this command cannot send")
    rows = _as_rows(values, tensor.shape[1:])
    if not _matches(rows.shape[1:], tensor.shape[1:]):
        raise InputError(
            f"{name} has {_shape_found(rows)}; the model's input {tensor.name!r} has {_shape_expected(tensor)}"
        )
    return rows


def streams(tensor: TensorInfo, width: int) -> bool:
    """Whether rows of `width` numbers fit a model's input part by part. They do not if a whole file may be one row."""
    extents = tensor.shape[1:]
    return len(extents) == 1 or (ANY not in extents and width == math.prod(extents))


def _as_rows(values: Any, expected: tuple[int, ...]) -> Any:
    """No rows, one row alone and flat rows as [rows, *expected]; anything else as it is."""
    if values.shape[0] == 0:
        return values.reshape(0, *(1 if size == ANY else size for size in expected))
    if len(expected) == 1:
        return _as_vectors(values, expected[0])
    if ANY in expected or not expected:
        return values
    flat = values.ndim <= 2 and values.shape[-1] == math.prod(expected)
    return values.reshape(-1, *expected) if flat or values.shape == expected else values


def _as_vectors(values: Any, size: int) -> Any:
    """One axis alone is one row, or many rows of one number for a model that takes one."""
    if values.ndim != 1:
        return values
    return values[:, None] if size == 1 else values[None, :]


def _matches(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(found) == len(expected) and all(want in (ANY, have) for want, have in zip(expected, found, strict=True))


def _shape_found(rows: Any) -> str:
    return f"{rows.shape[1]} columns" if rows.ndim == 2 else f"shape {rows.shape}"


def _shape_expected(tensor: TensorInfo) -> str:
    extents = tensor.shape[1:]
    if len(extents) == 1:
        return f"{extents[0]} columns"
    flat = "" if ANY in extents or not extents else f", flat {math.prod(extents)} values a row"
    return f"shape {tensor.shape}{flat}"


def converted(name: str, rows: Any, datatype: str, *, above: int = 0) -> Any:
    """`rows` in the dtype of `datatype`. Raises InputError for the first number that does not fit. The error counts
    rows from the start of the file, so it adds `above`."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = rows.astype(DTYPES[datatype])
    # What is finite stays so, and whole numbers stay the same.
    lost = np.isfinite(rows) & ~np.isfinite(found) if found.dtype.kind == "f" else found != rows
    if lost.any():
        at = tuple(int(i) for i in np.argwhere(lost)[0])
        place = [above + at[0], *at[1:]]
        raise InputError(f"{name}, value {place}: {rows[at]!s} does not fit into {datatype}")
    return found
