"""Table files as record batches, and back: Parquet, Arrow IPC and CSV, in bounded memory."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Self, TextIO

from kanexport.shared import csv_text
from kanexport.shared.cli.suggest import how_to_install
from kanserve.errors import BadRequest, ConfigError
from kanserve.tables.errors import TableError

PARQUET, ARROW, CSV = FORMS = ("parquet", "arrow", "csv")
SUFFIXES = {
    ".parquet": PARQUET,
    ".pq": PARQUET,
    ".arrow": ARROW,
    ".ipc": ARROW,
    ".feather": ARROW,
    ".csv": CSV,
}
BATCH_BYTES = 2**24  # of the numbers of a batch
LEAST_ROWS, MOST_ROWS = 2**10, 2**16  # of a batch
BUFFERS = 2**26  # bytes of the buffers of all columns together
LEAST_BUFFER, MOST_BUFFER = 2**16, 2**23  # of the buffer of a column
GROUP_BYTES, MOST_GROUP = 2**25, 2**20  # of a row group of a result: bytes and rows
HEAD = 2**20  # bytes in which a CSV has its header
BLOCK = 2**22  # bytes of a CSV that are parsed at a time
INDEX = "__index_level_"  # pandas writes the index of a DataFrame as this column; it is not a feature
COPY_AGAIN = "copy or write the file again"
NO_VALUE = ("", "null", "NULL", "NA", "N/A", "n/a", "#N/A", "#NA")  # cells of a CSV without a number; NaN is a number


def arrow() -> Any:
    """The module pyarrow. Raises ConfigError if it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigError(
            "tables need the Python package pyarrow, which is not installed",
            code="package-not-installed",
            hint=how_to_install("tables"),
        ) from error
    return pyarrow


def first_line(error: Exception) -> str:
    """The first line of the text of an error."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def holds_numbers(kind: Any) -> bool:
    """Whether a column of this pyarrow type has numbers or truth values."""
    types = arrow().types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def feature_columns(schema: Any) -> list[str]:
    """The names of the columns of a table, without the index of a DataFrame."""
    return [name for name in schema.names if not name.startswith(INDEX)]


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of a table.

    batch  record batch
    place  the part of the file, such as "row group 3"; empty if the file has no parts
    first  row of the file
    """

    batch: Any
    place: str
    first: int


@dataclass(frozen=True, slots=True)
class Source:
    """Open table.

    rows   number of its rows; 0 if it is not known
    names  whether its columns have names
    file   open file of pyarrow, or that of a CSV; for Parquet with its metadata
    """

    form: str
    schema: Any
    rows: int
    names: bool
    file: Any

    def keeping(self, columns: Collection[str]) -> Source:
        """The same table, with columns to keep as they are: those of a CSV are text."""
        if self.form != CSV:
            return self
        pa = arrow()
        fields = [pa.field(field.name, pa.string()) if field.name in columns else field for field in self.schema]
        return replace(self, schema=pa.schema(fields))

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[Part]:
        """The rows of some columns, in order; of all if None. Raises TableError for a damaged file."""
        wanted = None if columns is None else list(dict.fromkeys(columns))
        read = {PARQUET: _parquet_batches, ARROW: _arrow_batches, CSV: _csv_batches}[self.form]
        rows, first = batch_rows(len(self.schema if wanted is None else wanted)), 0
        with readable_errors():
            for batch, place in read(self, wanted, rows):
                for start in range(0, batch.num_rows, rows):
                    part = batch.slice(start, rows)
                    yield Part(part, place, first)
                    first += part.num_rows


def form_of(name: str) -> str:
    """The form of a file by its suffix. Raises BadRequest."""
    suffix = "." + name.rpartition(".")[2].lower()
    if suffix not in SUFFIXES:
        raise BadRequest(
            f"{name}: unknown file format {suffix if '.' in name else 'without a suffix'}, expected "
            f"{', '.join(SUFFIXES)}",
            code="rows-format-unknown",
            hint="convert the file to Parquet, Arrow IPC or CSV",
        )
    return SUFFIXES[suffix]


def batch_rows(columns: int) -> int:
    """The number of rows of a batch. `columns`: the number of its columns."""
    return min(MOST_ROWS, max(LEAST_ROWS, BATCH_BYTES // (8 * max(1, columns))))


def opened(file: BinaryIO, form: str) -> Source:
    """The table in a file. Raises TableError for a damaged one."""
    with readable_errors():
        return {PARQUET: _open_parquet, ARROW: _open_arrow, CSV: _open_csv}[form](file)


def _open_parquet(file: BinaryIO) -> Source:
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    return Source(PARQUET, table.schema_arrow, table.metadata.num_rows, True, (file, table.metadata))


def _parquet_batches(source: Source, columns: list[str] | None, rows: int) -> Iterator[tuple[Any, str]]:
    """Batches of at most `rows` of each row group. Only buffers of its pages, of a bounded size together, are in
    memory."""
    from pyarrow import parquet

    file, metadata = source.file
    buffer = min(MOST_BUFFER, max(LEAST_BUFFER, BUFFERS // max(1, len(columns or source.schema))))
    table = parquet.ParquetFile(file, metadata=metadata, pre_buffer=False, buffer_size=buffer)
    for group in range(metadata.num_row_groups):
        for batch in table.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
            yield batch if columns is None else batch.select(columns), f"row group {group}"


def _open_arrow(file: BinaryIO) -> Source:
    """An Arrow IPC file, which includes Feather, an Arrow IPC stream, or a Feather file from before 2020."""
    from pyarrow import feather

    pa = arrow()
    mark = file.read(6)
    file.seek(0)
    if mark.startswith(b"FEA1"):
        whole = feather.read_table(file)
        return Source(ARROW, whole.schema, whole.num_rows, True, whole.to_reader())
    if mark != b"ARROW1":
        stream = pa.ipc.open_stream(file)
        return Source(ARROW, stream.schema, 0, True, stream)
    table = pa.ipc.open_file(file)
    return Source(ARROW, table.schema, 0, True, table)


def _arrow_batches(source: Source, columns: list[str] | None, rows: int) -> Iterator[tuple[Any, str]]:
    pa, table = arrow(), source.file
    if isinstance(table, pa.ipc.RecordBatchFileReader):
        batches: Any = map(table.get_batch, range(table.num_record_batches))
    else:
        batches = iter(table)
    for at, batch in enumerate(batches):
        yield batch if columns is None else batch.select(columns), f"record batch {at}"


def _open_csv(file: BinaryIO) -> Source:
    """A CSV with or without a header. A column that the model reads has numbers."""
    pa = arrow()
    head = file.read(HEAD)
    file.seek(0)
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.end < len(head) - 3 or len(head) < HEAD:
            raise TableError(
                f"it is not UTF-8 text (byte {error.start})", code="csv-not-utf8", hint=csv_text.SAVE_AS_UTF8
            ) from error
        text = head[: error.start].decode("utf-8-sig")
    _, cells = next(_records(io.StringIO(text, newline="")), (0, []))
    if not cells:
        raise TableError("it is empty, expected rows of numbers", code="csv-no-rows", hint=csv_text.ADD_ROWS)
    named = csv_text.is_header(cells)
    names = [cell.strip() for cell in cells] if named else [f"f{at}" for at in range(len(cells))]
    return Source(CSV, pa.schema([(name, pa.float64()) for name in names]), 0, named, file)


def _csv_batches(source: Source, columns: list[str] | None, rows: int) -> Iterator[tuple[Any, str]]:
    from pyarrow import csv as reader

    header, _ = next(_records_of(source))  # the number of its last line: a cell may have line breaks
    source.file.seek(0)
    read = reader.ReadOptions(
        use_threads=False,
        block_size=BLOCK,
        column_names=source.schema.names,
        skip_rows=header if source.names else 0,
    )
    parse = reader.ParseOptions(newlines_in_values=True)
    kinds = {name: source.schema.field(name).type for name in columns or source.schema.names}
    convert = reader.ConvertOptions(column_types=kinds, include_columns=columns, null_values=NO_VALUE)
    try:
        with reader.open_csv(source.file, read, parse, convert) as batches:
            for batch in batches:
                yield batch, ""
    except arrow().ArrowInvalid:
        _check_cells(source, kinds)
        raise


def _records(lines: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record of a CSV, with the number of its last line; none for a blank line. Raises TableError."""
    records = csv.reader(lines)
    try:
        yield from ((records.line_num, cells) for cells in records)
    except csv.Error as error:
        raise TableError(
            f"it is not a row of a CSV: {error}",
            code="csv-malformed",
            hint="check the quotes of this line and the lines above it",
            line=records.line_num,
        ) from error


def _check_cells(source: Source, kinds: Mapping[str, Any]) -> None:
    """Read a CSV again, and raise TableError for the first cell that is not of its kind, by its line and column."""
    names = source.schema.names
    numeric = [(at, name) for at, name in enumerate(names) if name in kinds and kinds[name] == arrow().float64()]
    for line, cells in _rows_of(source):
        if len(cells) != len(names):
            raise TableError(
                f"found {len(cells)} columns, expected {len(names)}",
                code="csv-rows-differ-in-width",
                hint="write the same number of cells in each row",
                line=line,
            )
        for at, name in numeric:
            cell = cells[at].strip()
            if not csv_text.is_number(cell) and cell not in NO_VALUE:
                separated = csv_text.separated(cell)
                raise TableError(
                    f"column {name!r}: found {cell[:80]!r}, expected a number{separated}",
                    code="csv-not-a-number",
                    hint=csv_text.WRITE_NUMBERS,
                    column=name,
                    line=line,
                )


def _rows_of(source: Source) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of a CSV from its start, with the number of its last line. Raises TableError and
    UnicodeDecodeError."""
    yield from itertools.islice(filter(operator.itemgetter(1), _records_of(source)), int(source.names), None)


def _records_of(source: Source) -> Iterator[tuple[int, list[str]]]:
    """All records of a CSV from its start, as `_records`."""
    source.file.seek(0)
    lines = io.TextIOWrapper(source.file, "utf-8-sig", newline="")
    try:
        yield from _records(lines)
    finally:
        lines.detach()


def line_of(file: BinaryIO, row: int) -> int:
    """The line of a row of an open CSV. Rows count from 0, lines from 1. Raises TableError."""
    line, _ = next(itertools.islice(_rows_of(_open_csv(file)), row, None))
    return line


def wrong_separator(source: Source) -> TableError | None:
    """The error for a CSV whose header has another separator than the comma; None if it has commas."""
    mark = next((mark for mark in ";\t" if source.form == CSV and mark in source.schema.names[0]), "")
    if not mark or len(source.schema) > 1:
        return None
    return TableError(
        f"it separates cells by {mark!r}, expected commas",
        code="csv-malformed",
        hint="write commas between the cells, and points in decimal numbers",
    )


class Writer:
    """Writer of results into a file. The end of the block completes the table; an error leaves it incomplete."""

    def __init__(self, file: BinaryIO, form: str, schema: Any) -> None:
        self._form = form
        with _writable(form):
            if form == PARQUET:
                from pyarrow import parquet

                types = arrow().types
                texts = [f.name for f in schema if types.is_string(f.type) or types.is_dictionary(f.type)]
                self._writer = parquet.ParquetWriter(file, schema, use_dictionary=texts or False)
            elif form == ARROW:
                self._writer = arrow().ipc.new_file(file, schema)
            else:
                from pyarrow import csv as writer

                self._writer = writer.CSVWriter(file, schema)
        self._rows = max(LEAST_ROWS, min(MOST_GROUP, GROUP_BYTES // (8 * max(1, len(schema)))))

    def write(self, batch: Any) -> None:
        """Add a record batch. Raises OSError, and TableError for a column that the form cannot hold."""
        with _writable(self._form):
            if self._form == PARQUET:
                self._writer.write_batch(batch, row_group_size=self._rows)
            else:
                self._writer.write_batch(batch) if self._form == ARROW else self._writer.write(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises OSError, unless another error ended the block."""
        failed = (OSError, ValueError) if kind is not None else ()  # errors of pyarrow are ValueErrors
        with contextlib.suppress(*failed):
            self._writer.close()


@contextlib.contextmanager
def _writable(form: str) -> Iterator[None]:
    """Turn errors of pyarrow about the columns of a result into TableError."""
    try:
        yield
    except arrow().ArrowException as error:
        raise TableError(
            f"a {form} file cannot hold a column to keep: {first_line(error)}",
            code="column-not-writable",
            hint="remove the column from --keep, or pass another --format",
        ) from error


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors of pyarrow about a file into TableError."""
    pa = arrow()
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and (error.errno or error.filename):
            raise
        first = first_line(error)
        hint = "correct this row of the file" if "CSV" in first else COPY_AGAIN
        raise TableError(f"it cannot be read as a table: {first}", code="table-damaged", hint=hint) from error
