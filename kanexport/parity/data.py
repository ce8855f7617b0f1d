"""Recorded outputs of a trained model: inputs `x` [B, ...] and its outputs for them, `y` [B, ...].

The file is an .npz with the arrays `x` and `y` (and, from `record_outputs`, `zone`), a pair of
.npy files with the inputs first, or a .csv with the columns x0, x1, ... and y0, y1, ...

For a model of several inputs, the .npz has one array per input, with the input's name. For several outputs it has the
arrays `y.NAME`. An input called `y` or `zone` is the array `x.y` or `x.zone`.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import OptionError
from kanexport.shared import csv_columns, csv_text, safe_files
from kanexport.verify.graph_runner import FLOAT, Port, join, split

Array = npt.NDArray[np.float64]

GIVEN = "given"  # the zone of rows that the user chose
ROWS_LIMIT = 100_000
X, Y, ZONE = "x", "y", "zone"  # names of arrays in a file
FORMS = (
    "pass an .npz with the arrays x and y, two .npy files (inputs, then outputs), or a .csv with columns x0,... and "
    "y0,..."
)
RECORD = "record them with kanexport.record_outputs(model, rows, 'outputs.npz')"


@dataclass(frozen=True, slots=True, eq=False)
class RecordedOutputs:
    """Recorded outputs of the trained model, with their rows, in float64.

    dtype            the type that the model computed in, float32 or float64
    usual            [B]: rows that the user chose, as opposed to those far outside of them
    name, sha256     of the file
    inputs, outputs  the arrays in `x` and `y`, which `ports.join` joins if there are several
    from_recorder    whether `record_outputs` wrote the file
    places           [B]: the number of each row in the file, if these are only some of the file's rows
    """

    x: Array
    y: Array
    dtype: str
    usual: npt.NDArray[np.bool_]
    name: str
    sha256: str
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    from_recorder: bool = False
    places: npt.NDArray[np.int_] | None = None

    def place(self, row: int) -> int:
        """The number of a row in the file."""
        return row if self.places is None else int(self.places[row])

    def some(self, count: int) -> RecordedOutputs:
        """A sample of the rows, `count` at most, from all parts of the file."""
        if len(self.x) <= count:
            return self
        return self.at(np.unique(np.linspace(0, len(self.x) - 1, count).astype(int)))

    def at(self, rows: Sequence[int] | npt.NDArray[np.int_]) -> RecordedOutputs:
        """The recorded outputs for the given positions of rows."""
        chosen = np.asarray(rows, dtype=int)
        places = chosen if self.places is None else self.places[chosen]
        return replace(self, x=self.x[chosen], y=self.y[chosen], usual=self.usual[chosen], places=places)

    def joined(self, others: RecordedOutputs) -> RecordedOutputs:
        """These rows, then other rows of the same file."""
        own, more = (np.arange(len(part.x)) if part.places is None else part.places for part in (self, others))
        return replace(
            self,
            x=np.concatenate([self.x, others.x]),
            y=np.concatenate([self.y, others.y]),
            usual=np.concatenate([self.usual, others.usual]),
            places=np.concatenate([own, more]),
        )

    def of_network(self) -> RecordedOutputs:
        """The recorded outputs for a network of one input [N, n] and one output, the first of several outputs. If
        rows are tokens, x [B, *T, n] and y [B, *T, m], every token becomes a row. Raises OptionError for several
        inputs."""
        parts = dict(zip((port.name for port in self.inputs), split(self.inputs, self.x), strict=True))
        if len(parts) > 1 and (self.from_recorder or X not in parts):
            raise OptionError(
                f"--expected-outputs {self.name} has the inputs {', '.join(parts)}, expected the single input x",
                code="expected-outputs-wrong-shape",
                hint="record the inputs of the network itself, or export the PyTorch module with --module",
            )
        x, y = parts.get(X, next(iter(parts.values()))), split(self.outputs, self.y)[0]
        usual, tokens = self.usual, x.shape[:-1]
        if x.ndim > 2 and y.shape[:-1] == tokens:
            x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
            usual = np.repeat(usual, math.prod(tokens[1:]))
        single = replace(self, x=x, y=y, usual=usual, inputs=self.inputs[:1], outputs=self.outputs[:1])
        return single.some(ROWS_LIMIT)

    def of_model(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> RecordedOutputs:
        """The recorded outputs for a model with these inputs and outputs, in their order. Raises OptionError if one is
        missing or has another shape."""
        x = _chosen(split(self.inputs, self.x), self.inputs, inputs, self.name, "input")
        for at, (rows, port) in enumerate(zip(x, inputs, strict=True)):
            if rows[0].size != port.size:
                shown = f"rows of shape {rows.shape[1:]}" + (f" for {port.name}" if len(x) > 1 else "")
                raise OptionError(
                    f"--expected-outputs {self.name} has {shown}, expected {port.shape}",
                    code="expected-outputs-wrong-shape",
                    hint=FORMS,
                )
            x[at] = rows.reshape(-1, *port.shape)
        y = _chosen(split(self.outputs, self.y), self.outputs, outputs, self.name, "output")
        return replace(self, x=join(x), y=join(y), inputs=tuple(inputs), outputs=tuple(outputs))


def _chosen(parts: Sequence[Array], has: Sequence[Port], wanted: Sequence[Port], name: str, what: str) -> list[Array]:
    """The arrays of the inputs or outputs of a model, in its order."""
    by_name = _by_name(parts, has, wanted, Y if what == "output" else X)
    missing = [port.name for port in wanted if port.name not in by_name]
    if missing:
        raise OptionError(
            f"--expected-outputs {name} has the {what}s {', '.join(port.name for port in has)}, expected "
            f"{', '.join(port.name for port in wanted)}",
            code="expected-outputs-wrong-names",
            hint=RECORD,
        )
    return [by_name[port.name] for port in wanted]


def _by_name(parts: Sequence[Array], has: Sequence[Port], wanted: Sequence[Port], usual: str) -> dict[str, Array]:
    """The arrays by the names of the model. A model with one input (or output) takes the single array, for any name."""
    arrays = {port.name: part for port, part in zip(has, parts, strict=True)}
    only = wanted[0].name
    if len(wanted) > 1 or only in arrays:
        return arrays
    if len(parts) == 1:
        return {only: parts[0]}
    return {only: arrays[usual]} if usual in arrays else arrays


def load(paths: Sequence[Path]) -> RecordedOutputs:
    """The recorded outputs in one file, or in two .npy files. Raises OptionError, which names the file."""
    if len(paths) > 2 or (len(paths) == 2 and any(path.suffix != ".npy" for path in paths)):
        raise OptionError(
            f"--expected-outputs is given {len(paths)} times, expected one file or two .npy files",
            code="option-repeated",
            hint=FORMS,
        )
    data = []
    for path in paths:
        try:
            data.append(safe_files.read(path, safe_files.ANY, links=True))
        except OSError as error:
            raise OptionError(
                f"--expected-outputs {path} cannot be read: {error.strerror}",
                code="expected-outputs-unreadable",
                hint=RECORD,
            ) from error
    name = " and ".join(path.name for path in paths)
    digest = hashlib.sha256(b"".join(data)).hexdigest()
    try:
        arrays = _arrays(paths, data)
    except csv_text.CsvError as error:
        raise OptionError(f"--expected-outputs: {error.args[0]}", code=error.code, hint=FORMS) from error
    except csv_columns.DAMAGED as error:
        raise OptionError(
            f"--expected-outputs {name} cannot be read: {str(error)[:200]}",
            code="expected-outputs-unreadable",
            hint=FORMS,
        ) from error
    return recorded_outputs(arrays, name, digest)


def recorded_outputs(arrays: dict[str, Any], name: str, digest: str) -> RecordedOutputs:
    """The arrays of a file, checked: numbers, as many outputs as inputs, at least one. Raises OptionError."""
    from_recorder = ZONE in arrays
    took, gave = _named(arrays, from_recorder=from_recorder)
    inputs, outputs = ({own: _numbers(arrays, key, name) for own, key in some.items()} for some in (took, gave))
    rows = _rows(inputs, outputs, name)
    zone = arrays[ZONE] if from_recorder else np.full(rows, GIVEN)
    if zone.shape != (rows,):
        raise OptionError(
            f"--expected-outputs {name}: zone has shape {zone.shape}, expected ({rows},)",
            code="expected-outputs-wrong-shape",
            hint=RECORD,
        )
    x, y = ([part[:ROWS_LIMIT].astype(np.float64) for part in parts.values()] for parts in (inputs, outputs))
    with np.errstate(over="ignore"):  # the model computed in float64 only if the outputs need it
        narrow = all(
            np.array_equal(part.astype(np.float32).astype(np.float64), part.astype(np.float64), equal_nan=True)
            for part in outputs.values()
        )
    return RecordedOutputs(
        join(x),
        join(y),
        "float32" if narrow else "float64",
        np.asarray(zone[:ROWS_LIMIT].astype(str) == GIVEN),
        name,
        digest,
        _ports(inputs),
        _ports(outputs),
        from_recorder,
    )


def _named(arrays: Mapping[str, Any], *, from_recorder: bool) -> tuple[dict[str, str], dict[str, str]]:
    """The keys of inputs and of outputs, by their names."""
    gave = {key.partition(".")[2] or key: key for key in arrays if _is_output(key)}
    took = {key.removeprefix(f"{X}."): key for key in arrays if key != ZONE and not _is_output(key)}
    return (took if from_recorder else _inputs(took, arrays)) or {X: X}, gave or {Y: Y}


def _inputs(took: Mapping[str, str], arrays: Mapping[str, Any]) -> dict[str, str]:
    """The keys of inputs in a file that `record_outputs` did not write. Arrays next to its `x` may be inputs, or
    not."""
    if X not in took:
        return dict(took)
    x = arrays[took[X]]
    rows = len(x) if x.ndim else -1
    return {
        own: key
        for own, key in took.items()
        if own == X or (arrays[key].dtype.kind in "fiub" and arrays[key].ndim and len(arrays[key]) == rows)
    }


def _is_output(key: str) -> bool:
    return key == Y or key.startswith(f"{Y}.")


def stored(inputs: Mapping[str, Any], outputs: Mapping[str, Any], zone: Any) -> dict[str, Any]:
    """The arrays of a file, by the names that `recorded_outputs` reads."""
    reserved = (Y, ZONE)
    arrays = {f"{X}.{name}" if name in reserved else name: rows for name, rows in inputs.items()}
    only = len(outputs) == 1
    return arrays | {Y if only else f"{Y}.{name}": rows for name, rows in outputs.items()} | {ZONE: zone}


def _rows(inputs: Mapping[str, Any], outputs: Mapping[str, Any], name: str) -> int:
    """The number of rows. Raises OptionError if arrays differ in it."""
    counts = {own: len(rows) for own, rows in (*inputs.items(), *outputs.items())}
    rows, *_ = counts.values()
    if set(counts.values()) != {rows} or not rows:
        shown = " and ".join(
            f"{count} rows of {own}" if not at else f"{count} of {own}"
            for at, (own, count) in enumerate(counts.items())
        )
        raise OptionError(
            f"--expected-outputs {name} has {shown}, expected the same number, at least one",
            code="expected-outputs-wrong-shape",
            hint="store one row of outputs for each row of inputs",
        )
    return rows


def _ports(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Port, ...]:
    return tuple(
        Port(name, rows.shape[1:], FLOAT if rows.dtype.kind == "f" else rows.dtype.name)
        for name, rows in arrays.items()
    )


def _numbers(arrays: dict[str, Any], key: str, name: str) -> npt.NDArray[Any]:
    value = arrays.get(key)
    if value is None:
        raise OptionError(
            f"--expected-outputs {name} has {', '.join(arrays) or 'no arrays'}, expected {key}",
            code="expected-outputs-wrong-names",
            hint=FORMS,
        )
    if value.dtype.kind not in "fiub" or value.ndim < 1:
        kind = f"{value.dtype} of shape {value.shape}"
        raise OptionError(
            f"--expected-outputs {name}: {key} is {kind}, expected rows of real numbers",
            code="expected-outputs-wrong-shape",
            hint=FORMS,
        )
    return np.asarray(value)


def _arrays(paths: Sequence[Path], data: Sequence[bytes]) -> dict[str, Any]:
    if len(paths) == 2:
        return {key: np.load(io.BytesIO(content), allow_pickle=False) for key, content in zip("xy", data, strict=True)}
    if paths[0].suffix == ".csv":
        return _columns(paths[0].name, data[0])
    loaded = np.load(io.BytesIO(data[0]), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"one array": loaded}
    with loaded:
        return {key: loaded[key] for key in loaded.files}


def _columns(name: str, data: bytes) -> dict[str, Any]:
    """The columns with the names x... and y..., each in their order. Raises CsvError."""
    values, names = csv_columns.whole(name, data)
    columns = {key: [at for at, column in enumerate(names) if column.strip().lower().startswith(key)] for key in "xy"}
    if len(columns["x"]) + len(columns["y"]) != values.shape[1] or not all(columns.values()):
        raise csv_text.CsvError(
            f"{name} has the columns {', '.join(names)[:200] or '(no header)'}, expected names that begin with x and y",
            code="expected-outputs-wrong-names",
            hint=FORMS,
        )
    # Decimal text of float32 values is not a float32: rounding decides what the model computed in.
    return {key: values[:, at].astype(np.float32) for key, at in columns.items()}
