"""Files of numbers as arrays: large CSV files part by part, in bounded memory, and the errors of damaged .npy files.

`csvrows` defines what rows of numbers are. A parser in C reads parts of many cells: pyarrow's if it is installed,
otherwise numpy's. If this parser refuses a part, `csvrows` reads it, which accepts more and names the bad cell.
"""

from __future__ import annotations

import importlib.util
import io
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from kanexport.shared import csv_text
from kanexport.shared.csv_text import ADD_ROWS, EXPECTED, SAVE_AS_UTF8, CsvError

PART = 2**22  # bytes of text in a part
LARGE = 2**19  # bytes of text from which a parser in C is worth its import
QUOTED = 2**24  # bytes within which a quote has to be closed
BREAKS = (b"\n", b"\r")
# Errors of numpy about a damaged .npy or .npz file. MemoryError: the header gives a size that no memory has.
# RuntimeError: the archive is encrypted, or has a compression that Python lacks.
DAMAGED = (
    *(ValueError, EOFError, OSError, KeyError, OverflowError, MemoryError, RuntimeError, SyntaxError, TypeError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
Parser = Callable[[bytes, int], Any]


class Table:
    """CSV file that is read once, from its start. `header`: the names of the columns, empty without a header line."""

    def __init__(self, name: str, file: BinaryIO, *, part: int = 0) -> None:
        """Reads the first part, of `part` bytes (0: PART). Errors name the file `name`. Raises CsvError."""
        self._name, self._file, self._part = name, file, part or PART
        self._lines = self._bytes = self.width = 0  # lines and bytes above the next part; columns of the rows
        first = self._next(b"")
        if first.startswith(b"\xef\xbb\xbf"):
            first, self._bytes = first[3:], 3
        self._parser: Parser | None = None
        self.header: list[str] = []
        self._rest = self._begin(first)

    def rows(self) -> Iterator[Any]:
        """The numbers as float64 [rows, columns], part by part. Raises CsvError, which names the line and column."""
        any_rows, block = False, self._rest
        while block:
            numbers = self._numbers(block)
            self._pass(block)
            any_rows = any_rows or len(numbers) > 0
            if len(numbers):
                yield numbers
            block = self._next(self._left)
        if not any_rows:
            problem = f"has a header line and no rows; {EXPECTED}" if self.header else f"is empty; {EXPECTED}"
            raise CsvError(f"{self._name} {problem}", code="csv-no-rows", hint=ADD_ROWS)

    def _begin(self, first: bytes) -> bytes:
        """Take the header, and return the text below it in the first part that is not blank."""
        while first:
            taken = 0

            def lines(block: bytes) -> Iterator[str]:
                nonlocal taken
                for line in block.splitlines(keepends=True):
                    taken += len(line)
                    yield self._text(line)

            _, cells = next(csv_text.records(self._name, lines(first), before=self._lines), (0, []))
            if cells and not csv_text.is_header(cells):
                break
            self.header = cells
            self._pass(first[:taken])
            first = first[taken:] or self._next(self._left)
            if cells:
                break
        return first

    def _pass(self, block: bytes) -> None:
        """Count the lines and bytes above the next part."""
        self._lines += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
        self._bytes += len(block)

    def _next(self, before: bytes) -> bytes:
        """The rest of the last part and the next whole lines. `_left` gets the bytes that remain after them."""
        block = before
        while True:
            data = self._file.read(self._part)
            block += data
            at = _end(block) if data else len(block)
            if not data or at or len(block) > QUOTED:
                at = at or len(block)
                self._left = block[at:]
                return block[:at]

    def _numbers(self, block: bytes) -> Any:
        """The numbers of a block of whole lines."""
        if not self.width:
            _, cells = next(self._records(block), (0, []))
            self.width = len(cells)
        if self._parser is None and len(block) >= min(LARGE, self._part):
            self._parser = _parser()
        if (
            self.width and self._parser is not None and b"(" not in block and not block.isspace()
        ):  # pyarrow accepts nan(5)
            try:
                return self._parser(block, self.width)
            except ValueError:
                pass  # csvrows names the bad cell, or accepts the block
        rows = csv_text.numbers(self._name, self._records(block), width=self.width)
        return np.array(rows, np.float64).reshape(len(rows), self.width)

    def _records(self, block: bytes) -> Iterator[tuple[int, list[str]]]:
        lines = io.StringIO(self._text(block), newline="")
        return csv_text.records(self._name, lines, before=self._lines)

    def _text(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            at = self._bytes + error.start
            raise CsvError(
                f"{self._name} is not UTF-8 text (byte {at}); {EXPECTED}", code="csv-not-utf8", hint=SAVE_AS_UTF8
            ) from error


def whole(name: str, data: bytes) -> tuple[Any, list[str]]:
    """All numbers of a file's `data` as float64 [rows, columns], and its header. Raises CsvError."""
    table = Table(name, io.BytesIO(data))
    return np.concatenate(list(table.rows())), table.header


def _end(block: bytes) -> int:
    """The position after the last line break that is outside quotes; 0 if there is none."""
    mark = BREAKS[0] if b"\n" in block else BREAKS[1]
    at = block.rfind(mark, 0, len(block) - 1 if mark == b"\r" else None) + 1  # the \n of a \r may be in the next part
    while at and block.count(b'"', 0, at) % 2:
        at = block.rfind(mark, 0, at - 1) + 1
    return at


def _parser() -> Parser:
    return _by_pyarrow if importlib.util.find_spec("pyarrow") else _by_numpy


def _by_pyarrow(block: bytes, width: int) -> Any:
    """The rows of a block, read by pyarrow. Raises ValueError for a block that is not rows of `width` numbers."""
    import pyarrow as pa
    from pyarrow import csv

    names = [str(at) for at in range(width)]
    read = csv.ReadOptions(column_names=names, block_size=len(block) + 1)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64()), null_values=[])
    table = csv.read_csv(pa.py_buffer(block), read_options=read, convert_options=convert)
    rows = np.empty((table.num_rows, width))
    for at, column in enumerate(table.columns):
        rows[:, at] = column.to_numpy()
    return rows


def _by_numpy(block: bytes, width: int) -> Any:
    """The rows of a block, read by numpy. Raises ValueError for a block that is not rows of `width` numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns about a block of blank lines
        text = io.StringIO(block.decode(), newline="")
        rows = np.loadtxt(text, delimiter=",", comments=None, quotechar='"', ndmin=2)
    if rows.size and rows.shape[1] != width:
        raise ValueError(rows.shape)
    return rows.reshape(-1, width)
