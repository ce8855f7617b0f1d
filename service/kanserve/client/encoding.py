"""Conversion between arrays, DataFrames and messages. Optional packages are imported on use."""

from __future__ import annotations

import dataclasses
import decimal
import functools
import importlib
import inspect
import numbers
import sys
import warnings
from collections.abc import Hashable, Mapping, MutableSequence, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from google.protobuf.message import Message

from kanexport.shared.naming import Names, NamingError
from kanserve.client import errors
from kanserve.client.errors import ArgumentError, ClientError
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.pb import kan_pb2 as kan
from kanserve.pb.wire import varint
from kanserve.types import DTYPES, Description, ParameterValue, TensorInfo

T = TypeVar("T")


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


def frame(values: Any, names: Sequence[str] | None = None, *, index: Any = None) -> Any:
    """A pandas DataFrame of columns by name, or of `values` [rows, columns] with their names. `index`: row labels;
    None: numbers."""
    pandas = needed("pandas", "to_frame()", "its arrays have the same numbers")
    return pandas.DataFrame(values, columns=names, index=index)


def is_frame(rows: Any) -> bool:
    """True if rows are a DataFrame of pandas or polars."""
    return type(rows) is not np.ndarray and hasattr(rows, "columns") and hasattr(rows, "to_numpy")


def index_of(rows: Any) -> Any:
    """Row labels of a DataFrame; None for other types, and for frames without labels, such as polars frames."""
    return getattr(rows, "index", None) if is_frame(rows) else None


UNSAID = ("", "x", "column_")  # prefixes of numbered columns: pandas, unnamed features, polars
SHOWN = 4  # columns in a warning


def of_frame(rows: Any, names: Names) -> Any:
    """Rows, unchanged unless they are a DataFrame of pandas or polars: then its numbers, with the columns in the order
    of the feature names. Warns if the model has no feature names. Raises InvalidInput for a missing or unknown
    column, and for a value that is missing or not a number."""
    if not is_frame(rows):
        return rows
    columns = [str(column) for column in rows.columns]
    numbered = any(columns == [f"{word}{at}" for at in range(len(columns))] for word in UNSAID)
    if not (names.features or numbered):
        shown = ", ".join(columns[:SHOWN]) + (" ..." if len(columns) > SHOWN else "")
        level, frame = 1, inspect.currentframe()  # the warning is about the first frame outside of this package
        while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("kanserve."):
            level, frame = level + 1, frame.f_back
        warnings.warn(
            f"the DataFrame has the columns {shown}, but the model has no feature names: the order of columns was used",
            stacklevel=level,
        )
    try:
        order = names.order(columns)
    except NamingError as error:
        raise errors.from_status("INVALID_ARGUMENT", str(error), error_code=error.code, hint=error.hint) from None
    values = np.asarray(rows.to_numpy())
    check_numbers("the DataFrame", values, columns)
    for at, column in enumerate(columns):  # `to_numpy` makes NaN of a null in some types
        if _nulls(rows, at):
            text = f"the DataFrame, column {column!r}: found no value (null), expected numbers"
            raise _wrong(text, "rows-value-missing", FILL_IN)
    return values if order is None else values[:, order]


def _nulls(rows: Any, at: int) -> bool:
    """True if a column of a DataFrame has nulls. NaN in a column of numpy's types is a number."""
    if not hasattr(rows, "iloc"):
        return bool(rows[:, at].null_count())
    return not isinstance(rows.dtypes.iloc[at], np.dtype) and bool(rows.iloc[:, at].isna().any())


def version_text(version: int | str) -> str:
    """A version as messages have it. Raises ArgumentError for a value of another type."""
    if isinstance(version, str):
        return version
    if isinstance(version, int | np.integer) and not isinstance(version, bool):
        return str(version)
    raise ArgumentError(
        f"version is {version!r}, expected a number such as 2",
        code="argument-invalid",
        hint="pass a number, or no version for the default version",
    )


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


FILL_IN = "fill in the missing values, or remove these rows"


def array_of(tensor: TensorInfo, values: Any) -> np.ndarray[Any, np.dtype[np.generic]]:
    """Rows of an input as an array of its datatype. Raises InvalidInput for values that are not numbers or that the
    datatype cannot represent, and for rows of different lengths; NotSupported for a datatype that numpy does not
    have."""
    dtype = dtype_of("input", tensor.name, tensor.datatype)
    if type(values) is np.ndarray and values.dtype == dtype and values.flags.c_contiguous:
        return values
    what = f"input {tensor.name}"
    try:
        array = np.asarray(values)
        check_numbers(what, array)
        with np.errstate(over="ignore", invalid="ignore"):
            result = array.astype(dtype, copy=False)
    except (ValueError, TypeError, OverflowError) as error:
        text = f"{what}: {error}, expected rows of one length with numbers for {tensor.datatype}"
        hint = "pass an array, or a list of rows of the same length"
        raise _wrong(text, "rows-not-numbers", hint) from None
    if array.dtype != dtype:
        # Finite numbers stay finite, and whole numbers stay the same.
        before = array.astype(np.float64) if array.dtype.kind == "O" else array
        lost = np.isfinite(before) & ~np.isfinite(result) if dtype.kind == "f" else result != array
        if np.any(lost):
            at = tuple(int(i) for i in np.argwhere(lost)[0])
            text = f"{what}, value {list(at)}: {array[at]!s} is out of the range of {tensor.datatype}"
            raise _wrong(text, "rows-value-out-of-range", f"pass values that {tensor.datatype} can represent")
    return np.ascontiguousarray(result) if result.ndim else result


def check_numbers(what: str, values: Any, columns: Sequence[str] = ()) -> None:
    """Raises InvalidInput for a missing value or a value that is not a number. `what`: start of the message.
    `columns`: names of the columns of a table."""
    if values.dtype.kind not in "OSUTcmM":
        return
    for at, value in np.ndenumerate(values):
        if isinstance(value, numbers.Real | np.bool_ | decimal.Decimal):
            continue
        place = f"row {at[0]}, column {columns[at[1]]!r}" if columns else f"value {list(at)}"
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            raise _wrong(f"{what}, {place}: found no value ({value}), expected a number", "rows-value-missing", FILL_IN)
        text = f"{what}, {place}: found {str(value)[:40]!r}, expected a number"
        raise _wrong(text, "rows-not-numbers", "convert the values to numbers, or remove the column")


def _wrong(text: str, code: str, hint: str) -> ClientError:
    return errors.from_status("INVALID_ARGUMENT", text, error_code=code, hint=hint)


def packed(described: Description, rows: Any) -> dict[str, Any]:
    """The row fields of an edge query, from an array or a DataFrame. Raises InvalidInput if rows of an input are
    missing."""
    rows = of_frame(rows, described.names)
    if not isinstance(rows, Mapping) and len(described.inputs) == 1:
        array = array_of(described.input, rows)
        return {"rows": array.tobytes(), "row_count": len(array)}
    named_rows = pairs(described.inputs, rows)
    arrays = {tensor.name: array_of(tensor, array) for tensor, array in named_rows}
    inputs = [kan.InputRows(name=name, rows=array.tobytes()) for name, array in arrays.items()]
    return {"inputs": inputs, "row_count": max(map(len, arrays.values()))}


def pairs(tensors: TensorInfo | Sequence[TensorInfo], rows: Any) -> list[tuple[TensorInfo, Any]]:
    """Inputs with their rows. Raises InvalidInput if rows of an input are missing."""
    if isinstance(tensors, TensorInfo):
        return [(tensors, rows)]
    if not isinstance(rows, Mapping) or any(tensor.name not in rows for tensor in tensors):
        names = ", ".join(tensor.name for tensor in tensors)
        text = f"the model has the inputs {names}, but rows of some of them are missing"
        raise _wrong(text, "input-missing", "pass a mapping with the rows of each input by name")
    return [(tensor, rows[tensor.name]) for tensor in tensors]


Inputs = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, datatype and shape of each
RAW = b"\x3a"  # key of raw_input_contents, the last field of a ModelInferRequest


def head_of(
    model: str, version: str, inputs: Inputs, outputs: tuple[str, ...], parameters: Mapping[str, ParameterValue]
) -> bytes:
    """A serialized ModelInferRequest without the contents of its inputs."""
    request = oip.ModelInferRequest(model_name=model, model_version=version)
    for name, datatype, shape in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        request.outputs.add(name=name)
    write_parameters(request.parameters, parameters)
    return request.SerializeToString()


@functools.lru_cache(maxsize=256)
def plain_head(model: str, version: str, inputs: Inputs, outputs: tuple[str, ...]) -> bytes:
    """The same without parameters. Calls with rows of one shape share it."""
    return head_of(model, version, inputs, outputs, {})


def with_contents(head: bytes, arrays: Sequence[Any]) -> bytes:
    """A serialized ModelInferRequest from its head and the contiguous arrays of its inputs."""
    parts: list[Any] = [head]
    for array in arrays:
        parts += RAW, varint(array.nbytes), array
    return b"".join(parts)


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


def from_fields(kind: type[T], message: Message, **others: Any) -> T:
    """A dataclass from the fields of a message with the same names. Lists become tuples. `others`: the fields that have
    another name or form in the message."""
    values = {
        name: tuple(getattr(message, name)) if repeated else getattr(message, name)
        for name, repeated in _shared_fields(cast(Hashable, kind), cast(Hashable, type(message)))
        if name not in others
    }
    return kind(**values, **others)


@functools.cache
def _shared_fields(kind: Any, message: Any) -> list[tuple[str, bool]]:
    """The fields that a dataclass and a message share, and whether they are lists."""
    empty = message()
    names = [field.name for field in dataclasses.fields(kind) if field.name in message.DESCRIPTOR.fields_by_name]
    return [(name, isinstance(getattr(empty, name), MutableSequence)) for name in names]
