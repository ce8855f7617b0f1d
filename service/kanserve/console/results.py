"""Writing results: .npz, .npy, .csv, .json. A file appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kanserve.console.common import FAILED, CommandError, jsonable

SUFFIXES = (".npz", ".npy", ".csv", ".json")


def check(target: str | None, allowed: tuple[str, ...] = SUFFIXES) -> None:
    """Refuse a name that `write` could not serve, before anything is computed."""
    if target is None:
        return
    path = Path(target)
    if path.suffix.lower() not in allowed:
        raise CommandError(
            f"--output {target}: the name must end in {' or '.join(allowed)}; found {path.suffix or 'no suffix'}"
        )
    if not path.parent.is_dir():
        raise CommandError(f"--output {target}: there is no folder {path.parent}")


def check_count(target: str | None, names: tuple[str, ...]) -> None:
    """Refuse a form that holds one array for a model of several outputs."""
    if target is not None and Path(target).suffix.lower() in (".npy", ".csv") and len(names) != 1:
        raise CommandError(f"--output {target} holds one array; the model has {', '.join(names)}: use .npz or .json")


def write(target: str, arrays: Mapping[str, Any]) -> None:
    """Write the arrays by name, in the form that the suffix says. Raises CommandError."""
    path = Path(target)
    check_count(target, tuple(arrays))
    try:
        _replace(path, _encode(path.suffix.lower(), arrays))
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}", exit_code=FAILED) from error


def csv_text(name: str, values: Any) -> str:
    """A header and one line per row, each row flat in C order under names such as y[0] or
    y[0][1]. Floats are written so that they read back as they were."""
    table = values.reshape(len(values), int(np.prod(values.shape[1:])))
    places = ["".join(f"[{at}]" for at in place) for place in np.ndindex(values.shape[1:])]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([f"{name}{place}" for place in places])
    writer.writerows([[str(value) for value in row] for row in table])
    return out.getvalue()


def _encode(kind: str, arrays: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    if kind == ".npz":
        np.savez(out, **arrays)
        return out.getvalue()
    if kind == ".json":
        return json.dumps(jsonable({n: v.tolist() for n, v in arrays.items()}), allow_nan=False).encode() + b"\n"
    name, values = next(iter(arrays.items()))
    if kind == ".npy":
        np.save(out, values)
        return out.getvalue()
    return csv_text(name, values).encode()


def _replace(path: Path, data: bytes) -> None:
    """Write beside the target, then rename over it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes a private file; results get the mode any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
