"""Baseline: distributions of the inputs, nodes and outputs of the model on rows of user data (`--baseline`), without
the rows."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.bundle.description import Signature
from kanexport.errors import OptionError
from kanexport.lowering.lower import Lowered
from kanexport.shared import csv_columns, csv_text, grids, safe_files
from kanexport.shared.manifest import LayerInfo, TensorSpec
from kanexport.shared.naming import Names, NamingError
from kanexport.shared.sections import Baseline, NodeBaseline
from kanexport.verify import graph_runner

Array = npt.NDArray[np.float64]

FORMS = "pass rows as .npy [rows, ...], .npz with one array or one named x, or .csv"
rows_wrong_shape = functools.partial(OptionError, code="rows-wrong-shape", hint=FORMS)
BASELINE = "--baseline"
FRAME = "a DataFrame"
ROWS_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of user data.

    x             [B, ...], as in the file
    columns       the column names of a .csv or a DataFrame
    name, sha256  of the file
    """

    x: Array
    columns: tuple[str, ...]
    name: str
    sha256: str

    def ordered(self, names: Names, flag: str) -> Array:
        """The rows with their columns in the order of the features, if both have names. `flag`: of the command. Raises
        OptionError for columns that are not the features."""
        try:
            order = names.order(self.columns)
        except NamingError as error:
            raise OptionError(f"{flag} {self.name}: {error}", code=error.code, hint=error.hint) from error
        return self.x if order is None else self.x[:, order]

    def features(self) -> tuple[str, ...]:
        """The columns as names of the features of a model; empty if there is no header. Raises NamingError if the
        header has no valid names."""
        width = math.prod(self.x.shape[1:])
        if self.columns:
            Names(features=self.columns).check(width, 0)
        return self.columns


def load(path: Path, flag: str = BASELINE, array: str = "x") -> Rows:
    """The rows in the file of a `flag` of the command. `array`: the one to read, if an .npz file has several. Raises
    OptionError, which names the file."""
    with reading(path, flag, FORMS):
        data = safe_files.read(path, safe_files.ANY, links=True)
        x, columns = _read(path, data, array)
    _require_rows(x, path.name, flag)
    return Rows(x.astype(np.float64), columns, path.name, hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def reading(path: Path, flag: str, forms: str) -> Iterator[None]:
    """Turns errors of a file of rows into OptionErrors, which name the `flag` of the command and advise the `forms` of
    such a file."""
    try:
        yield
    except csv_text.CsvError as error:
        raise OptionError(f"{flag}: {error.args[0]}", code=error.code, hint=forms) from error
    except OSError as error:
        raise OptionError(
            f"{flag} {path} cannot be read: {error.strerror or error}", code="rows-unreadable", hint=forms
        ) from error
    except csv_columns.DAMAGED as error:
        raise OptionError(
            f"{flag} {path.name} cannot be read: {str(error)[:200]}", code="rows-unreadable", hint=forms
        ) from error


def rows_of(source: str | Path | Any) -> Rows:
    """The rows of a file or of a DataFrame (an object with columns and to_numpy). Raises OptionError."""
    if not (hasattr(source, "columns") and hasattr(source, "to_numpy")):
        return load(Path(source))
    x, columns = np.asarray(source.to_numpy()), tuple(str(name).strip() for name in source.columns)
    _require_rows(x, FRAME, BASELINE)
    x = np.ascontiguousarray(x, dtype=np.float64)
    return Rows(x, columns, FRAME, hashlib.sha256(x.tobytes()).hexdigest())


def _require_rows(x: npt.NDArray[Any], name: str, flag: str) -> None:
    if x.dtype.kind not in "fiu" or x.ndim < 2 or not 2 <= len(x) <= ROWS_LIMIT:
        kind = f"{x.dtype} of shape {list(x.shape)}"
        raise rows_wrong_shape(f"{flag} {name} has {kind}, expected 2 to {ROWS_LIMIT} rows of numbers")


def _read(path: Path, data: bytes, array: str) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    if path.suffix == ".csv":
        numbers, header = csv_columns.whole(path.name, data)
        return numbers, tuple(name.strip() for name in header)
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded, ()
    with loaded:
        name = array if array in loaded.files else loaded.files[0] if len(loaded.files) == 1 else ""
        if not name:
            raise ValueError(f"found {', '.join(loaded.files)[:100] or 'no array'}, expected an array named {array}")
        return loaded[name], ()


def measure(
    rows: Rows, lowered: Lowered, layers: Sequence[LayerInfo], signature: Signature, names: Names, dtype: str
) -> Baseline:
    """Run the graph on the rows. Raises OptionError if the rows do not fit the model."""
    inputs, outputs = signature.inputs(), signature.outputs()
    x = fitting(rows, inputs, names)
    name, feed = inputs[0].name, x.astype(dtype)
    values_by_tensor = graph_runner.run_graph(lowered, {name: feed}) | {name: feed.astype(np.float64)}
    nodes = {name: values.reshape(-1, values.shape[-1]) for name, values in values_by_tensor.items()}
    return Baseline(
        name=rows.name,
        sha256=rows.sha256,
        rows=len(x),
        mean=grids.rounded(*_moments(x.reshape(len(x), -1))),
        layers=tuple(_counted(nodes[layer.node_tensor], functools.partial(grids.grid, layer)) for layer in layers),
        outputs=tuple(_counted(nodes[tensor.name], lambda node: ()) for tensor in outputs),
    )


def mean(rows: Rows, signature: Signature, names: Names) -> tuple[float, ...]:
    """The mean of each input value, as the baseline stores it. Raises OptionError if the rows do not fit the model."""
    x = fitting(rows, signature.inputs(), names)
    return grids.rounded(*_moments(x.reshape(len(x), -1)))


def fitting(rows: Rows, inputs: Sequence[TensorSpec], names: Names, flag: str = BASELINE) -> Array:
    """[B, ...] in the shape of the model, with the columns in its order by their names. Raises OptionError."""
    if len(inputs) != 1 or inputs[0].datatype not in ("FP32", "FP64"):
        raise OptionError(
            f"{flag} needs a model with one floating-point input",
            code="rows-not-supported",
            hint=f"export without {flag}",
        )
    shape, x = inputs[0].shape[1:], rows.x
    if x[0].size != math.prod(shape):
        raise rows_wrong_shape(f"{flag} {rows.name} has rows of shape {list(x.shape[1:])}, expected {list(shape)}")
    return np.asarray(rows.ordered(names, flag).reshape(len(x), *shape))


def _counted(nodes: Array, grid: Callable[[int], tuple[float, ...]]) -> NodeBaseline:
    """`nodes` [N, n]; `grid`: the bounds of the intervals of a node, if it has a grid."""
    bounds = []
    for at in range(nodes.shape[1]):
        own = grid(at)
        if len(own) <= 1:  # equal parts of the range of the values
            finite = nodes[np.isfinite(nodes[:, at]), at]
            own = grids.equal(*((finite.min(), finite.max()) if len(finite) else (0.0, 0.0)))
        bounds.append(own)
    counts, nonfinite = zip(
        *(grids.count(node_bounds, nodes[:, at]) for at, node_bounds in enumerate(bounds)), strict=True
    )
    mean, std = _moments(nodes)
    return NodeBaseline(
        cells=(bounds[0],) if len(set(bounds)) == 1 else tuple(bounds),
        counts=counts,
        nonfinite=nonfinite,
        mean=grids.rounded(mean, std),
        std=grids.rounded(std),
    )


def _moments(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the finite values of each column; 0 without finite values."""
    finite = np.isfinite(values)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, values, 0.0).sum(axis=0) / count
    with np.errstate(all="ignore"):
        deviations = np.where(finite, values - mean, 0.0)
    return mean, np.sqrt((deviations**2).sum(axis=0) / count)
