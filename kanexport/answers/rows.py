"""Answers of a trained model: inputs `x` [B, ...] and what it gave for them, `y` [B, ...].

They come as an .npz with the arrays `x` and `y` (and, from `record_answers`, `zone`), as two
.npy files, the inputs first, or as a .csv whose header names the columns x0, x1, ... and
y0, y1, ...
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import OptionError
from kanexport.shared import csvrows

Array = npt.NDArray[np.float64]

GIVEN = "given"  # the zone of rows that the user chose
ROWS_LIMIT = 100_000
FORMS = (
    "an .npz with the arrays x and y, two .npy files (inputs, then answers), or a .csv with columns x0,... and y0,..."
)
RECORD = "kanexport.record_answers(model, rows, 'answers.npz') writes them from a live torch module"


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Rows and the trained model's answers, in float64; `dtype`: what the model computed in, float32 or
    float64. `usual` [B]: rows that the user chose, as opposed to those far outside of them. `name`
    and `sha256`: of the file."""

    x: Array
    y: Array
    dtype: str
    usual: npt.NDArray[np.bool_]
    name: str
    sha256: str

    def some(self, count: int) -> Answers:
        """At most so many of the rows, from all parts of the file."""
        if len(self.x) <= count:
            return self
        chosen = np.unique(np.linspace(0, len(self.x) - 1, count).astype(int))
        return Answers(self.x[chosen], self.y[chosen], self.dtype, self.usual[chosen], self.name, self.sha256)


def load(paths: Sequence[Path]) -> Answers:
    """The answers in one file, or in two .npy files. Raises OptionError, naming the file and what was expected."""
    if len(paths) > 2 or (len(paths) == 2 and any(path.suffix != ".npy" for path in paths)):
        raise OptionError(f"--answers is given {len(paths)} times, expected one file or two .npy files", hint=FORMS)
    data = [_bytes(path) for path in paths]
    name = " and ".join(path.name for path in paths)
    digest = hashlib.sha256(b"".join(data)).hexdigest()
    try:
        arrays = _arrays(paths, data)
    except csvrows.CsvError as error:
        raise OptionError(f"--answers: {error.args[0]}", hint=FORMS) from error
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise OptionError(f"--answers {name} cannot be read: {str(error)[:200]}", hint=FORMS) from error
    return answers(arrays, name, digest)


def answers(arrays: dict[str, Any], name: str, digest: str) -> Answers:
    """Checked: numbers, as many answers as inputs, at least one. Raises OptionError."""
    x, y = (_numbers(arrays, key, name) for key in ("x", "y"))
    if len(x) != len(y) or not len(x):
        raise OptionError(f"--answers {name} has {len(x)} rows of x and {len(y)} of y, expected as many, and some")
    zone = arrays.get("zone")
    if zone is not None and zone.shape != (len(x),):
        raise OptionError(f"--answers {name}: zone has shape {zone.shape}, expected ({len(x)},)")
    usual = np.ones(len(x), dtype=bool) if zone is None else np.asarray(zone.astype(str) == GIVEN)
    wide = y.astype(np.float64)
    part = slice(0, ROWS_LIMIT)
    return Answers(x[part].astype(np.float64), wide[part], _computed_in(x, y), usual[part], name, digest)


def _numbers(arrays: dict[str, Any], key: str, name: str) -> npt.NDArray[Any]:
    value = arrays.get(key)
    if value is None:
        raise OptionError(f"--answers {name} has {', '.join(arrays) or 'nothing'}, but no {key}", hint=FORMS)
    if value.dtype.kind not in "fiu" or value.ndim < 1:
        kind = f"{value.dtype} of shape {value.shape}"
        raise OptionError(f"--answers {name}: {key} is {kind}, expected real numbers, a row each")
    return np.asarray(value)


def _computed_in(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> str:
    """What a model computed in: float64 only where answers need it."""
    with np.errstate(over="ignore"):
        narrow = np.array_equal(y.astype(np.float32).astype(np.float64), y.astype(np.float64), equal_nan=True)
    return "float32" if narrow else "float64"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError(f"--answers {path} cannot be read: {error.strerror}", hint=RECORD) from error


def _arrays(paths: Sequence[Path], data: Sequence[bytes]) -> dict[str, Any]:
    if len(paths) == 2:
        return {key: np.load(io.BytesIO(one), allow_pickle=False) for key, one in zip("xy", data, strict=True)}
    if paths[0].suffix == ".csv":
        return _columns(paths[0].name, data[0])
    loaded = np.load(io.BytesIO(data[0]), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"one array": loaded}
    with loaded:
        return {key: loaded[key] for key in loaded.files}


def _columns(name: str, data: bytes) -> dict[str, Any]:
    """The columns that are named x... and y..., each in their order. Raises CsvError."""
    text = csvrows.decode(name, data)
    names, values = csvrows.header(text), np.array(csvrows.parse(name, text))
    columns = {key: [at for at, one in enumerate(names) if one.strip().lower().startswith(key)] for key in "xy"}
    if len(columns["x"]) + len(columns["y"]) != values.shape[1] or not all(columns.values()):
        raise csvrows.CsvError(
            f"{name} has the columns {', '.join(names)[:200] or '(no header)'}; names that begin with x and y were "
            "expected"
        )
    # Decimal text of float32 values is not a float32: rounding decides what the model computed in.
    return {key: values[:, at].astype(np.float32) for key, at in columns.items()}
