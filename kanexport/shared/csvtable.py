"""Large CSV files as arrays, part by part, in bounded memory.

`csvrows` defines what rows of numbers are. Parts of many cells go through a parser in C, pyarrow's where it is
installed, otherwise numpy's. A part that this parser refuses goes through `csvrows`, which accepts more and names the
bad cell.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from kanexport.shared import csvrows
from kanexport.shared.csvrows import EXPECTED, CsvError

PART = 2**22  # bytes of text in a part
LARGE = 2**19  # bytes of text from which a parser in C pays for its import
QUOTED = 2**24  # bytes in which a quote has to be closed
BREAKS = (b"\n", b"\r")
Parser = Callable[[bytes, int], Any]


class Table:
    """A CSV file that is read once, from its start. `header`: the names of the columns, empty without a header line."""

    def __init__(self, name: str, file: BinaryIO, *, part: int = 0) -> None:
        """Reads the first part, of so many bytes (0: PART). `name` is for errors. Raises CsvError."""
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
        found, block = False, self._rest
        while block:
            numbers = self._numbers(block)
            self._pass(block)
            found = found or len(numbers) > 0
            if len(numbers):
                yield numbers
            block = self._next(self._left)
        if not found:
            above = f"holds a header line and nothing below it; {EXPECTED}" if self.header else f"is empty; {EXPECTED}"
            raise CsvError(f"{self._name} {above}")

    def _begin(self, first: bytes) -> bytes:
        """Take the header, and give what of the first part that is not blank is below it."""
        while first:
            taken = 0

            def given(block: bytes) -> Iterator[str]:
                nonlocal taken
                for line in block.splitlines(keepends=True):
                    taken += len(line)
                    yield self._text(line)

            _, cells = next(csvrows.records(self._name, given(first), before=self._lines), (0, []))
            if cells and not csvrows.is_header(cells):
                break
            self.header = cells
            self._pass(first[:taken])
            first = first[taken:] or self._next(self._left)
            if cells:
                break
        return first

    def _pass(self, block: bytes) -> None:
        """What is above the next part."""
        self._lines += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
        self._bytes += len(block)

    def _next(self, before: bytes) -> bytes:
        """What was left of the last part, and the next whole lines; `_left` is what remains of them."""
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
        """The numbers of whole lines."""
        if not self.width:
            _, cells = next(self._records(block), (0, []))
            self.width = len(cells)
        if self._parser is None and len(block) >= min(LARGE, self._part):
            self._parser = _parser()
        if (
            self.width and self._parser is not None and b"(" not in block and not block.isspace()
        ):  # nan(5) is a number to pyarrow
            try:
                return self._parser(block, self.width)
            except ValueError:
                pass  # the next line says what is wrong, or accepts it
        rows = csvrows.numbers(self._name, self._records(block), width=self.width)
        return np.array(rows, np.float64).reshape(len(rows), self.width)

    def _records(self, block: bytes) -> Iterator[tuple[int, list[str]]]:
        lines = io.StringIO(self._text(block), newline="")
        return csvrows.records(self._name, lines, before=self._lines)

    def _text(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            at = self._bytes + error.start
            raise CsvError(f"{self._name} is not UTF-8 text (byte {at}); {EXPECTED}") from error


def whole(name: str, data: bytes) -> tuple[Any, list[str]]:
    """All numbers of a file's `data` as float64 [rows, columns], and its header. Raises CsvError."""
    table = Table(name, io.BytesIO(data))
    return np.concatenate(list(table.rows())), table.header


def _end(block: bytes) -> int:
    """Behind the last line break that is outside quotes; 0: there is none."""
    mark = BREAKS[0] if b"\n" in block else BREAKS[1]
    at = block.rfind(mark, 0, len(block) - 1 if mark == b"\r" else None) + 1  # the \n of a \r may be in the next part
    while at and block.count(b'"', 0, at) % 2:
        at = block.rfind(mark, 0, at - 1) + 1
    return at


def _parser() -> Parser:
    return _by_pyarrow if importlib.util.find_spec("pyarrow") else _by_numpy


def _by_pyarrow(block: bytes, width: int) -> Any:
    """Raises ValueError for a block that is not rows of so many numbers."""
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
    """Raises ValueError for a block that is not rows of so many numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no data: a block of blank lines
        text = io.StringIO(block.decode(), newline="")
        rows = np.loadtxt(text, delimiter=",", comments=None, quotechar='"', ndmin=2)
    if rows.size and rows.shape[1] != width:
        raise ValueError(rows.shape)
    return rows.reshape(-1, width)
