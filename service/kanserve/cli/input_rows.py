"""Reader of numeric rows from .npy, .npz, .csv, .json, columnar files or stdin.

Every error names the file, the value found and the expected value.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.contract import csv_columns, csv_text
from kanexport.contract.cli.console import note
from kanexport.contract.cli.suggest import advice
from kanexport.contract.naming import UNNAMED, Names, NamingError
from kanserve.cli import columnar
from kanserve.cli.options import InputError
from kanserve.types import DTYPES, TensorInfo

INPUT_SUFFIXES = (".npy", ".npz", ".csv", ".json", *columnar.SUFFIXES)
MARKS = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", b"PAR1": ".parquet", b"ARROW1": ".arrow", b"FEA1": ".feather"}
SPECIAL_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True, slots=True)
class Contents:
    """File that was read and not parsed.

    name  its name for messages
    form  its format, such as ".csv"
    data  its bytes
    """

    name: str
    form: str
    data: bytes


def contents(source: str) -> Contents:
    """The contents of a file or of stdin ("-"), before a server is asked anything.

    The form is the suffix, for stdin what the content looks like. Raises InputError.
    """
    if source == "-":
        data = sys.stdin.buffer.read()
        return Contents("stdin", form_of(data), data)
    form = form_named(source)
    try:
        result = Contents(source, form, Path(source).read_bytes())
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error
    if form in columnar.SUFFIXES:
        columnar.check(source, form)
    return result


def form_named(source: str) -> str:
    """The form of a file, by the suffix of its name. Raises InputError."""
    suffix = Path(source).suffix.lower()
    if suffix not in INPUT_SUFFIXES:
        raise InputError(
            f"{source}: the name must end in one of {', '.join(INPUT_SUFFIXES)}, or be - for stdin; "
            f"found {suffix or 'no suffix'}"
        )
    return suffix


def rows_for(tensor: TensorInfo, source: Contents, *, array: str = "", names: Names = UNNAMED) -> Any:
    """Rows for the input `tensor`, [rows, *tensor.shape[1:]], in its dtype. Raises InputError.

    A file may hold each row flat, in C order, as a CSV must, and may hold one row alone.
    `array` picks one array of an .npz. If the features have `names`, the columns of a table, or of a CSV with a header,
    get their order.
    """
    if source.form != ".csv" and source.form not in columnar.SUFFIXES:
        return fit(source.name, _numbers_of(source, tensor, array), tensor)
    numbers, header = _table(source)
    order = order_of(source.name, header, numbers.shape[1], names)
    return fit(source.name, numbers if order is None else numbers[:, order], tensor)


def order_of(name: str, header: Sequence[str], width: int, names: Names) -> list[int] | None:
    """The position of each feature of the model in a row of `width` columns, by the names in the `header` of the file.
    None: the columns are in this order already. Without feature names, the command uses the order of the columns, and
    prints a warning on stderr. Raises InputError for a header with other names."""
    header = [column.strip() for column in header]
    if not names.features:
        if header and header != [names.feature(at) for at in range(width)]:
            note(
                f"warning: {name} names its columns, but the model has no feature names: the order of columns was used"
            )
        return None
    if header and len(header) != width:
        raise InputError(f"{name}: the header names {len(header)} columns, the rows below it have {width}")
    try:
        return names.order(header)
    except NamingError as error:
        raise InputError(
            f"{name}: {error}",
            hint="`kanserve models NAME` lists the features; a file without a header is taken as it stands",
        ) from error


def _table(source: Contents) -> tuple[Any, Sequence[str]]:
    """The numbers [rows, columns] of a file, and the names of the columns. Raises InputError."""
    try:
        if source.form == ".csv":
            return csv_columns.whole(source.name, source.data)
    except csv_text.CsvError as error:
        raise InputError(str(error)) from error
    table = columnar.opened(source.name, source.form, io.BytesIO(source.data))
    return np.concatenate(list(table.parts())), table.columns


def count(rows: Any) -> int:
    """Number of rows that `rows_for_all` returned."""
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)


def rows_for_all(tensors: Sequence[TensorInfo], source: Contents, *, array: str = "", names: Names = UNNAMED) -> Any:
    """Rows for all inputs of a model: as `rows_for` for one; for several a dictionary by their names, from
    an .npz or a JSON object with all of them. Raises InputError."""
    if len(tensors) == 1:
        return rows_for(tensors[0], source, array=array, names=names)
    expected = [tensor.name for tensor in tensors]
    if array:
        raise InputError(f"--array picks one array; the model has the inputs {', '.join(expected)}")
    arrays = _several(source, expected)
    if set(arrays) != set(expected):
        raise InputError(
            f"{source.name} holds {', '.join(arrays) or 'no array'}; the model has the inputs {', '.join(expected)}"
        )
    rows = {tensor.name: fit(f"{source.name}, {tensor.name}", arrays[tensor.name], tensor) for tensor in tensors}
    counts = {name: len(array) for name, array in rows.items()}
    if len(set(counts.values())) > 1:
        counted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"{source.name}: the inputs differ in their number of rows: {counted}")
    return rows


def _several(source: Contents, names: Sequence[str]) -> dict[str, Any]:
    """All arrays of a file by name. Raises InputError."""
    if source.form == ".npz":
        with _archive(source) as archive:
            return {name: archive[name] for name in archive.files}
    if source.form == ".json":
        document = _document(source.name, _text(source))
        if isinstance(document, dict):
            return {name: _json_rows(f"{source.name}, {name}", value) for name, value in document.items()}
    raise InputError(
        f"{source.name} holds one array; the model has the inputs {', '.join(names)}",
        hint="an .npz with an array for each, or a JSON object with a list of rows for each",
    )


def form_of(data: bytes) -> str:
    """The form of a file, by its first bytes."""
    for mark, form in MARKS.items():
        if data.startswith(mark):
            return form
    return ".json" if data.lstrip()[:1] in (b"[", b"{") else ".csv"


def _numbers_of(source: Contents, tensor: TensorInfo, array: str) -> Any:
    """The file's numbers in the shape that it has. Raises InputError."""
    if source.form == ".npy":
        return _npy(source)
    if source.form == ".npz":
        return _npz(source, tensor, array)
    return _json(source.name, _text(source))


def _text(source: Contents) -> str:
    try:
        return csv_text.decode(source.name, source.data)
    except csv_text.CsvError as error:
        raise InputError(str(error)) from error


def _npy(source: Contents) -> Any:
    try:
        return np.lib.format.read_array(io.BytesIO(source.data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{source.name} is not an .npy file of numbers: {error}") from error


def _npz(source: Contents, tensor: TensorInfo, array: str) -> Any:
    with _archive(source) as archive:
        return archive[_array_name(source.name, list(archive.files), tensor, array)]


@contextlib.contextmanager
def _archive(source: Contents) -> Iterator[Any]:
    """An open .npz. Raises InputError, also where an array of it cannot be read."""
    try:
        with np.load(io.BytesIO(source.data), allow_pickle=False) as archive:
            yield archive
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{source.name} is not an .npz file of numbers: {error}") from error


def _array_name(file: str, names: list[str], tensor: TensorInfo, array: str) -> str:
    """Name of the array of an .npz that has the rows. Raises InputError."""
    expected = array or (names[0] if len(names) == 1 else tensor.name)
    if expected in names:
        return expected
    if array and names:
        raise InputError(f"{file} has no array {array!r}", hint=advice(array, names, what="it holds"))
    raise InputError(
        f"{file} holds the arrays {', '.join(names) or '(none)'}; one alone, or one called "
        f"{tensor.name!r} like the model's input, was expected",
        hint="--array NAME picks one",
    )


def _json(name: str, text: str) -> Any:
    """A list of rows, one row alone, or an object with one such list."""
    document = _document(name, text)
    if isinstance(document, dict):
        if len(document) != 1:
            raise InputError(f"{name} is an object with {len(document)} keys; a list of rows was expected")
        document = next(iter(document.values()))
    return _json_rows(name, document)


def _document(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}") from error


def _json_rows(name: str, document: Any) -> Any:
    if not isinstance(document, list):
        raise InputError(f"{name} holds {type(document).__name__}; a list of rows was expected")
    try:
        return np.array(_json_numbers(name, document, ""), np.float64)
    except ValueError as error:
        raise InputError(f"{name}: the rows have different lengths") from error


def _json_numbers(name: str, value: Any, where: str) -> Any:
    """Nested lists with every special number as a float; `where` is such as "[0][2]"."""
    if isinstance(value, list):
        return [_json_numbers(name, item, f"{where}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, str) and value in SPECIAL_NUMBERS:
        return SPECIAL_NUMBERS[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}, {where or 'top level'}: found {json.dumps(value)}; a number was expected")
    return value


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
    """True if rows of `width` numbers fit a model's input in chunks. They do not if a whole file may be one row."""
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
    """Values with a row axis. A single axis is one row, or many rows of one number for a model that takes one."""
    if values.ndim != 1:
        return values
    return values[:, None] if size == 1 else values[None, :]


def _matches(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(want in (ANY, have) for want, have in zip(expected, shape, strict=True))


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
        result = rows.astype(DTYPES[datatype])
    # Finite numbers stay finite, and whole numbers stay the same.
    lost = np.isfinite(rows) & ~np.isfinite(result) if result.dtype.kind == "f" else result != rows
    if lost.any():
        at = tuple(int(i) for i in np.argwhere(lost)[0])
        place = [above + at[0], *at[1:]]
        raise InputError(f"{name}, value {place}: {rows[at]!s} does not fit into {datatype}")
    return result
