"""Reading rows of numbers: .npy, .npz, .csv, .json, or stdin.

Every refusal names the file, what was found and what was expected.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanserve.console.common import CommandError
from kanserve.nouns import DTYPES, TensorInfo

SUFFIXES = (".npy", ".npz", ".csv", ".json")
WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True, slots=True)
class Raw:
    """Contents that were read and not looked at: a name for messages, the kind, the bytes."""

    name: str
    kind: str
    data: bytes


def parse(raw: Raw, tensor: TensorInfo, *, array: str = "") -> Any:
    """Rows for `tensor`, shaped [rows, *tensor.shape[1:]], in its dtype. Raises CommandError.

    A file may hold each row flat, in C order, as a CSV must, and may hold one row alone.
    `array` picks one array of an .npz.
    """
    values = _parse(raw.name, raw.kind, raw.data, tensor, array)
    if values.dtype.kind not in "biuf":
        raise CommandError(f"{raw.name} holds values of type {values.dtype}; numbers were expected")
    return _fit(raw.name, values, tensor)


def fetch(source: str) -> Raw:
    """The contents of a file or of stdin ("-"), before a server is asked anything.

    The kind is the suffix, for stdin what the content looks like. Raises CommandError.
    """
    if source == "-":
        data = sys.stdin.buffer.read()
        return Raw("stdin", _sniff(data), data)
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES:
        raise CommandError(
            f"{source}: the name must end in one of {', '.join(SUFFIXES)}, or be - for stdin; "
            f"found {path.suffix or 'no suffix'}"
        )
    try:
        return Raw(source, path.suffix.lower(), path.read_bytes())
    except OSError as error:
        raise CommandError(f"{source} cannot be read: {error.strerror}") from error


def _sniff(data: bytes) -> str:
    if data.startswith(b"\x93NUMPY"):
        return ".npy"
    if data.startswith(b"PK\x03\x04"):
        return ".npz"
    return ".json" if data.lstrip()[:1] in (b"[", b"{") else ".csv"


def _parse(name: str, kind: str, data: bytes, tensor: TensorInfo, array: str) -> Any:
    if kind == ".npy":
        return _load_npy(name, data)
    if kind == ".npz":
        return _load_npz(name, data, tensor, array)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{name} is not UTF-8 text (byte {error.start}); {kind} was expected") from error
    return _load_csv(name, text) if kind == ".csv" else _load_json(name, text)


def _load_npy(name: str, data: bytes) -> Any:
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CommandError(f"{name} is not an .npy file of numbers: {error}") from error


def _load_npz(name: str, data: bytes, tensor: TensorInfo, array: str) -> Any:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            names = list(archive.files)
            wanted = array or (names[0] if len(names) == 1 else tensor.name)
            if wanted not in names:
                raise CommandError(
                    f"{name} holds the arrays {', '.join(names) or '(none)'}; one alone, one called "
                    f"{tensor.name!r} like the model's input, or --array NAME was expected"
                )
            return archive[wanted]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise CommandError(f"{name} is not an .npz file of numbers: {error}") from error


def _load_csv(name: str, text: str) -> Any:
    """Comma-separated numbers; a first line without any number is a header."""
    rows: list[list[float]] = []
    reader = csv.reader(io.StringIO(text, newline=""))
    first = True
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if first and not any(_is_number(cell) for cell in cells):
            first = False
            continue
        first = False
        rows.append([_number(name, reader.line_num, column, cell) for column, cell in enumerate(cells, 1)])
        if len(rows[-1]) != len(rows[0]):
            raise CommandError(
                f"{name}, line {reader.line_num}: found {len(rows[-1])} values, "
                f"but the lines before have {len(rows[0])}"
            )
    if not rows:
        return np.zeros((0, 0))
    return np.array(rows, np.float64)


def _number(name: str, line: int, column: int, cell: str) -> float:
    if not _is_number(cell):
        raise CommandError(f"{name}, line {line}, value {column}: found {cell.strip()!r}; a number was expected")
    return float(cell)


def _is_number(cell: str) -> bool:
    if "_" in cell:  # float() would take 1_000
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _load_json(name: str, text: str) -> Any:
    """A list of rows, one row alone, or an object with one such list."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{name} is not JSON: {error}") from error
    if isinstance(document, dict):
        if len(document) != 1:
            raise CommandError(f"{name} is an object with {len(document)} keys; a list of rows was expected")
        document = next(iter(document.values()))
    if not isinstance(document, list):
        raise CommandError(f"{name} holds {type(document).__name__}; a list of rows was expected")
    try:
        return np.array(_numbers(name, document, ""), np.float64)
    except ValueError as error:
        raise CommandError(f"{name}: the rows have different lengths") from error


def _numbers(name: str, value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_numbers(name, item, f"{where}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, str) and value in WORDS:
        return WORDS[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CommandError(f"{name}, {where or 'top level'}: found {json.dumps(value)}; a number was expected")
    return value


def _reshape(values: Any, expected: tuple[int, ...]) -> Any:
    """One row alone, flat rows and no rows into [rows, *expected]; anything else as it is."""
    if values.shape[0] == 0:
        return values.reshape(0, *(1 if size < 0 else size for size in expected))
    if values.ndim == 1 and len(expected) == 1:
        return values[:, None] if expected == (1,) else values[None, :]
    if len(expected) < 2 or -1 in expected:
        return values
    size = math.prod(expected)
    flat = values.shape[-1] == size and values.ndim <= 2
    return values.reshape(-1, *expected) if flat or values.shape == expected else values


def _fit(name: str, values: Any, tensor: TensorInfo) -> Any:
    """To the model's shape and dtype, without losing a finite number."""
    if values.ndim == 0:
        raise CommandError(f"{name} holds a single number without an axis; rows were expected")
    values = _reshape(values, tensor.shape[1:])
    expected, found = tensor.shape[1:], values.shape[1:]
    if len(found) != len(expected) or any(want not in (-1, have) for want, have in zip(expected, found, strict=True)):
        shape = f"{found[0]} columns" if len(found) == 1 else f"shape {values.shape}"
        want = f"{expected[0]} columns" if len(expected) == 1 else f"shape {tensor.shape}"
        if len(expected) > 1 and -1 not in expected:
            want += f", flat {math.prod(expected)} values a row"
        raise CommandError(f"{name} has {shape}; the model's input {tensor.name!r} has {want}")
    if tensor.datatype not in DTYPES:
        raise CommandError(f"the model's input {tensor.name!r} is {tensor.datatype}, which this command cannot send")
    with np.errstate(over="ignore", invalid="ignore"):
        fitted = values.astype(DTYPES[tensor.datatype])
    if fitted.dtype.kind == "f":
        lost = np.isfinite(values) & ~np.isfinite(fitted)
        if lost.any():
            at = tuple(int(i) for i in np.argwhere(lost)[0])
            raise CommandError(f"{name}, value {list(at)}: {values[at]!s} does not fit into {tensor.datatype}")
    return fitted
