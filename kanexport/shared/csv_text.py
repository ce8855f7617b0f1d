"""Rows of numbers from CSV text. Standard library only.

Cells are separated by commas, rows by line breaks; blank lines are passed over. A first
line without any number is a header: `a,b,c` is one, `a,2,c` is a row with wrong cells.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence

from kanexport.shared.cli.console import CodedError

EXPECTED = "expected rows of numbers"
ADD_ROWS = "write one row of numbers per line, with commas between them"
WRITE_NUMBERS = "write numbers with a decimal point, and commas between them"
SAVE_AS_UTF8 = "save the file as UTF-8 text"


class CsvError(CodedError):
    """Text that does not consist of rows of numbers. The message names the file, line and column."""


def decode(name: str, data: bytes) -> str:
    """The text of UTF-8 bytes, with or without a byte order mark. Raises CsvError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CsvError(
            f"{name} is not UTF-8 text (byte {error.start}); {EXPECTED}", code="csv-not-utf8", hint=SAVE_AS_UTF8
        ) from error


def parse(name: str, text: str, *, most: int | None = None) -> list[list[float]]:
    """All rows, or the first `most`; at least one. Raises CsvError; `name` is for its text."""
    lines = records(name, io.StringIO(text, newline=""))
    first = next(lines, None)
    if first is None:
        raise CsvError(f"{name} is empty; {EXPECTED}", code="csv-no-rows", hint=ADD_ROWS)
    below = lines if is_header(first[1]) else itertools.chain([first], lines)
    rows = numbers(name, itertools.islice(below, most))
    if not rows:
        raise CsvError(f"{name} has a header line and no rows; {EXPECTED}", code="csv-no-rows", hint=ADD_ROWS)
    return rows


def records(name: str, lines: Iterable[str], *, before: int = 0) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record that is not blank, with the number of its last line. `before`: the number of lines
    above. Raises CsvError."""
    reader = csv.reader(lines)
    try:
        yield from ((before + reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise CsvError(
            f"{name}, line {before + reader.line_num}: {error}; {EXPECTED}",
            code="csv-malformed",
            hint="check the quotes of this line and the lines above it",
        ) from error


def numbers(name: str, records_by_line: Iterable[tuple[int, list[str]]], *, width: int = 0) -> list[list[float]]:
    """The numbers of records. `width`: the number of columns of the rows above, or 0. Raises CsvError, which names the
    line and the column."""
    rows: list[list[float]] = []
    for line, cells in records_by_line:
        for column, cell in enumerate(cells, 1):
            if not is_number(cell):
                raise CsvError(
                    f"{name}, line {line}, column {column}: found {cell.strip()[:80]!r}, expected a number"
                    f"{separated(cell)}",
                    code="csv-not-a-number",
                    hint=WRITE_NUMBERS,
                )
        rows.append(list(map(float, cells)))
        width = width or len(cells)
        if len(cells) != width:
            raise CsvError(
                f"{name}, line {line}: found {len(cells)} columns, but the rows before have {width}",
                code="csv-rows-differ-in-width",
                hint="write the same number of cells in each row",
            )
    return rows


def is_header(cells: Sequence[str]) -> bool:
    """Whether the cells of the first record are names of columns: no cell is a number."""
    return not any(is_number(cell) for cell in cells)


def header(text: str) -> list[str]:
    """The names of the columns. Empty if the first line is a row of numbers, or if there is no line."""
    first = next((cells for cells in csv.reader(io.StringIO(text, newline="")) if any(c.strip() for c in cells)), [])
    return first if is_header(first) else []


def is_number(cell: str) -> bool:
    """Whether a cell is one number. (float() accepts 1_000 too.)"""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def separated(cell: str) -> str:
    """The rest of a message about a cell that has another separator than the comma; otherwise empty."""
    mark = next((mark for mark in ";\t" if mark in cell.strip()), "")
    return f" (cells are separated by commas, not by {mark!r})" if mark else ""
