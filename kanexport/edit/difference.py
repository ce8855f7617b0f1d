"""Difference report of an edit: outputs of both networks on rows, and the curves of the edited edges.

The outputs are those of the float64 evaluation. The export verifies that the graphs compute the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.edit.apply import Change
from kanexport.edit.edge import in_units
from kanexport.ir.model import Kan
from kanexport.ir.scaling import standardize
from kanexport.shared.manifest import Manifest
from kanexport.verify import float64_reference

Array = npt.NDArray[np.float64]

ROWS = 2000  # that are sampled without rows of the user
CURVE_POINTS = 65
BEYOND = 0.1  # of the grid, that a curve shows on each side
FLIPS = 10  # pairs of outputs that the report names


@dataclass(frozen=True, slots=True)
class OutputChange:
    """Absolute change of one output: the largest, its row, and the mean over the rows with finite outputs."""

    name: str
    largest: float
    row: int
    mean: float


@dataclass(frozen=True, slots=True)
class WorstRow:
    """Row whose outputs change most."""

    row: int
    inputs: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Flips:
    """Rows whose largest output was `before` and is `after`."""

    before: str
    after: str
    rows: int


@dataclass(frozen=True, slots=True)
class CurveChange:
    """Curve of an edited edge at points x over the grid and a bit beyond, in the units of `edit.edge`. Values that
    are not finite are None.

    range_before, range_after  lowest and highest value on the grid
    """

    edge: str
    operation: str
    form: str
    error_max: float
    error_rms: float
    grid: tuple[float, float]
    range_before: tuple[float, float]
    range_after: tuple[float, float]
    x: tuple[float, ...]
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of two networks on rows.

    rows_from           where the rows are from
    changed             on how many rows another output is the largest; -1 if there is one output
    not_finite          rows with an output that is not finite, before and after; they have no part in the changes
    certificates        JSON document of changed ranges and directions; None without a comparison
    certificates_note   the reason, or what was compared
    """

    rows: int
    rows_from: str
    outputs: tuple[OutputChange, ...]
    worst_row: WorstRow | None
    changed: int
    flips: tuple[Flips, ...]
    not_finite: tuple[int, int]
    curves: tuple[CurveChange, ...]
    seconds: float
    certificates: dict[str, Any] | None = None
    certificates_note: str = ""


def compare(
    before: Kan, after: Kan, x: Array, rows_from: str, changes: Sequence[Change], classes: Sequence[str]
) -> Difference:
    """The difference of two networks with the same inputs and outputs on rows x [B, n]. `changes`: the edits between
    them; `classes`: a name for each output."""
    start = time.monotonic()
    old, new = (float64_reference.evaluate(kan, x).y for kan in (before, after))
    finite_old, finite_new = (np.isfinite(y).all(axis=1) for y in (old, new))
    both = np.asarray(finite_old & finite_new)
    with np.errstate(invalid="ignore"):
        change = np.where(both[:, None], np.abs(new - old), 0.0)
    outputs = []
    for name, own in zip(classes, change.T, strict=True):
        mean = float(own.sum()) / max(1, int(both.sum()))
        outputs.append(OutputChange(name, float(own.max(initial=0)), int(own.argmax()) if len(x) else 0, mean))
    at = int(change.max(axis=1).argmax()) if both.any() else 0
    labels = zip(old.argmax(axis=1)[both].tolist(), new.argmax(axis=1)[both].tolist(), strict=True)
    flips = Counter((was, now) for was, now in labels if was != now)
    return Difference(
        rows=len(x),
        rows_from=rows_from,
        outputs=tuple(outputs),
        worst_row=WorstRow(at, *(tuple(map(float, part[at])) for part in (x, old, new))) if both.any() else None,
        changed=flips.total() if len(classes) > 1 else -1,
        flips=tuple(Flips(classes[was], classes[now], count) for (was, now), count in flips.most_common(FLIPS)),
        not_finite=(int((~finite_old).sum()), int((~finite_new).sum())),
        curves=tuple(curve(before, after, item) for item in changes),
        seconds=time.monotonic() - start,
    )


def curve(before: Kan, after: Kan, change: Change) -> CurveChange:
    """The curve of an edited edge in both networks."""
    at = change.edit.edge
    old, new = (in_units(kan.layers[at[0]], at, standardize(kan.layers[0])) for kan in (before, after))
    low, high = old.grid()
    room = BEYOND * (high - low)
    x, inside = np.linspace(low - room, high + room, CURVE_POINTS), np.linspace(low, high, 8 * CURVE_POINTS)
    return CurveChange(
        edge=change.edit.name,
        operation=change.edit.summary,
        form=change.form,
        error_max=change.error_max,
        error_rms=change.error_rms,
        grid=(low, high),
        range_before=_range(old.values(inside)),
        range_after=_range(new.values(inside)),
        x=tuple(x.tolist()),
        before=_finite(old.values(x)),
        after=_finite(new.values(x)),
    )


def _range(y: Array) -> tuple[float, float]:
    """The lowest and the highest finite value; 0 twice if no value is finite."""
    y = y[np.isfinite(y)]
    return (float(y.min()), float(y.max())) if len(y) else (0.0, 0.0)


def _finite(y: Array) -> tuple[float | None, ...]:
    return tuple(value if np.isfinite(value) else None for value in y.tolist())


def of_baseline(manifest: Manifest, rows: int = ROWS) -> Array | None:
    """Rows [rows, n] drawn from the histograms of the inputs in the baseline of a version, each input by itself. None
    if the version has no baseline of its inputs."""
    if not manifest.baseline.layers or len(manifest.inputs) != 1:
        return None
    nodes, width = manifest.baseline.layers[0], manifest.widths[0]
    if manifest.layers[0].node_tensor != manifest.input.name or len(nodes.counts) != width:
        return None
    rng = np.random.default_rng(0)
    columns = []
    for at in range(width):
        bounds = np.array(nodes.cells[0] if len(nodes.cells) == 1 else nodes.cells[at])
        counts = np.array(nodes.counts[at], dtype=np.float64)
        if not counts.sum():
            columns.append(np.full(rows, nodes.mean[at]))
            continue
        # Values beyond the first and the last bound are at that bound.
        low, high = np.concatenate([bounds[:1], bounds]), np.concatenate([bounds, bounds[-1:]])
        cells = rng.choice(len(counts), size=rows, p=counts / counts.sum())
        columns.append(rng.uniform(low[cells], high[cells]))
    return np.stack(columns, axis=1)


def in_box(low: Array, high: Array, rows: int = ROWS) -> Array:
    """Rows [rows, n] spread evenly over a box."""
    return np.random.default_rng(0).uniform(low, high, size=(rows, len(low)))
