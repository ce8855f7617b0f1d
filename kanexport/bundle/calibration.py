"""Calibration of prediction intervals: rows with targets (`--calibration`), on which the exporter runs the serving
graph.

The file is an .npz with the inputs `x` [B, ...] and the targets `y`, or a .csv with a header: columns named y, y0, y1,
... or as an output are targets, all others are inputs. A model of several inputs has one array per input, by its name.
Targets are numbers [B, ...] in the shape of the output, or labels [B] (integers from 0) of a model with two or more
outputs. The rows must not be training rows, whose residuals are too small.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.bundle import baseline
from kanexport.bundle.description import Signature
from kanexport.errors import OptionError, needs, option_out_of_range, option_value_unknown, rows_not_finite
from kanexport.lowering.lower import Lowered
from kanexport.shared import conformal, csv_columns, safe_files, sections
from kanexport.shared.naming import Names
from kanexport.verify import graph_runner
from kanexport.verify.graph_runner import FLOAT, Port

Array = npt.NDArray[np.float64]

CALIBRATION = "--calibration"
METHODS = (sections.ABSOLUTE, sections.NORMALIZED)  # values of --interval-method
FORMS = "pass an .npz with the arrays x and y, or a .csv with a header whose target columns are named y, or y0, y1, ..."
Y = "y"
TARGET = re.compile(r"y\d*", re.IGNORECASE)
LABELS = 2**31  # larger numbers are not labels
NUMBERS = 4096  # of a row of the output; each has its quantile in the manifest
PER_POINT, MOST_POINTS = 50, 16  # rows for each point of the table of spreads, and its size
FLOOR = 0.1  # smallest spread, relative to the mean of all rows
SUM = 1e-3  # largest distance of the sum of probabilities from 1
UNLIKELY = 4.0  # standard deviations
SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Calibration rows of a file.

    inputs        [B, ...], by name
    targets       [B, ...], as in the file
    columns       names of the input columns of a .csv
    name, sha256  of the file
    """

    inputs: dict[str, npt.NDArray[Any]]
    targets: npt.NDArray[Any]
    columns: tuple[str, ...]
    name: str
    sha256: str

    def as_baseline(self) -> baseline.Rows | None:
        """The inputs as baseline rows; None for several inputs."""
        if len(self.inputs) != 1:
            return None
        (x,) = self.inputs.values()
        return baseline.Rows(x.astype(np.float64), self.columns, self.name, self.sha256)


@dataclass(frozen=True, slots=True)
class IntervalOptions:
    """Options of prediction intervals: `--calibration` with `--coverage`. `coverage`: 0 for no intervals."""

    coverage: float = 0.0
    method: str = sections.ABSOLUTE
    rows: Rows | None = None


NO_OPTIONS = IntervalOptions()


def options(
    path: str | Path | None, coverage: float | None, method: str = "", classes: Sequence[str] = ()
) -> IntervalOptions:
    """The options, with the rows of the file. `classes`: names of the outputs. Raises OptionError."""
    if coverage is None:
        if method:
            raise needs("--interval-method", "--coverage", "add --coverage, such as --coverage 0.9")
        return NO_OPTIONS
    if path is None:
        raise needs("--coverage", CALIBRATION, "add --calibration, rows with targets that the model was not trained on")
    if not 0 < coverage < 1:
        raise option_out_of_range(
            f"--coverage is {coverage:g}, expected a number between 0 and 1",
            hint="pass the share of rows, such as --coverage 0.9",
        )
    if method not in ("", *METHODS):
        raise option_value_unknown(
            f"--interval-method is {method[:40]!r}, expected {' or '.join(METHODS)}",
            hint=f"pass --interval-method {' or '.join(METHODS)}",
        )
    return IntervalOptions(float(coverage), method or sections.ABSOLUTE, load(Path(path), classes))


def load(path: Path, classes: Sequence[str] = ()) -> Rows:
    """The rows in a file. `classes`: names of the outputs. Raises OptionError, which names the file."""
    with baseline.reading(path, CALIBRATION, FORMS):
        data = safe_files.read(path, safe_files.ANY, links=True)
        inputs, targets, columns = _table(path.name, data, classes) if path.suffix == ".csv" else _arrays(data)
    count = len(targets) if targets.ndim else 0
    for key, values in (*inputs.items(), (Y, targets)):
        if values.dtype.kind not in "fiub" or values.ndim < 1 or len(values) != count:
            shown = f"{values.dtype} {list(values.shape)} for {key}"
            raise wrong_shape(path.name, shown, f"{count or 'several'} rows of real numbers")
    if not 1 <= count <= baseline.ROWS_LIMIT:
        raise wrong_shape(path.name, f"{count} rows", f"1 to {baseline.ROWS_LIMIT}")
    return Rows(inputs, targets, columns, path.name, hashlib.sha256(data).hexdigest())


def _arrays(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any], tuple[str, ...]]:
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise ValueError("found one array, expected the arrays x and y")  # noqa: TRY004 - of a file
    with loaded:
        if Y not in loaded.files or len(loaded.files) < 2:
            raise ValueError(f"found {', '.join(loaded.files)[:100] or 'no array'}, expected the arrays x and y")
        return {key: loaded[key] for key in loaded.files if key != Y}, loaded[Y], ()


def _table(
    name: str, data: bytes, classes: Sequence[str]
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any], tuple[str, ...]]:
    """The columns of a .csv. One target column gives targets [B]. Raises CsvError and ValueError."""
    values, header = csv_columns.whole(name, data)
    names = [column.strip() for column in header]
    is_target = np.array([column in classes or TARGET.fullmatch(column) is not None for column in names], bool)
    if not is_target.any() or is_target.all():
        shown = ", ".join(names)[:200] or "no header"
        raise ValueError(f"found the columns {shown}, expected inputs, and targets named y, or y0, y1, ...")
    targets: npt.NDArray[Any] = values[:, is_target]
    if targets.shape[1] == 1:  # integers if all numbers are whole: they may be labels
        targets = targets[:, 0]
        whole = np.isfinite(targets) & (targets == np.rint(targets)) & (np.abs(targets) < LABELS)
        targets = targets.astype(np.int64) if whole.all() else targets
    return {"x": values[:, ~is_target]}, targets, tuple(itertools.compress(names, ~is_target))


def wrong_shape(name: str, had: str, expected: str) -> OptionError:
    """The error for a calibration file of another shape. `name`: of the file."""
    return OptionError(
        f"{CALIBRATION} {name} has {had}, expected {expected}", code="calibration-wrong-shape", hint=FORMS
    )


def measure(
    wanted: IntervalOptions, lowered: Lowered, signature: Signature, names: Names, dtype: str
) -> tuple[sections.Intervals, tuple[str, ...]]:
    """The intervals of the serving graph, and notes for the manifest; none without options. Raises OptionError if the
    rows do not fit the model."""
    rows = wanted.rows
    if rows is None:
        return sections.NO_INTERVALS, ()
    port = _output(signature.ports.outputs)
    predicted = predicted_on(rows, lowered, signature, names, dtype).reshape(len(rows.targets), port.size)
    require_finite(predicted, rows, "the output of the model")
    inputs = [x.reshape(len(x), -1) for x in inputs_of(rows, signature, names).values()]
    low, high = (tuple(np.concatenate([end(x, axis=0) for x in inputs]).tolist()) for end in (np.min, np.max))
    about = sections.Intervals(
        coverage=wanted.coverage, name=rows.name, sha256=rows.sha256, rows=len(predicted), low=low, high=high
    )
    if port.size > 1 and rows.targets.ndim == 1:
        return _sets(about, wanted, rows, predicted, port)
    if rows.targets[0].size != port.size:
        raise wrong_shape(
            rows.name, f"targets of shape {list(rows.targets.shape[1:])}", f"{list(port.shape)}, or labels [rows]"
        )
    targets = rows.targets.astype(np.float64).reshape(predicted.shape)
    require_finite(targets, rows, "the target")
    return _regression(about, wanted.method, predicted, np.abs(targets - predicted))


def _output(outputs: Sequence[Port]) -> Port:
    if len(outputs) != 1 or outputs[0].kind != FLOAT or outputs[0].size > NUMBERS:
        raise OptionError(
            f"--coverage needs a model with one floating-point output of at most {NUMBERS} numbers per row",
            code="rows-not-supported",
            hint="export without --coverage",
        )
    return outputs[0]


def predicted_on(rows: Rows, lowered: Lowered, signature: Signature, names: Names, dtype: str) -> Array:
    """The outputs of the serving graph [B, ...] on the rows."""
    values = inputs_of(rows, signature, names)
    feeds = {port.name: port.cast(values[port.name], dtype) for port in signature.ports.inputs}
    return graph_runner.run_graph(lowered, feeds)[signature.ports.outputs[0].name]


def inputs_of(rows: Rows, signature: Signature, names: Names) -> dict[str, Array]:
    """The inputs of the graph [B, ...] by name, as in the file, and in the order of the model. Raises OptionError."""
    ports = signature.ports.inputs
    if len(ports) == 1 and len(rows.inputs) == 1:
        (x,) = rows.inputs.values()
        if rows.columns:  # in the order of the model, by their names
            own = baseline.Rows(x.astype(np.float64), rows.columns, rows.name, rows.sha256)
            x = baseline.fitting(own, signature.inputs(), names, CALIBRATION)
        inputs = {ports[0].name: x}
    else:
        inputs = rows.inputs
    missing = [port.name for port in ports if port.name not in inputs]
    if missing:
        raise wrong_shape(rows.name, f"the inputs {', '.join(inputs)}", ", ".join(port.name for port in ports))
    values_by_name = {}
    for port in ports:
        x = inputs[port.name]
        if x.size != len(x) * port.size:
            raise wrong_shape(rows.name, f"rows of shape {list(x.shape[1:])} for {port.name}", str(list(port.shape)))
        values = x.reshape(len(x), *port.shape).astype(np.float64)
        require_finite(values.reshape(len(x), -1), rows, port.name)
        values_by_name[port.name] = values
    return values_by_name


def require_finite(values: Array, rows: Rows, what: str) -> None:
    """Raises OptionError for NaN and infinities. `values` [B, n]; `what`: their name in the message."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = map(int, bad[0])
        raise rows_not_finite(
            f"{CALIBRATION} {rows.name}: {what} is {values[row, column]} in row {row}, expected finite numbers"
        )


def _require_rows(about: sections.Intervals, rows: int, factor: int = 1) -> None:
    """Raises OptionError if a file has too few rows for a finite quantile.

    rows    rows that give the quantile
    factor  rows of the file, divided by `rows`
    """
    needed = conformal.rows_needed(about.coverage)
    if rows < needed:
        raise OptionError(
            f"{CALIBRATION} {about.name} has {about.rows} rows, expected {factor * needed} or more for --coverage "
            f"{about.coverage:g}",
            code="calibration-too-few-rows",
            hint="pass more rows, or a smaller --coverage",
        )


def _regression(
    about: sections.Intervals, method: str, predicted: Array, residuals: Array
) -> tuple[sections.Intervals, tuple[str, ...]]:
    """Intervals of numbers; `predicted` and absolute `residuals` are [B, n]."""
    count = len(predicted)
    fitting = 0 if method == sections.ABSOLUTE else count // 2
    _require_rows(about, count - fitting, 1 if method == sections.ABSOLUTE else 2)
    order = np.random.default_rng(SEED).permutation(count)
    fit, rest = order[:fitting], np.sort(order[fitting:])
    outputs: list[sections.OutputInterval] = []
    shares: list[float] = []
    for at in range(predicted.shape[1]):
        own = sections.OutputInterval(quantile=0.0, points=(), spreads=(), width=0.0)
        if fitting:
            points, spreads = _spreads(predicted[fit, at], residuals[fit, at])
            own = dataclasses.replace(own, points=points, spreads=spreads)
        spread = conformal.spread(own, predicted[:, at])
        scores = residuals[rest, at] / spread[rest]
        quantile = conformal.quantile(scores, about.coverage)
        outputs.append(dataclasses.replace(own, quantile=quantile, width=float(2 * quantile * spread.mean())))
        shares.append(_checked(scores, about.coverage))
    section = dataclasses.replace(about, method=method, fitted=fitting, outputs=tuple(outputs), checked=min(shares))
    widths = ", ".join(f"{own.width:.4g}" for own in outputs[:8]) + (" ..." if len(outputs) > 8 else "")
    several = "; the coverage holds for each number of the output by itself" if len(outputs) > 1 else ""
    return section, (f"{section.text}; mean width {widths}{several}; {sections.EXCHANGEABLE}", *_unlikely(section))


def _spreads(predicted: Array, residuals: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean absolute residual in bins of equally many rows, at the mean predicted value of each. Rows [B]."""
    order = np.argsort(predicted, kind="stable")
    bins = np.array_split(order, max(1, min(MOST_POINTS, len(order) // PER_POINT)))
    overall = residuals.mean()
    points, place = np.unique([predicted[rows].mean() for rows in bins], return_inverse=True)
    sums = np.bincount(place, [residuals[rows].mean() for rows in bins])
    spreads = np.maximum(sums / np.bincount(place), FLOOR * overall) if overall else np.ones(len(points))
    return tuple(points.tolist()), tuple(spreads.tolist())


def _sets(
    about: sections.Intervals, wanted: IntervalOptions, rows: Rows, outputs: Array, port: Port
) -> tuple[sections.Intervals, tuple[str, ...]]:
    """Sets of classes; `outputs` [B, C]."""
    if len(port.shape) != 1:
        raise wrong_shape(rows.name, "labels [rows]", f"targets of shape {list(port.shape)}")
    if wanted.method != sections.ABSOLUTE:
        raise OptionError(
            f"--interval-method {wanted.method} needs targets of shape {list(port.shape)}, found labels",
            code="calibration-wrong-shape",
            hint="remove --interval-method: prediction sets of a classifier have one method",
        )
    labels = _labels(rows, outputs.shape[1])
    _require_rows(about, len(labels))
    sums = np.abs(outputs.sum(axis=1) - 1)
    probable = bool((outputs >= 0).all() and (sums <= SUM).all())
    scores = sections.PROBABILITIES if probable else sections.LOGITS
    p = conformal.probabilities(outputs, scores)
    missed = 1 - p[np.arange(len(labels)), labels]
    threshold = conformal.quantile(missed, about.coverage)
    chosen = 1 - p <= threshold
    chosen[np.arange(len(labels)), outputs.argmax(axis=1)] = True
    section = dataclasses.replace(
        about,
        method=sections.LAC,
        scores=scores,
        threshold=threshold,
        size=float(chosen.sum(axis=1).mean()),
        checked=_checked(missed, about.coverage),
    )
    absent = sorted(set(range(outputs.shape[1])) - set(labels.tolist()))
    unseen = f"{CALIBRATION} {rows.name} has no row of the classes {absent[:8]}{' ...' if len(absent) > 8 else ''}"
    notes = (unseen,) if absent else ()
    about_sets = (
        f"{section.text}; mean size {section.size:.3g}; the outputs are taken as {scores}; the most probable class is "
        f"in each set; {sections.EXCHANGEABLE}"
    )
    return section, (about_sets, *notes, *_unlikely(section))


def _labels(rows: Rows, classes: int) -> npt.NDArray[np.int64]:
    """Raises OptionError for labels that are not numbers of classes."""
    if rows.targets.dtype.kind not in "iu":
        raise OptionError(
            f"{CALIBRATION} {rows.name} has labels of type {rows.targets.dtype}, expected integers",
            code="calibration-labels-invalid",
            hint=f"store y as integers from 0 to {classes - 1}, or as numbers in the shape of the output",
        )
    bad = np.flatnonzero((rows.targets < 0) | (rows.targets >= classes))
    if len(bad):
        raise OptionError(
            f"{CALIBRATION} {rows.name} has the label {rows.targets[bad[0]]} in row {bad[0]}, expected 0 to "
            f"{classes - 1}",
            code="calibration-labels-invalid",
            hint="number the classes in the order of the outputs, from 0",
        )
    return rows.targets.astype(np.int64)


def _checked(scores: Array, coverage: float) -> float:
    """The share of the second half of scores [B], in the order of the file, that are at most the quantile of the first
    half; -1 if the first half is too small."""
    first, second = scores[: len(scores) // 2], scores[len(scores) // 2 :]
    limit = conformal.quantile(first, coverage) if len(first) else math.inf
    return float((second <= limit).mean()) if math.isfinite(limit) else -1.0


def _unlikely(section: sections.Intervals) -> tuple[str, ...]:
    """A note if the two halves of the file differ by more than `UNLIKELY` standard deviations."""
    half = (section.rows - section.fitted) / 2
    deviation = math.sqrt(2 * section.coverage * (1 - section.coverage) / half)
    if section.checked < 0 or section.checked >= section.coverage - UNLIKELY * deviation:
        return ()
    return (
        f"the quantiles of the first half of {section.name} cover {section.checked:.1%} of the second half, expected "
        f"about {section.coverage:.1%}: the rows change along the file, so they may not be exchangeable with new rows",
    )
