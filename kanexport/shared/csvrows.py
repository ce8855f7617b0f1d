"""Rows of numbers from CSV text. Standard library only.

Cells are separated by commas, rows by line breaks; blank lines are passed over. A first
line without any number is a header: `a,b,c` is one, `a,2,c` is a row with wrong cells.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator

EXPECTED = "rows of numbers were expected"


class CsvError(ValueError):
    """Text that is not rows of numbers; says which file, line and column."""


def decode(name: str, data: bytes) -> str:
    """UTF-8, with or without a byte order mark. Raises CsvError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CsvError(f"{name} is not UTF-8 text (byte {error.start}); {EXPECTED}") from error


def parse(name: str, text: str, *, most: int | None = None) -> list[list[float]]:
    """All rows, or the first `most`; at least one. Raises CsvError; `name` is for its text."""
    reader = csv.reader(io.StringIO(text, newline=""))
    lines = ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    rows: list[list[float]] = []
    try:
        first = next(lines, None)
        if first is None:
            raise CsvError(f"{name} is empty; {EXPECTED}")
        header = not any(is_number(cell) for cell in first[1])
        for line, cells in itertools.islice(lines if header else itertools.chain([first], lines), most):
            rows.append(_numbers(name, line, cells))
            _check_length(name, line, rows)
    except csv.Error as error:
        raise CsvError(f"{name}, line {reader.line_num}: {error}; {EXPECTED}") from error
    if not rows:
        raise CsvError(f"{name} holds a header line and nothing below it; {EXPECTED}")
    return rows


def header(text: str) -> list[str]:
    """The names of the columns; none where the first line is a row of numbers, or there is none."""
    first = next((cells for cells in csv.reader(io.StringIO(text, newline="")) if any(c.strip() for c in cells)), [])
    return [] if any(is_number(cell) for cell in first) else first


def is_number(cell: str) -> bool:
    """Whether a cell is one number; float() alone would also take 1_000."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _numbers(name: str, line: int, cells: list[str]) -> list[float]:
    return list(_each(name, line, cells))


def _each(name: str, line: int, cells: list[str]) -> Iterator[float]:
    for column, cell in enumerate(cells, 1):
        if not is_number(cell):
            separated = " (cells are separated by commas)" if ";" in cell or "\t" in cell.strip() else ""
            raise CsvError(
                f"{name}, line {line}, column {column}: found {cell.strip()[:80]!r}; a number was expected{separated}"
            )
        yield float(cell)


def _check_length(name: str, line: int, rows: list[list[float]]) -> None:
    if len(rows[-1]) != len(rows[0]):
        raise CsvError(f"{name}, line {line}: found {len(rows[-1])} columns, but the rows before have {len(rows[0])}")
