"""Conversion between arrays, DataFrames and messages. Optional packages are imported on use."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanexport.contract.naming import Names, NamingError
from kanserve.client import errors
from kanserve.pb import kan_pb2 as kan
from kanserve.types import DTYPES, Description, ParameterValue, TensorInfo


def needed(module: str, what: str, instead: str, install: str = "") -> Any:
    """An optional package, loaded at its first use. Raises ModuleNotFoundError with the feature (`what`), the
    alternative (`instead`), and the command that installs it (`install`)."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        how = install or f"run {sys.executable} -m pip install {module}"
        missing = f"{what} needs the Python package {module}, which is not installed"
        raise ModuleNotFoundError(f"{missing}: {instead} without it; to install it, {how}", name=module) from error


def frame(columns: Mapping[str, Any], *, index: Any = None) -> Any:
    """A pandas DataFrame of columns by name."""
    return needed("pandas", "to_frame()", "its arrays have the same numbers").DataFrame(columns, index=index)


def table(values: Any, names: Sequence[str], *, index: Any = None) -> Any:
    """A pandas DataFrame of `values` [rows, columns] with the row labels `index` (None: numbers)."""
    pandas = needed("pandas", "to_frame()", "its arrays have the same numbers")
    return pandas.DataFrame(values, columns=list(names), index=index)


def is_frame(rows: Any) -> bool:
    """True if rows are a DataFrame of pandas or polars."""
    return hasattr(rows, "columns") and hasattr(rows, "to_numpy")


def index_of(rows: Any) -> Any:
    """Row labels of a DataFrame; None for other types, and for frames without labels, such as polars frames."""
    return getattr(rows, "index", None) if is_frame(rows) else None


UNSAID = ("", "x", "column_")  # prefixes of numbered columns: pandas, unnamed features, polars
SHOWN = 4  # columns in a warning


def of_frame(rows: Any, names: Names) -> Any:
    """Rows, unchanged unless they are a DataFrame of pandas or polars: then its numbers, with the columns in the order
    of the feature names. Warns if the model has no feature names. Raises InvalidInput for a missing or unknown
    column."""
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
        raise errors.from_status("INVALID_ARGUMENT", str(error), error_code=error.code, hint=error.hint) from None
    numbers = np.asarray(rows.to_numpy())
    return numbers if order is None else numbers[:, order]


def _numbered(columns: Sequence[str]) -> bool:
    return any(list(columns) == [f"{word}{at}" for at in range(len(columns))] for word in UNSAID)


def _outside() -> int:
    """Number of stack frames above the caller up to the code outside this package, as `warnings.warn` counts."""
    level, frame = 1, inspect.currentframe()
    frame = frame.f_back if frame else None
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("kanserve."):
        level, frame = level + 1, frame.f_back
    return level


def dtype_of(what: str, name: str, datatype: str) -> np.dtype[np.generic]:
    """The type of an input or output (`what`). Raises NotSupported for a datatype that numpy does not have."""
    if datatype not in DTYPES:
        raise errors.from_status(
            "UNIMPLEMENTED",
            f"{what} {name} is {datatype}, which this client does not support",
            error_code="datatype-not-supported-by-client",
            hint="use tritonclient for this model",
        )
    return DTYPES[datatype]


def packed(described: Description, rows: Any) -> dict[str, Any]:
    """The row fields of an edge query, from an array or a DataFrame. Raises InvalidInput if rows of an input are
    missing."""
    rows = of_frame(rows, described.names)
    if not isinstance(rows, Mapping) and len(described.inputs) == 1:
        array = np.ascontiguousarray(rows, DTYPES[described.input.datatype])
        return {"rows": array.tobytes(), "row_count": len(array)}
    named_rows = pairs(described.inputs, rows)
    arrays = {tensor.name: np.ascontiguousarray(array, DTYPES[tensor.datatype]) for tensor, array in named_rows}
    inputs = [kan.InputRows(name=name, rows=array.tobytes()) for name, array in arrays.items()]
    return {"inputs": inputs, "row_count": max(map(len, arrays.values()))}


def pairs(tensors: TensorInfo | Sequence[TensorInfo], rows: Any) -> list[tuple[TensorInfo, Any]]:
    """Inputs with their rows. Raises InvalidInput if rows of an input are missing."""
    if isinstance(tensors, TensorInfo):
        return [(tensors, rows)]
    if not isinstance(rows, Mapping) or any(tensor.name not in rows for tensor in tensors):
        names = ", ".join(tensor.name for tensor in tensors)
        raise errors.from_status(
            "INVALID_ARGUMENT",
            f"the model has the inputs {names}, but rows of some of them are missing",
            error_code="input-missing",
            hint="pass a mapping with the rows of each input by name",
        )
    return [(tensor, rows[tensor.name]) for tensor in tensors]


def write_parameters(message: Any, parameters: Mapping[str, ParameterValue]) -> None:
    """Write parameters to the map of a message."""
    for name, value in parameters.items():
        kinds = {bool: "bool", int: "int64", float: "double"}  # a bool is an int too
        kind = next((kind for type_, kind in kinds.items() if isinstance(value, type_)), "string")
        setattr(message[name], f"{kind}_param", value)


def read_parameters(message: Mapping[str, Any]) -> dict[str, ParameterValue]:
    """Parameters of a message's map. A parameter without a value is omitted."""
    kinds = {name: parameter.WhichOneof("parameter_choice") for name, parameter in message.items()}
    return {name: getattr(message[name], kind) for name, kind in kinds.items() if kind is not None}
