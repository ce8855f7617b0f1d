"""Results: arrays into .npz, .npy, .csv or .json files, or onto stdout as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from kanexport.shared import atomic
from kanexport.shared.output import json_text
from kanexport.shared.voice import Exit
from kanserve.console.common import CommandError, InputError

SUFFIXES = (".npz", ".npy", ".csv", ".json")


def check(target: str | None, allowed: tuple[str, ...] = SUFFIXES, option: str = "--output") -> None:
    """Refuse a name that `write` could not serve, before anything is computed. Raises InputError."""
    if target is None:
        return
    path = Path(target)
    if path.suffix.lower() not in allowed:
        raise InputError(
            f"{option} {target}: the name must end in {' or '.join(allowed)}; found {path.suffix or 'no suffix'}"
        )
    fault = atomic.check(path)
    if fault:
        raise InputError(f"{option} {target}: {fault}")


def check_count(target: str | None, names: tuple[str, ...]) -> None:
    """Refuse a form that holds one array for a model of several outputs. Raises InputError."""
    if target is not None and Path(target).suffix.lower() in (".npy", ".csv") and len(names) != 1:
        raise InputError(f"--output {target} holds one array; the model has {', '.join(names)}: use .npz or .json")


def write(target: str, arrays: Mapping[str, Any], columns: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
    """Write the arrays by name, in the form that the suffix says; `columns` are the names in a .csv, by array. Raises
    CommandError."""
    path = Path(target)
    check_count(target, tuple(arrays))
    try:
        atomic.write(path, _encode(path.suffix.lower(), arrays, columns))
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}", exit_code=Exit.FAILED) from error


def shapes(arrays: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shape of each array, for messages and JSON."""
    return {name: list(array.shape) for name, array in arrays.items()}


def array(values: Any) -> Any:
    """For a file: what is not an array yet."""
    return np.asarray(values)


def summary(target: str, arrays: Mapping[str, Any]) -> str:
    """Such as "y.npz: y [5, 2]"."""
    return written(target, shapes(arrays))


def written(target: str, shapes: Mapping[str, Sequence[int]]) -> str:
    """The same text, from shapes by name."""
    return f"{target}: {', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}"


def csv_text(values: Any, columns: Sequence[str], *, header: bool = True) -> str:
    """A header with the names in `columns`, if `header` is set, and one line per row, each row flat in C order. The
    text gives exactly the same floats when it is read."""
    table = values.reshape(len(values), len(columns))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(columns)
    # Python writes a float64 with the same text as numpy, but faster.
    cells = table.tolist() if table.dtype == np.float64 else [[str(value) for value in row] for row in table]
    writer.writerows(cells)
    return out.getvalue()


def _encode(form: str, arrays: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> bytes:
    if form == ".json":
        return (json_text({name: array.tolist() for name, array in arrays.items()}) + "\n").encode()
    if form == ".csv":
        name, values = next(iter(arrays.items()))
        return csv_text(values, columns[name]).encode()
    out = io.BytesIO()
    if form == ".npz":
        np.savez(out, **arrays)
    else:
        np.save(out, next(iter(arrays.values())))
    return out.getvalue()
