"""Stream of the rows of a file, in chunks. A large file takes bounded memory while the server computes earlier rows.

CSV, Parquet, Arrow IPC, Feather and .npy files have parts. The command reads the other forms, and stdin except for CSV,
as a whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kanexport.shared import csv_columns
from kanexport.shared.naming import UNNAMED, Names
from kanserve.tables import input_rows
from kanserve.tables.input_rows import Contents
from kanserve.types import TensorInfo

PART_BYTES = 2**23  # bytes of an .npy file that are read at once


@dataclass(frozen=True, slots=True)
class Source:
    """Open file or stdin.

    name      its name for messages
    form      its format, such as ".csv"
    seekable  True if the command can read it again
    """

    name: str
    form: str
    file: BinaryIO
    seekable: bool

    def contents(self) -> Contents:
        """The whole content."""
        return Contents(self.name, self.form, self.file.read())

    def share(self) -> str:
        """Share of the file that was read, such as "41% of rows.csv"; "" for stdin."""
        size = os.fstat(self.file.fileno()).st_size if self.seekable else 0
        return f"{self.file.tell() / size:.0%} of {self.name} read" if size else ""


@dataclass(frozen=True, slots=True)
class Rows:
    """Chunks of rows as `chunking.stream` takes them.

    total  the number of rows, 0 if it is not known
    share  the share of the file that was read, in words
    """

    parts: Iterator[Any]
    total: int
    share: Callable[[], str]


@contextlib.contextmanager
def opened(source: str) -> Iterator[Source]:
    """Open a file by its name, or stdin ("-"), before the client sends a request. Raises InputError."""
    if source == "-":
        first = sys.stdin.buffer.read(csv_columns.PART)
        file: Any = io.BufferedReader(_Joined(first, sys.stdin.buffer))
        yield Source("stdin", input_rows.form_of(first), file, seekable=False)
        return
    form = input_rows.form_named(source)
    try:
        file = Path(source).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise input_rows.unreadable(source, error) from error
    with file:
        input_rows.check_package(source, form)
        yield Source(source, form, file, file.seekable())


class _Joined(io.RawIOBase):
    """Bytes that were read, followed by the rest of the file."""

    def __init__(self, first: bytes, file: BinaryIO) -> None:
        super().__init__()
        self._first, self._file = io.BytesIO(first), file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._first.readinto(buffer) or self._file.readinto(buffer)  # type: ignore[attr-defined]  # of BufferedIOBase


def rows(tensors: Sequence[TensorInfo], source: Source, *, array: str = "", names: Names = UNNAMED) -> Rows:
    """Rows for all inputs of a model, as `input_rows.rows_for_all` gives them. Raises InputError, also during the
    iteration over the parts."""
    if len(tensors) == 1 and source.form == ".csv":
        with input_rows.csv_errors(source.name):
            table = csv_columns.Table(source.name, source.file)

        def chunks() -> Iterator[Any]:
            with input_rows.csv_errors(source.name):
                yield from table.rows()

        return Rows(_parts(tensors[0], source, table.header, names, chunks()), 0, source.share)
    if len(tensors) == 1 and source.form in input_rows.TABLES:
        file = source.file if source.seekable else io.BytesIO(source.file.read())
        columns, total, parts = input_rows.table(source.name, source.form, file)
        share = (lambda: "") if total else source.share
        return Rows(_parts(tensors[0], source, columns, names, parts), total, share)
    if len(tensors) == 1 and source.form == ".npy" and source.seekable:
        return _npy(tensors[0], source)
    whole = input_rows.rows_for_all(tensors, source.contents(), array=array, names=names)
    return Rows(iter([whole]), input_rows.count(whole), lambda: "")


def _parts(
    tensor: TensorInfo, source: Source, header: Sequence[str], names: Names, chunks: Iterator[Any]
) -> Iterator[Any]:
    """Parts of columns as rows of the model, in the order of its features."""
    above, order = 0, None
    for numbers in chunks:
        if not above:
            if not input_rows.streams(tensor, numbers.shape[1]):
                numbers = np.concatenate([numbers, *chunks])
            order = input_rows.order_of(source.name, header, numbers.shape[1], names)
        numbers = numbers if order is None else numbers[:, order]
        yield input_rows.fit(source.name, numbers, tensor, above=above)
        above += len(numbers)


def _npy(tensor: TensorInfo, source: Source) -> Rows:
    def mapped() -> Any:
        with input_rows.array_errors(source.name, ".npy"):
            values = np.lib.format.open_memmap(source.name, mode="r")
        return input_rows.shaped(source.name, values, tensor)

    array = mapped()
    size, total = max(1, PART_BYTES // max(1, array[:1].nbytes)), len(array)

    def parts() -> Iterator[Any]:
        for start in range(0, max(1, total), size):
            part = mapped()[start : start + size]  # a new map each time: pages of a read map stay in memory
            yield input_rows.converted(source.name, part, tensor.datatype, above=start)

    return Rows(parts(), total, lambda: "")
