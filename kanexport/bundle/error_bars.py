"""Error bars of an export (`--error-bars`): the reference rows that it stores, and how far the calibration rows agree
with the assumption.

`kanexport.shared.error_bars` has the formula and the assumption.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kanexport.bundle import calibration
from kanexport.bundle.calibration import CALIBRATION, Rows
from kanexport.bundle.description import Signature
from kanexport.errors import OptionError, needs, option_out_of_range
from kanexport.lowering.lower import Lowered
from kanexport.shared import error_bars
from kanexport.shared.naming import Names
from kanexport.shared.sections import ANCHOR_NUMBERS, ANCHORS, NO_ERROR_BARS, CertificateInfo, ErrorBars

Array = npt.NDArray[np.float64]

ERROR_BARS, FACTOR = "--error-bars", "--error-bar-factor"
CANDIDATES = 2**14  # rows of the file among which the stored rows are chosen
CANDIDATE_NUMBERS = 2**21  # numbers of these rows
CHECKED, PAIR_NUMBERS = 1000, 2**26  # rows that are compared with one another, and the differences of all their pairs
SEED = 0


@dataclass(frozen=True, slots=True)
class ErrorBarOptions:
    """Options of error bars: `--error-bars` with `--calibration` and `--certify`. `rows`: None for no error bars."""

    rows: Rows | None = None
    factor: float = 1.0


NO_OPTIONS = ErrorBarOptions()


def options(
    path: Path | None, factor: float | None = None, *, enabled: bool, certify: bool, classes: Sequence[str] = ()
) -> ErrorBarOptions:
    """The options, with the rows of the file. `classes`: names of the outputs. Raises OptionError."""
    if not enabled:
        if factor is not None:
            raise needs(FACTOR, ERROR_BARS)
        return NO_OPTIONS
    if not certify:
        raise needs(ERROR_BARS, "--certify", "add --certify: the Lipschitz bounds of a certificate make the bars")
    if path is None:
        raise needs(ERROR_BARS, CALIBRATION, f"add {CALIBRATION}, rows with targets")
    if factor is not None and not 0 < factor < math.inf:
        raise option_out_of_range(
            f"{FACTOR} is {factor:g}, expected a number above 0",
            hint=f"pass how much steeper the true function may be, such as {FACTOR} 2",
        )
    return ErrorBarOptions(calibration.load(path, classes), 1.0 if factor is None else factor)


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """Calibration rows in the box, for n inputs and m outputs.

    exact    [B, n]: as in the file
    x        [B, n]: as float32, with which the graph ran
    targets  [B, m]
    errors   [B, m]: largest distance of the true function from the network at `x`, by the assumption
    bounds   [n, m]: Lipschitz bounds
    scale    [m]: change of an output along the box by these bounds; 1 for a constant output
    """

    exact: Array
    x: Array
    targets: Array
    errors: Array
    bounds: Array
    scale: Array

    def some(self, most: int) -> _Data:
        """The rows, or a random sample of `most` rows if there are more."""
        if len(self.x) <= most:
            return self
        at = np.sort(np.random.default_rng(SEED).permutation(len(self.x))[:most])
        fields = {name: getattr(self, name)[at] for name in ("exact", "x", "targets", "errors")}
        return dataclasses.replace(self, **fields)


def measure(
    wanted: ErrorBarOptions, certificate: CertificateInfo, lowered: Lowered, signature: Signature, names: Names
) -> tuple[ErrorBars, tuple[str, ...]]:
    """The error bars of the serving graph in float32, and notes for the manifest; none without options. Raises
    OptionError if the rows do not fit the model."""
    rows = wanted.rows
    if rows is None:
        return NO_ERROR_BARS, ()
    data, outside = _data(rows, wanted.factor, certificate, lowered, signature, names)
    inputs, outputs = data.bounds.shape
    few = data.some(min(CANDIDATES, max(1, CANDIDATE_NUMBERS // (inputs + outputs))))
    chosen = _chosen(few, wanted.factor, min(ANCHORS, max(1, ANCHOR_NUMBERS // (inputs + outputs))))
    section = ErrorBars(
        name=rows.name,
        sha256=rows.sha256,
        rows=len(rows.targets),
        outside=outside,
        factor=wanted.factor,
        x=tuple(tuple(row) for row in few.x[chosen].tolist()),
        errors=tuple(tuple(row) for row in few.errors[chosen].tolist()),
    )
    most = min(CHECKED, max(2, math.isqrt(PAIR_NUMBERS // (inputs + outputs))))
    section = _checked(section, data.some(most), certificate)
    medians = ", ".join(f"{own:.4g}" for own in section.median[:8]) + (" ..." if len(section.median) > 8 else "")
    notes = [
        section.basis + (f"; their median is {medians}" if medians else ""),
        f"error bars are valid if {section.assumption}",
        f"the version stores {len(section.x)} of the rows of {section.name} and their errors",
    ]
    if section.outside:
        notes.append(
            f"{section.outside} of {section.rows} rows of {section.name} are outside of the certified box, so that "
            "error bars do not use them"
        )
    if section.contradicted:
        notes.append(f"{section.contradiction}; error bars can be too small")
    return section, tuple(notes)


def _data(
    rows: Rows, factor: float, certificate: CertificateInfo, lowered: Lowered, signature: Signature, names: Names
) -> tuple[_Data, int]:
    """The rows in the box, and the number of the other rows. Raises OptionError."""
    port = signature.ports.outputs[0]
    if port.size > 1 and rows.targets.ndim == 1:
        raise OptionError(
            f"{ERROR_BARS} needs targets of shape {list(port.shape)}, found one number or label per row",
            code="calibration-wrong-shape",
            hint=f"export a classifier without {ERROR_BARS}: its outputs have no targets, only labels",
        )
    if rows.targets[0].size != port.size:
        raise calibration.wrong_shape(
            rows.name, f"targets of shape {list(rows.targets.shape[1:])}", str(list(port.shape))
        )
    (exact,) = (values.reshape(len(values), -1) for values in calibration.inputs_of(rows, signature, names).values())
    x = exact.astype(np.float32).astype(np.float64)
    targets = rows.targets.astype(np.float64).reshape(len(x), port.size)
    calibration.require_finite(targets, rows, "the target")
    predicted = calibration.predicted_on(rows, lowered, signature, names, "float32").reshape(targets.shape)
    low, high, bounds = np.array(certificate.low), np.array(certificate.high), np.array(certificate.lipschitz)
    inside = np.logical_and.reduce([(low <= own) & (own <= high) for own in (exact, x)]).all(axis=1)
    if not inside.any():
        raise OptionError(
            f"{CALIBRATION} {rows.name} has no row in the certified box, expected rows in it for {ERROR_BARS}",
            code="calibration-outside-of-box",
            hint="pass rows of your data as the box, with --certify-box FILE",
        )
    moved = factor * (np.abs(exact - x) @ bounds)
    errors = np.abs(targets - predicted) + np.array(certificate.slack) + moved
    calibration.require_finite(errors[inside], rows, "the error of the model")
    scale = (high - low) @ bounds
    scale = np.where(scale > 0, scale, 1.0)
    data = _Data(exact[inside], x[inside], targets[inside], errors[inside], bounds, scale)
    return data, int(np.count_nonzero(~inside))


def _chosen(data: _Data, factor: float, most: int) -> list[int]:
    """The rows to store. The first one has the smallest error. Each next one is the row whose error is farthest below
    its bar from the rows before: far from them, and with a small error.

    A row whose error is not below its bar is never needed: by the triangle inequality, it lowers no bar of any row.
    """
    slopes = (1 + factor) * data.bounds
    chosen = [int((data.errors / data.scale).max(axis=1).argmin())]
    bars = np.full(data.errors.shape, np.inf)
    while True:
        last = chosen[-1]
        np.minimum(bars, data.errors[last] + np.abs(data.x - data.x[last]) @ slopes, out=bars)
        gains = ((bars - data.errors) / data.scale).max(axis=1)
        best = int(gains.argmax())
        if len(chosen) >= most or gains[best] <= 0:
            return chosen
        chosen.append(best)


def _checked(section: ErrorBars, data: _Data, certificate: CertificateInfo) -> ErrorBars:
    """The section with the facts that compare each row with the other rows."""
    count, slack = len(data.x), np.array(certificate.slack)
    if count < 2:
        return section
    missed, bars, needed = 0, [], 0.0
    step = max(1, error_bars.NUMBERS // (data.x.size + data.targets.size))
    for at in range(0, count, step):
        part = slice(at, at + step)
        apart = error_bars.distances(data.exact[part], data.exact, data.bounds)
        own = np.arange(len(apart)), np.arange(at, at + len(apart))
        changes = np.abs(data.targets[part, np.newaxis] - data.targets)
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = max(needed, float(np.where(changes > 0, changes / apart, 0.0).max()))
        sums = data.errors + (1 + section.factor) * apart
        sums[own] = np.inf
        bars.append(sums.min(axis=1) + slack)
        missed += int((data.errors[part] - slack > bars[-1]).any(axis=1).sum())
    return dataclasses.replace(
        section,
        checked=count,
        missed=missed / count,
        needed=needed if math.isfinite(needed) else -1.0,
        median=tuple(np.median(np.concatenate(bars), axis=0).tolist()),
    )
