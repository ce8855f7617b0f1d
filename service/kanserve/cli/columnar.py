"""Reader of Parquet, Arrow IPC and Feather files in chunks of rows. Only this module of kanserve imports pyarrow."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from kanexport.shared.cli.suggest import how_to_install
from kanserve.cli.options import InputError

SUFFIXES = (".parquet", ".arrow", ".feather")
ROWS = 2**15  # rows of a part, at most
INDEX = "__index_level_"  # pandas writes the index of a DataFrame as this column; it is not a feature


def check(name: str, form: str) -> None:
    """Reject a form that needs pyarrow if it is not installed. Raises InputError."""
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            f"{name}: a {form} file needs the Python package pyarrow, which is not installed",
            code="package-not-installed",
            hint=f"{how_to_install('tables')}; or convert the file to .npy, .npz, .csv or .json",
        )


@dataclass(frozen=True, slots=True)
class Table:
    """Columnar file. `rows`: the number of rows, 0 if it is not known before they are read."""

    name: str
    columns: tuple[str, ...]
    rows: int
    batches: Iterator[Any]

    def parts(self) -> Iterator[Any]:
        """Numbers [rows, columns], in the order of the file. Raises InputError, which names the row and the column."""
        done = 0
        with _readable_errors(self.name):
            for batch in self.batches:
                batch.validate(full=True)  # pyarrow reads outside of the memory of a damaged batch
                for start in range(0, batch.num_rows, ROWS):
                    part = batch.slice(start, ROWS)
                    yield _numbers(self.name, self.columns, part, done)
                    done += part.num_rows
        if not done:
            yield np.zeros((0, len(self.columns)))


def opened(name: str, form: str, file: BinaryIO) -> Table:
    """The table in a `file`. Raises InputError."""
    check(name, form)
    with _readable_errors(name):
        if form == ".parquet":
            schema, rows, batches = _parquet(file)
        else:
            schema, rows, batches = _arrow(file)
        columns = tuple(field.name for field in schema if not field.name.startswith(INDEX))
    if not columns:
        raise InputError(
            f"{name} has no columns, expected columns of numbers",
            code="rows-without-columns",
            hint="write one column for each input of the model",
        )
    for field in schema:
        if field.name in columns and not _holds_numbers(field.type):
            raise InputError(
                f"{name}, column {field.name!r}: found values of type {field.type}, expected numbers",
                code="rows-not-numbers",
                hint="convert the column to numbers, or remove it if it is not an input of the model",
            )
    return Table(name, columns, rows, batches)


def _holds_numbers(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _parquet(file: BinaryIO) -> tuple[Any, int, Iterator[Any]]:
    from pyarrow import parquet

    table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
    return table.schema_arrow, table.metadata.num_rows, table.iter_batches(batch_size=ROWS)


def _arrow(file: BinaryIO) -> tuple[Any, int, Iterator[Any]]:
    """An Arrow IPC file, which includes Feather, an Arrow IPC stream, or a Feather file from before 2020."""
    import pyarrow as pa
    from pyarrow import feather

    mark = file.read(6)
    file.seek(0)
    if mark.startswith(b"FEA1"):
        table = feather.read_table(file)
        return table.schema, table.num_rows, iter(table.to_batches())
    if mark != b"ARROW1":
        stream = pa.ipc.open_stream(file)
        return stream.schema, 0, iter(stream)
    reader = pa.ipc.open_file(file)
    return reader.schema, 0, (reader.get_batch(at) for at in range(reader.num_record_batches))


def _numbers(name: str, columns: Sequence[str], batch: Any, above: int) -> Any:
    """The columns of a batch as one array, in the type that holds all of them."""
    arrays = [
        _column(name, column, values, above)
        for column, values in zip(batch.schema.names, batch, strict=True)
        if column in columns
    ]
    rows = np.empty((batch.num_rows, len(arrays)), np.result_type(*arrays))
    for at, array in enumerate(arrays):
        rows[:, at] = array
    return rows


def _column(name: str, column: str, values: Any, above: int) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
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
def _readable_errors(name: str) -> Iterator[None]:
    """Turn errors of pyarrow about a file into InputError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"{name} cannot be read as a table: {first}",
            code="rows-file-damaged",
            hint="copy or write the file again",
        ) from error
