"""Reader of numeric rows from .npy, .npz, .csv, .json, columnar files or stdin.

Every error names the file, the value found and the expected value.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.shared import array_files, csv_columns, csv_text
from kanexport.shared.cli.console import note
from kanexport.shared.cli.suggest import advice
from kanexport.shared.naming import UNNAMED, Names, NamingError
from kanserve.cli import columnar
from kanserve.cli.options import InputError
from kanserve.types import DTYPES, TensorInfo

INPUT_SUFFIXES = (".npy", ".npz", ".csv", ".json", *columnar.SUFFIXES)
MARKS = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", b"PAR1": ".parquet", b"ARROW1": ".arrow", b"FEA1": ".feather"}
AGAIN = "copy or write the file again"
JSON_KINDS: dict[type, str] = {str: "a string", bool: "a truth value", int: "a number", float: "a number"}
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
    """The contents of a file or of stdin ("-"). The command reads it before it sends a request.

    The suffix of the name gives the format of a file. The first bytes give the format of stdin. Raises InputError.
    """
    if source == "-":
        data = sys.stdin.buffer.read()
        return Contents("stdin", form_of(data), data)
    form = form_named(source)
    try:
        result = Contents(source, form, Path(source).read_bytes())
    except OSError as error:
        raise unreadable(source, error) from error
    if form in columnar.SUFFIXES:
        columnar.check(source, form)
    return result


def unreadable(source: str, error: OSError) -> InputError:
    """The error for a file that cannot be read."""
    return InputError(
        f"{source} cannot be read: {error.strerror}",
        code="rows-file-unreadable",
        hint="pass an existing file that you can read, or - for stdin",
    )


def form_named(source: str) -> str:
    """The format of a file, by the suffix of its name. Raises InputError."""
    suffix = Path(source).suffix.lower()
    if suffix not in INPUT_SUFFIXES:
        raise InputError(
            f"{source}: unknown file format {suffix or 'without a suffix'}, expected {', '.join(INPUT_SUFFIXES)}",
            code="rows-format-unknown",
            hint="convert the file to one of these formats, or pass - to read stdin",
        )
    return suffix


def rows_for(tensor: TensorInfo, source: Contents, *, array: str = "", names: Names = UNNAMED) -> Any:
    """Rows for the input `tensor`, [rows, *tensor.shape[1:]], in its dtype. Raises InputError.

    A file may contain flat rows in C order, as a CSV must, and may contain a single row. `array` selects one array of
    an .npz. If the features have `names`, the columns of a table, or of a CSV with a header, get their order.
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
                f"warning: {name} has column names, but the model has no feature names: columns are used in file order"
            )
        return None
    if header and len(header) != width:
        raise InputError(
            f"{name}: the header has {len(header)} columns, but the rows have {width}",
            code="rows-header-mismatch",
            hint="correct the header, or remove it",
        )
    try:
        return names.order(header)
    except NamingError as error:
        raise InputError(
            f"{name}: {error}",
            code="rows-columns-unknown",
            hint="list the features with `kanserve models NAME`, or remove the header to use the columns in file order",
        ) from error


def _table(source: Contents) -> tuple[Any, Sequence[str]]:
    """The numbers [rows, columns] of a file, and the names of the columns. Raises InputError."""
    if source.form == ".csv":
        with csv_errors():
            return csv_columns.whole(source.name, source.data)
    table = columnar.opened(source.name, source.form, io.BytesIO(source.data))
    return np.concatenate(list(table.parts())), table.columns


@contextlib.contextmanager
def csv_errors() -> Iterator[None]:
    """Turn errors about the text of a CSV into InputError."""
    try:
        yield
    except csv_text.CsvError as error:
        raise InputError(
            str(error),
            code=getattr(error, "code", "") or "rows-csv-invalid",
            hint=getattr(error, "hint", "") or "correct the file, or write it again",
        ) from error


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
        raise InputError(
            f"--array selects one array, but the model has {len(expected)} inputs",
            code="array-for-several-inputs",
            hint=f"remove --array and pass an .npz file with the arrays {', '.join(expected)}",
        )
    arrays = _several(source, expected)
    if set(arrays) != set(expected):
        raise InputError(
            f"{source.name}: found the arrays {', '.join(arrays) or '(none)'}, expected {', '.join(expected)}",
            code="rows-arrays-mismatch",
            hint="write one array for each input of the model, with the name of the input",
        )
    rows = {tensor.name: fit(f"{source.name}, {tensor.name}", arrays[tensor.name], tensor) for tensor in tensors}
    counts = {name: len(array) for name, array in rows.items()}
    if len(set(counts.values())) > 1:
        counted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(
            f"{source.name}: different numbers of rows, {counted}",
            code="rows-counts-differ",
            hint="write the same number of rows for each input",
        )
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
        f"{source.name} has one array, expected one for each input: {', '.join(names)}",
        code="rows-arrays-mismatch",
        hint="pass an .npz file with an array for each input, or a JSON object with a list of rows for each",
    )


def form_of(data: bytes) -> str:
    """The format of a file, by its first bytes."""
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
    with csv_errors():
        return csv_text.decode(source.name, source.data)


def _npy(source: Contents) -> Any:
    try:
        return np.lib.format.read_array(io.BytesIO(source.data), allow_pickle=False)
    except array_files.DAMAGED as error:
        raise InputError(
            f"{source.name} is not an .npy file of numbers: {error}", code="rows-file-damaged", hint=AGAIN
        ) from error


def _npz(source: Contents, tensor: TensorInfo, array: str) -> Any:
    with _archive(source) as archive:
        return archive[_array_name(source.name, list(archive.files), tensor, array)]


@contextlib.contextmanager
def _archive(source: Contents) -> Iterator[Any]:
    """An open .npz. Raises InputError, also if one of its arrays cannot be read."""
    try:
        with np.load(io.BytesIO(source.data), allow_pickle=False) as archive:
            yield archive
    except array_files.DAMAGED as error:
        raise InputError(
            f"{source.name} is not an .npz file of numbers: {error}", code="rows-file-damaged", hint=AGAIN
        ) from error


def _array_name(file: str, names: list[str], tensor: TensorInfo, array: str) -> str:
    """Name of the array of an .npz that has the rows. Raises InputError."""
    expected = array or (names[0] if len(names) == 1 else tensor.name)
    if expected in names:
        return expected
    if array and names:
        raise InputError(
            f"{file}: unknown array {array!r}", code="array-unknown", hint=advice(array, names, what="arrays")
        )
    raise InputError(
        f"{file}: found the arrays {', '.join(names) or '(none)'}, expected one array or one named {tensor.name!r}",
        code="array-ambiguous",
        hint="select one with --array NAME",
    )


def _json(name: str, text: str) -> Any:
    """A list of rows, a single row, or an object with one such list."""
    document = _document(name, text)
    if isinstance(document, dict):
        if len(document) != 1:
            raise InputError(
                f"{name}: found an object with {len(document)} keys, expected a list of rows",
                code="rows-json-invalid",
                hint="write a list of rows, such as [[0.1, 0.2], [0.3, 0.4]]",
            )
        document = next(iter(document.values()))
    return _json_rows(name, document)


def _document(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: {error}", code="rows-json-invalid", hint=AGAIN) from error


def _json_rows(name: str, document: Any) -> Any:
    if not isinstance(document, list):
        raise InputError(
            f"{name}: found {JSON_KINDS.get(type(document), 'another value')}, expected a list of rows",
            code="rows-json-invalid",
            hint="write a list of rows, such as [[0.1, 0.2], [0.3, 0.4]]",
        )
    try:
        return np.array(_json_numbers(name, document, ""), np.float64)
    except ValueError as error:
        raise InputError(
            f"{name}: the rows have different lengths",
            code="rows-lengths-differ",
            hint="write the same number of values in each row",
        ) from error


def _json_numbers(name: str, value: Any, where: str) -> Any:
    """Nested lists with every special number as a float; `where` is such as "[0][2]"."""
    if isinstance(value, list):
        return [_json_numbers(name, item, f"{where}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, str) and value in SPECIAL_NUMBERS:
        return SPECIAL_NUMBERS[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(
            f"{name}, {where or 'top level'}: found {json.dumps(value)}, expected a number",
            code="rows-not-numbers",
            hint="replace the value by a number",
        )
    return value


ANY = -1  # an extent that is not fixed


def fit(name: str, values: Any, tensor: TensorInfo, *, above: int = 0) -> Any:
    """`values` as [rows, *tensor.shape[1:]] in the tensor's dtype. Raises InputError if the shape differs, or if the
    dtype cannot represent a finite number. `name`: the file's name. `above`: rows of the file before these."""
    return converted(name, shaped(name, values, tensor), tensor.datatype, above=above)


def shaped(name: str, values: Any, tensor: TensorInfo) -> Any:
    """`values` as [rows, *tensor.shape[1:]], without a copy, in the dtype that they have. Raises InputError."""
    if values.dtype.kind not in "biuf":
        raise InputError(
            f"{name}: found values of type {values.dtype}, expected numbers",
            code="rows-not-numbers",
            hint="convert the array to numbers",
        )
    if values.ndim == 0:
        raise InputError(
            f"{name} is a scalar, expected an array of {_shape_expected(tensor)}",
            code="rows-scalar",
            hint="write an array with one row for each prediction",
        )
    if tensor.datatype not in DTYPES:
        raise InputError(
            f"input {tensor.name!r} of the model has the datatype {tensor.datatype}, which this command cannot send",
            code="datatype-not-supported",
            hint="send the request with a gRPC client, such as tritonclient",
        )
    rows = _as_rows(values, tensor.shape[1:])
    if not _matches(rows.shape[1:], tensor.shape[1:]):
        raise InputError(
            f"{name}: found {_shape_found(rows)}, expected {_shape_expected(tensor)} for input {tensor.name!r}",
            code="rows-wrong-width",
            hint="pass rows with one value for each number of the input; `kanserve models NAME` shows the model",
        )
    return rows


def streams(tensor: TensorInfo, width: int) -> bool:
    """True if rows of `width` numbers fit a model's input in chunks. They do not if a whole file may be one row."""
    extents = tensor.shape[1:]
    return len(extents) == 1 or (ANY not in extents and width == math.prod(extents))


def _as_rows(values: Any, expected: tuple[int, ...]) -> Any:
    """No rows, a single row and flat rows as [rows, *expected]. Other values stay unchanged."""
    if values.shape[0] == 0:
        return values.reshape(0, *(1 if size == ANY else size for size in expected))
    if len(expected) == 1:
        return _as_vectors(values, expected[0])
    if ANY in expected or not expected:
        return values
    flat = values.ndim <= 2 and values.shape[-1] == math.prod(expected)
    return values.reshape(-1, *expected) if flat or values.shape == expected else values


def _as_vectors(values: Any, size: int) -> Any:
    """Values with a row axis. A single axis is one row, or many rows if the model's input is one number."""
    if values.ndim != 1:
        return values
    return values[:, None] if size == 1 else values[None, :]


def _matches(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(size in (ANY, have) for size, have in zip(expected, shape, strict=True))


def _shape_found(rows: Any) -> str:
    return f"{rows.shape[1]} columns" if rows.ndim == 2 else f"shape {rows.shape}"


def _shape_expected(tensor: TensorInfo) -> str:
    extents = tensor.shape[1:]
    if len(extents) == 1:
        return f"{extents[0]} columns"
    flat = "" if ANY in extents or not extents else f" or {math.prod(extents)} columns"
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
        raise InputError(
            f"{name}, value {place}: {rows[at]!s} is out of the range of {datatype}",
            code="rows-value-out-of-range",
            hint=f"pass values that {datatype} can represent",
        )
    return result
