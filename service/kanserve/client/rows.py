"""Rows as a caller has them, by input: checked for being there, and as the fields of a message."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanexport.shared.naming import Names, NamingError
from kanserve.client import errors
from kanserve.client.description import Description
from kanserve.client.frames import is_frame
from kanserve.nouns import DTYPES, TensorInfo
from kanserve.pb import kan_pb2 as kan

UNSAID = ("", "x", "column_")  # prefixes of numbered columns: pandas, unnamed features, polars
SHOWN = 4  # columns in a warning


def of_frame(rows: Any, names: Names) -> Any:
    """Rows as they are. For a DataFrame of pandas or polars: its numbers, with the columns in the order of the feature
    names. Warns if the model has no feature names. Raises InvalidInput for a column that is missing or not a
    feature."""
    if not is_frame(rows):
        return rows
    columns = [str(column) for column in rows.columns]
    if not names.features and not _numbered(columns):
        shown = ", ".join(columns[:SHOWN]) + (" ..." if len(columns) > SHOWN else "")
        warnings.warn(
            f"the DataFrame has the columns {shown}, but the model has no feature names: the order of columns was used",
            stacklevel=_outside(),
        )
    try:
        order = names.order(columns)
    except NamingError as error:
        raise errors.of("INVALID_ARGUMENT", str(error)) from None
    numbers = np.asarray(rows.to_numpy())
    return numbers if order is None else numbers[:, order]


def _numbered(columns: Sequence[str]) -> bool:
    return any(list(columns) == [f"{word}{at}" for at in range(len(columns))] for word in UNSAID)


def _outside() -> int:
    """How many frames the code outside this package is above the caller, as `warnings.warn` counts."""
    level, frame = 1, inspect.currentframe()
    frame = frame.f_back if frame else None
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("kanserve."):
        level, frame = level + 1, frame.f_back
    return level


def packed(described: Description, rows: Any) -> dict[str, Any]:
    """The fields of an edge query that hold rows, of an array or a DataFrame. Raises InvalidInput where rows of an
    input are missing."""
    rows = of_frame(rows, described.names)
    if not isinstance(rows, Mapping) and len(described.inputs) == 1:
        array = np.ascontiguousarray(rows, DTYPES[described.input.datatype])
        return {"rows": array.tobytes(), "row_count": len(array)}
    given = pairs(described.inputs, rows)
    arrays = {tensor.name: np.ascontiguousarray(array, DTYPES[tensor.datatype]) for tensor, array in given}
    inputs = [kan.InputRows(name=name, rows=array.tobytes()) for name, array in arrays.items()]
    return {"inputs": inputs, "row_count": max(map(len, arrays.values()))}


def pairs(tensors: TensorInfo | Sequence[TensorInfo], rows: Any) -> list[tuple[TensorInfo, Any]]:
    """Each input with its rows. Raises InvalidInput where rows of one are missing."""
    if isinstance(tensors, TensorInfo):
        return [(tensors, rows)]
    if not isinstance(rows, Mapping) or any(tensor.name not in rows for tensor in tensors):
        names = ", ".join(tensor.name for tensor in tensors)
        raise errors.of("INVALID_ARGUMENT", f"the model has the inputs {names}: rows by name, for each, were expected")
    return [(tensor, rows[tensor.name]) for tensor in tensors]
