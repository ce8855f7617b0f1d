"""Reader of numeric rows from .npy, .npz, .csv, .json, columnar files or stdin.

Every error names the file, the value found and the expected value.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kanexport.shared import csv_columns, csv_text
from kanexport.shared.cli.console import note
from kanexport.shared.cli.suggest import advice, how_to_install
from kanexport.shared.naming import UNNAMED, Names, NamingError
from kanserve.tables import record_batches
from kanserve.tables.errors import InputError, TableError
from kanserve.tables.record_batches import COPY_AGAIN as AGAIN
from kanserve.types import DTYPES, TensorInfo

TABLES = (".parquet", ".arrow", ".feather")
INPUT_SUFFIXES = (".npy", ".npz", ".csv", ".json", *TABLES)
MARKS = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", b"PAR1": ".parquet", b"ARROW1": ".arrow", b"FEA1": ".feather"}
LIST_OF_ROWS = "write a list of rows, such as [[0.1, 0.2], [0.3, 0.4]]"
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
    check_package(source, form)
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
    if source.form == ".csv" or source.form in TABLES:
        header: Sequence[str]
        if source.form == ".csv":
            with csv_errors(source.name):
                values, header = csv_columns.whole(source.name, source.data)
        else:
            header, _, parts = table(source.name, source.form, io.BytesIO(source.data))
            values = np.concatenate(list(parts))
        order = order_of(source.name, header, values.shape[1], names)
        values = values if order is None else values[:, order]
    elif source.form == ".npy":
        with array_errors(source.name, ".npy"):
            values = np.lib.format.read_array(io.BytesIO(source.data), allow_pickle=False)
    elif source.form == ".npz":
        with array_errors(source.name, ".npz"), np.load(io.BytesIO(source.data), allow_pickle=False) as archive:
            values = archive[_array_name(source.name, list(archive.files), tensor, array)]
    else:
        document = _document(source)
        if isinstance(document, dict):
            if len(document) != 1:
                raise InputError(
                    f"{source.name}: found an object with {len(document)} keys, expected a list of rows",
                    code="rows-json-invalid",
                    hint=LIST_OF_ROWS,
                )
            document = next(iter(document.values()))
        values = _json_rows(source.name, document)
    return fit(source.name, values, tensor)


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


def table(name: str, form: str, file: BinaryIO) -> tuple[tuple[str, ...], int, Iterator[Any]]:
    """Columns of a Parquet, Arrow IPC or Feather `file`; the number of its rows, 0 if it is not known before they are
    read; and the numbers [rows, columns] of its parts. Raises InputError, also during the iteration."""
    check_package(name, form)
    with _table_errors(name):
        source = record_batches.opened(file, record_batches.SUFFIXES[form])
    used = [not field.name.startswith(record_batches.INDEX) for field in source.schema]
    fields = list(itertools.compress(source.schema, used))
    if not fields:
        raise InputError(
            f"{name} has no columns, expected columns of numbers",
            code="rows-without-columns",
            hint="write one column for each input of the model",
        )
    for field in fields:
        if not record_batches.holds_numbers(field.type):
            raise InputError(
                f"{name}, column {field.name!r}: found values of type {field.type}, expected numbers",
                code="rows-not-numbers",
                hint="convert the column to numbers, or remove it if it is not an input of the model",
            )

    def parts() -> Iterator[Any]:
        part = None
        with _table_errors(name):
            for part in source.parts():
                with record_batches.readable_errors():
                    part.batch.validate(full=True)  # pyarrow reads outside of the memory of a damaged batch
                columns = itertools.compress(part.batch, used)
                arrays = [_column(name, field.name, at, part.first) for field, at in zip(fields, columns, strict=True)]
                rows = np.empty((part.batch.num_rows, len(arrays)), np.result_type(*arrays))
                for at, array in enumerate(arrays):
                    rows[:, at] = array
                yield rows
        if part is None:
            yield np.zeros((0, len(fields)))

    return tuple(field.name for field in fields), source.rows, parts()


def check_package(name: str, form: str) -> None:
    """Reject a form that needs pyarrow if it is not installed. Raises InputError."""
    if form in TABLES and importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            f"{name}: a {form} file needs the Python package pyarrow, which is not installed",
            code="package-not-installed",
            hint=f"{how_to_install('tables')}; or convert the file to .npy, .npz, .csv or .json",
        )


def _column(name: str, column: str, values: Any, above: int) -> Any:
    """The numbers of a column. `above`: rows of the file before these. Raises InputError for a null."""
    if hasattr(values, "dictionary_decode"):
        values = values.dictionary_decode()
    if values.null_count:
        row = above + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(
            f"{name}, row {row}, column {column!r}: found no value (null), expected a number",
            code="rows-value-missing",
            hint="fill in the missing values, or remove these rows",
        )
    return values.to_numpy(zero_copy_only=False)


@contextlib.contextmanager
def _table_errors(name: str) -> Iterator[None]:
    """Turn errors about a damaged table into InputError."""
    try:
        yield
    except TableError as error:
        reason = str(error).removeprefix("it cannot be read as a table: ")
        raise InputError(f"{name} cannot be read as a table: {reason}", code="rows-file-damaged", hint=AGAIN) from error
    except OSError as error:
        raise unreadable(name, error) from error


@contextlib.contextmanager
def array_errors(name: str, form: str) -> Iterator[None]:
    """Turn errors of numpy about an .npy or .npz file into InputError."""
    try:
        yield
    except csv_columns.DAMAGED as error:
        raise InputError(
            f"{name} is not an {form} file of numbers: {error}", code="rows-file-damaged", hint=AGAIN
        ) from error


@contextlib.contextmanager
def csv_errors(name: str) -> Iterator[None]:
    """Turn errors about the text of a CSV, and of its file, into InputError."""
    try:
        yield
    except csv_text.CsvError as error:
        raise InputError(
            str(error),
            code=getattr(error, "code", "") or "rows-csv-invalid",
            hint=getattr(error, "hint", "") or "correct the file, or write it again",
        ) from error
    except OSError as error:
        raise unreadable(name, error) from error


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
    document = _document(source) if source.form == ".json" else None
    if source.form == ".npz":
        with array_errors(source.name, ".npz"), np.load(io.BytesIO(source.data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    elif isinstance(document, dict):
        arrays = {name: _json_rows(f"{source.name}, {name}", value) for name, value in document.items()}
    else:
        raise InputError(
            f"{source.name} has one array, expected one for each input: {', '.join(expected)}",
            code="rows-arrays-mismatch",
            hint="pass an .npz file with an array for each input, or a JSON object with a list of rows for each",
        )
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


def form_of(data: bytes) -> str:
    """The format of a file, by its first bytes."""
    for mark, form in MARKS.items():
        if data.startswith(mark):
            return form
    return ".json" if data.lstrip()[:1] in (b"[", b"{") else ".csv"


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


def _document(source: Contents) -> Any:
    """The JSON document of a file. Raises InputError."""
    with csv_errors(source.name):
        text = csv_text.decode(source.name, source.data)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source.name} is not valid JSON: {error}", code="rows-json-invalid", hint=AGAIN) from error


def _json_rows(name: str, document: Any) -> Any:
    if not isinstance(document, list):
        raise InputError(
            f"{name}: found {JSON_KINDS.get(type(document), 'another value')}, expected a list of rows",
            code="rows-json-invalid",
            hint=LIST_OF_ROWS,
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
    expected = tensor.shape[1:]
    rows = _as_rows(values, expected)
    if rows.ndim != 1 + len(expected) or any(
        size not in (ANY, own) for size, own in zip(expected, rows.shape[1:], strict=True)
    ):
        shape = f"{rows.shape[1]} columns" if rows.ndim == 2 else f"shape {rows.shape}"
        raise InputError(
            f"{name}: found {shape}, expected {_shape_expected(tensor)} for input {tensor.name!r}",
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
        if values.ndim != 1:
            return values
        # A single axis is one row, or many rows if the model's input is one number.
        return values[:, None] if expected[0] == 1 else values[None, :]
    if ANY in expected or not expected:
        return values
    flat = values.ndim <= 2 and values.shape[-1] == math.prod(expected)
    return values.reshape(-1, *expected) if flat or values.shape == expected else values


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
