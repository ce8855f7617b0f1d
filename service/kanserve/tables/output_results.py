"""Writers of results: arrays into .npz, .npy, .csv or .json files, or to stdout as CSV."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from kanexport.shared import atomic
from kanexport.shared.cli.console import Exit, emit, json_text, jsonable, note, print_json
from kanserve.tables.errors import CommandError, InputError

if TYPE_CHECKING:
    from kanserve.client.results import Answer

Columns = Mapping[str, Sequence[str]]  # the names of the numbers of each output
OUTPUT_SUFFIXES = (".npz", ".npy", ".csv", ".json")


def check(target: str | None, allowed: tuple[str, ...] = OUTPUT_SUFFIXES, option: str = "--output") -> None:
    """Reject a file name that `write` does not support, before the command computes. Raises InputError."""
    if target is None:
        return
    path = Path(target)
    if path.suffix.lower() not in allowed:
        raise InputError(
            f"{option} {target}: unknown file format {path.suffix or 'without a suffix'}",
            code="output-format-unknown",
            hint=f"pass a file name with the suffix {' or '.join(allowed)}",
        )
    fault = atomic.check(path)
    if fault:
        raise InputError(
            f"{option} {target} cannot be written: {fault}",
            code="output-not-writable",
            hint="pass a file in an existing folder that you can write",
        )


def check_count(target: str | None, names: tuple[str, ...]) -> None:
    """Reject a format with one array for several arrays. A .csv has optional outputs next to the only output of the
    model. Raises InputError."""
    form = Path(target).suffix.lower() if target is not None else ""
    if (form == ".npy" and len(names) != 1) or (form == ".csv" and len(own_outputs(names)) != 1):
        raise InputError(
            f"--output {target}: the format has one array, but the model has the outputs {', '.join(names)}",
            code="output-format-too-small",
            hint="pass a file name with the suffix .npz or .json",
        )


def write(target: str, arrays: Mapping[str, Any], columns: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
    """Write the arrays by name, in the format of the suffix. `columns`: the column names of each array for a .csv.
    Raises CommandError."""
    check_count(target, tuple(arrays))
    form = Path(target).suffix.lower()
    if form == ".json":
        data = (json_text({name: array.tolist() for name, array in arrays.items()}) + "\n").encode()
    elif form == ".csv":
        data = csv_text(arrays, columns).encode()
    else:
        out = io.BytesIO()
        if form == ".npz":
            np.savez(out, **arrays)
        else:
            np.save(out, next(iter(arrays.values())))
        data = out.getvalue()
    with writing(target):
        atomic.write(Path(target), data)


@contextlib.contextmanager
def writing(target: str) -> Iterator[None]:
    """Context that writes a file. It raises CommandError for an OSError."""
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"{target} cannot be written: {error.strerror}",
            code="output-not-written",
            hint="check the free space and the permissions of the folder, or pass another file",
            exit_code=Exit.FAILED,
        ) from error


def shapes(arrays: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shape of each array, for messages and JSON."""
    return {name: list(array.shape) for name, array in arrays.items()}


def written(target: str, shapes: Mapping[str, Sequence[int]]) -> str:
    """Summary of a file from shapes by name."""
    return f"{target}: {', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}"


def finish(args: argparse.Namespace, arrays: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Write the arrays to `--output`, and print their shapes on stderr; with `--json`, print them with the document.
    Raises CommandError."""
    write(args.output, arrays)
    if args.json:
        print_json({**document, "output": args.output, "shapes": shapes(arrays)})
    else:
        note(written(args.output, shapes(arrays)))


def own_outputs(names: Iterable[str]) -> list[str]:
    """The outputs of the model itself, without the optional ones of kanserve."""
    return [name for name in names if not name.startswith("kan.")]


def csv_text(arrays: Mapping[str, Any], columns: Columns, *, header: bool = True) -> str:
    """A header with the names in `columns`, if `header` is set, and one line per row: the arrays side by side, each row
    flat in C order. The text gives exactly the same floats when it is read."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow([column for name in arrays for column in columns[name]])
    tables = []
    for name, values in arrays.items():
        rows = values.reshape(len(values), len(columns[name]))
        # Python writes a float64 with the same text as numpy, but faster.
        tables.append(rows.tolist() if rows.dtype == np.float64 else [[str(value) for value in row] for row in rows])
    writer.writerows(tables[0] if len(tables) == 1 else map(itertools.chain.from_iterable, zip(*tables, strict=True)))
    return out.getvalue()


Write = Callable[[dict[str, Any], Columns], object]
SUFFIXES = (*OUTPUT_SUFFIXES, ".jsonl")


class Sink(ABC):
    """Consumer of the outputs of consecutive rows."""

    @abstractmethod
    def add(self, part: Answer) -> None:
        """Take the outputs of the next rows."""

    def end(self) -> None:  # noqa: B027 - most sinks have nothing to finish
        """Finish: no more rows follow."""


class Shapes(Sink):
    """Sink that records the shape of each output."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self.shapes = sink, dict[str, list[int]]()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max((shape[0] for shape in self.shapes.values() if shape), default=0)

    def add(self, part: Answer) -> None:
        """Add the outputs of the next rows."""
        self._sink.add(part)
        for name, array in part.outputs.items():
            shape = self.shapes.setdefault(name, [0, *array.shape[1:]])
            shape[0] += len(array)

    def end(self) -> None:
        """Finish the output."""
        self._sink.end()


class Buffered(Sink):
    """Sink that keeps all outputs in memory. At the end it passes them to `write` with the column names of each
    output."""

    def __init__(self, write: Write) -> None:
        self._write, self._parts = write, list[dict[str, Any]]()
        self._columns: Columns = {}

    def add(self, part: Answer) -> None:
        """Add the outputs of the next rows."""
        self._parts.append(part.outputs)
        self._columns = self._columns or part.columns()

    def end(self) -> None:
        """Finish the output."""
        names = self._parts[0] if self._parts else {}
        self._write({name: np.concatenate([outputs[name] for outputs in self._parts]) for name in names}, self._columns)


class Csv(Sink):
    """Sink that passes CSV text to `write`, with a header above the first rows."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._header = write, True

    def add(self, part: Answer) -> None:
        """Add rows, with the outputs side by side."""
        self._write(csv_text(part.outputs, part.columns(), header=self._header))
        self._header = False


class Lines(Sink):
    """Sink that writes one JSON object per row, with each output by its name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, part: Answer) -> None:
        """Add the outputs of the next rows."""
        outputs = part.outputs
        rows = zip(*(array.tolist() for array in outputs.values()), strict=True)
        finite = all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in outputs.values())
        documents = (dict(zip(outputs, row, strict=True)) for row in rows)
        lines = (
            json.dumps(document if finite else jsonable(document), allow_nan=False) + "\n" for document in documents
        )
        self._file.write("".join(lines).encode())


class Npy(Sink):
    """Sink for one array. It rewrites the header at the end, when the number of rows is known."""

    def __init__(self, file: BinaryIO) -> None:
        self._target = file
        self._file: Any = file if file.seekable() else tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._rows, self._row = 0, np.zeros(0, np.float32)
        self._begin = self._file.tell()

    def add(self, part: Answer) -> None:
        """Add the rows of the only output."""
        (values,) = part.outputs.values()
        if not self._rows:
            self._row = values[:0]
            self._head()
        self._rows += len(values)
        self._file.write(np.ascontiguousarray(values).data)

    def end(self) -> None:
        """Finish the output."""
        self._head()
        if self._file is not self._target:
            with self._file:
                self._file.seek(0)
                shutil.copyfileobj(self._file, self._target)

    def _head(self) -> None:
        """Write the header. numpy leaves room in it for more rows, so the header keeps its length."""
        self._file.seek(self._begin)
        described = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(self._row))
        np.lib.format.write_array_header_1_0(self._file, described | {"shape": (self._rows, *self._row.shape[1:])})


@contextlib.contextmanager
def opened(target: str | None, names: Sequence[str], *, keep: Write | None = None) -> Iterator[Shapes]:
    """A sink for the outputs called `names`. It writes to the file `target`, or CSV to stdout. Without a target, it
    passes all outputs to `keep`, if given. Raises CommandError."""
    form = Path(target).suffix.lower() if target else ""
    with contextlib.ExitStack() as stack:
        sink: Sink
        if target and form in (".csv", ".npy", ".jsonl"):
            stack.enter_context(writing(target))
            file = stack.enter_context(atomic.opened(Path(target)))
            if form == ".csv":
                sink = Csv(lambda text: file.write(text.encode()))
            else:
                sink = Npy(file) if form == ".npy" else Lines(file)
        elif target:
            sink = Buffered(lambda outputs, columns: write(target, outputs, columns))
        elif keep is not None:
            sink = Buffered(keep)
        else:
            sink = Csv(emit) if len(own_outputs(names)) == 1 else Buffered(_emit_each)
        shapes = Shapes(sink)
        yield shapes
        shapes.end()


def _emit_each(outputs: dict[str, Any], columns: Columns) -> None:
    """Print the outputs as CSV, one table below the other."""
    for name, values in outputs.items():
        emit(csv_text({name: values}, columns))
