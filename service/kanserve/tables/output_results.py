"""Writers of results: arrays into .npz, .npy, .csv or .json files, or to stdout as CSV."""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from kanexport.shared import atomic
from kanexport.shared.cli.console import Exit, emit, json_text, jsonable, note, print_json
from kanserve.tables.errors import CommandError, InputError

if TYPE_CHECKING:
    from kanserve.client.results import InferenceResult

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
Add = Callable[["InferenceResult"], object]  # takes the outputs of the next rows
SUFFIXES = (*OUTPUT_SUFFIXES, ".jsonl")


class Sink:
    """Consumer of the outputs of consecutive rows. It records the shape of each output."""

    def __init__(self, add: Add) -> None:
        self._add, self.shapes = add, dict[str, list[int]]()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max((shape[0] for shape in self.shapes.values() if shape), default=0)

    def add(self, part: InferenceResult) -> None:
        """Add the outputs of the next rows."""
        self._add(part)
        for name, array in part.outputs.items():
            shape = self.shapes.setdefault(name, [0, *array.shape[1:]])
            shape[0] += len(array)


@contextlib.contextmanager
def _buffered(write: Write) -> Iterator[Add]:
    """Keep all outputs in memory. At the end, pass them to `write` with the column names of each output."""
    parts: list[InferenceResult] = []
    yield parts.append
    names, columns = (parts[0].outputs, parts[0].columns()) if parts else ({}, {})
    write({name: np.concatenate([part.outputs[name] for part in parts]) for name in names}, columns)


def _csv(write: Callable[[str], object]) -> Add:
    """Pass CSV text to `write`, the outputs side by side, with a header above the first rows."""
    headers = itertools.chain([True], itertools.repeat(False))
    return lambda part: write(csv_text(part.outputs, part.columns(), header=next(headers)))


def _write_lines(file: BinaryIO, part: InferenceResult) -> None:
    """Write one JSON object per row, with each output by its name."""
    outputs = part.outputs
    rows = zip(*(array.tolist() for array in outputs.values()), strict=True)
    finite = all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in outputs.values())
    documents = (dict(zip(outputs, row, strict=True)) for row in rows)
    lines = (json.dumps(document if finite else jsonable(document), allow_nan=False) + "\n" for document in documents)
    file.write("".join(lines).encode())


@contextlib.contextmanager
def _npy(target: BinaryIO) -> Iterator[Add]:
    """Write one array. The end rewrites the header, when the number of rows is known."""
    file: Any = target if target.seekable() else tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    begin, rows, row = file.tell(), 0, np.zeros(0, np.float32)

    def write_header() -> None:
        """numpy leaves room in it for more rows, so the header keeps its length."""
        file.seek(begin)
        described = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(row))
        np.lib.format.write_array_header_1_0(file, described | {"shape": (rows, *row.shape[1:])})

    def add(part: InferenceResult) -> None:
        nonlocal rows, row
        (values,) = part.outputs.values()
        if not rows:
            row = values[:0]
            write_header()
        rows += len(values)
        file.write(np.ascontiguousarray(values).data)

    yield add
    write_header()
    if file is not target:
        with file:
            file.seek(0)
            shutil.copyfileobj(file, target)


@contextlib.contextmanager
def opened(target: str | None, names: Sequence[str], *, keep: Write | None = None) -> Iterator[Sink]:
    """A sink for the outputs called `names`. It writes to the file `target`, or CSV to stdout. Without a target, it
    passes all outputs to `keep`, if given. Raises CommandError."""
    form = Path(target).suffix.lower() if target else ""
    with contextlib.ExitStack() as stack:
        if target and form in (".csv", ".npy", ".jsonl"):
            stack.enter_context(writing(target))
            file = stack.enter_context(atomic.opened(Path(target)))
            if form == ".csv":
                add = _csv(lambda text: file.write(text.encode()))
            else:
                add = stack.enter_context(_npy(file)) if form == ".npy" else functools.partial(_write_lines, file)
        elif target:
            add = stack.enter_context(_buffered(functools.partial(write, target)))
        elif keep is None and len(own_outputs(names)) == 1:
            add = _csv(emit)
        else:
            add = stack.enter_context(_buffered(keep or _emit_each))
        yield Sink(add)


def _emit_each(outputs: dict[str, Any], columns: Columns) -> None:
    """Print the outputs as CSV, one table below the other."""
    for name, values in outputs.items():
        emit(csv_text({name: values}, columns))
