"""Comparison of an interpretation or a graph with recorded outputs of the trained model, row by row.

Errors are relative to the largest output of their own row. A reading of a file fits only if each row's error is at most
`EXPLAINED` times the rounding error of that row (`verify/tolerances.py`), in the precision that the model computed in.
If the user gives a larger tolerance, the reading may be off by that much too. The meaning of a graph is known by then,
so the graph may be off by the tolerance and by what rounding excuses (`verify/tolerances.py`). If rounding excuses so
much that an output says nothing, the comparison leaves the row out, counts it and reports it.

Model and graph have absolute errors too: where terms cancel, or where a sigmoid of 1e-13 becomes 0. So rounding excuses
an error of `TYPICAL` roundings of the median row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bundle.publish import Target, VerificationBasis
from kanexport.errors import OptionError, OutputsDiffer
from kanexport.graph import precision
from kanexport.ir.model import Kan
from kanexport.lowering.lower import Lowered
from kanexport.parity.data import FORMS, RecordedOutputs
from kanexport.shared import manifest
from kanexport.shared.manifest import CHOSEN_TOLERANCE, EXPECTED_OUTPUTS
from kanexport.verify import float64_reference, graph_runner, tolerances
from kanexport.verify.float64_reference import Jitter, Trace
from kanexport.verify.float64_reference import evaluate as exactly
from kanexport.verify.graph_runner import Ports, split
from kanexport.verify.tolerances import CONDITION, DRAWS, OUTPUT_TOLERANCE, OVERFLOW
from kanexport.verify.verify import network_ports

Array = npt.NDArray[np.float64]
Evaluate = Callable[[Array, Jitter | None], Trace]

# Relative, by what the model computed in. Libraries' own float32 runs are off by up to 9e-6 on real checkpoints.
ALLOWED = {"float32": 5e-5, "float64": 1e-8}
EXPLAINED = 5.0  # factor on what rounding changes: a reading that is off by more is a different one
HOPELESS = 1000.0  # times what one draw of rounding excuses; other draws excused 135 times as much
TYPICAL = 32.0  # 1.9e-6 in float32; trained networks of one output were off by 1.6e-6
LOOSE = 1e-2  # an allowance for rounding beyond it would excuse anything, and one for a reading too


@dataclass(frozen=True, slots=True)
class Match:
    """Difference between outputs and the outputs of the trained model.

    max_abs    the largest absolute error over the rows compared
    max_rel    the largest relative error over the rows compared
    excess     the error at the worst place, as a multiple of its allowance
    error      the relative error at the worst place
    where      the worst place, in words
    rows       the number of rows compared
    left_out   the number of rows left out
    telling    the number of rows compared among those that `numbers` counts
    numbers    the number of rows whose outputs are numbers; if the user chose such rows, only those
    explained  relative: what rounding explains at the worst place, as far as the comparison computed it
    relaxed    over the rows that only a relaxed tolerance allowed: the largest error, and its usual allowance
    unlike     of a reading: the share of the outputs' variation that remains after the best scale and shift, 0 to 1,
               plus the share of rows in which only one side is finite
    worst      of a reading: the rows beyond their allowance, the furthest first
    """

    max_abs: float
    max_rel: float
    excess: float
    error: float
    where: str
    rows: int
    left_out: int
    telling: int
    numbers: int
    explained: float = 0.0
    relaxed: tuple[float, float] | None = None
    unlike: float = 1.0
    worst: tuple[int, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether at least half of the rows with numbers were compared."""
        return 0 < self.numbers <= 2 * self.telling

    @property
    def fits(self) -> bool:
        """Whether every compared row is within its allowance, and most rows were compared."""
        return self.enough and self.excess <= 1


def allowed(recorded: RecordedOutputs, dtype: str, tolerance: float) -> float:
    """The allowed error of a graph of `dtype` compared with the recorded outputs, relative; `tolerance`: that of the
    user."""
    coarser = "float32" if "float32" in (recorded.dtype, dtype) else "float64"
    return ALLOWED[coarser] * tolerance / OUTPUT_TOLERANCE


def relaxation(recorded: RecordedOutputs, tolerance: float) -> float:
    """The allowed error of an interpretation in addition to the effect of rounding, relative. It is 0, unless the
    model computed in float64 or the user gave a larger `tolerance` than the default, and `LOOSE` at most."""
    relaxed = recorded.dtype == "float64" or tolerance > OUTPUT_TOLERANCE
    return min(allowed(recorded, recorded.dtype, tolerance), LOOSE) if relaxed else 0.0


def match(recorded: RecordedOutputs, outputs: Array, evaluate: Evaluate, dtype: str, tolerance: float) -> Match:
    """Compare `outputs` [B, ...] of a graph with those of the trained model. Raises OptionError if the shapes differ.

    evaluate   the graph's float64 evaluation, which shows what rounding changes
    dtype      of the graph
    tolerance  relative
    """
    errors = _Errors.of(recorded, outputs)
    bound = np.full(len(errors.y), tolerance)
    off, keep = np.flatnonzero(errors.relative > tolerance), np.ones(len(errors.y), dtype=bool)
    if len(off):
        exact = evaluate(recorded.x, None)
        unit = max(map(precision.rounding, (dtype, recorded.dtype)))
        change = _change(evaluate, exact.y, errors, off, unit, tolerance)
        bound[off] += CONDITION * change
        bound[off] = np.maximum(bound[off], TYPICAL * unit * np.median(errors.scale) / errors.scale[off])
        keep = exact.peak < OVERFLOW
    return errors.matched(bound, keep & (bound - tolerance <= LOOSE), tolerance)


@dataclass(frozen=True, slots=True, eq=False)
class _Errors:
    """Errors of outputs, compared with the recorded ones.

    outputs, y          the outputs and the recorded outputs, [B, numbers]
    scale               [B]: the largest recorded output of each row, or the largest output if that is 0
    relative, absolute  [B]: infinite if only one side is finite, or if they are different infinities
    """

    recorded: RecordedOutputs
    outputs: Array
    y: Array
    scale: Array
    relative: Array
    absolute: Array

    @classmethod
    def of(cls, recorded: RecordedOutputs, outputs: Array) -> _Errors:
        """The errors of outputs [B, ...]. Raises OptionError if their shape differs from that of the recorded ones."""
        y, flat = (values.reshape(len(values), -1) for values in (recorded.y, outputs))
        if flat.shape != y.shape:
            raise unfit(recorded, f"{y.shape[1]} outputs per row", f"gives {flat.shape[1]}")
        scale, rounded = _scale(y, flat), _as(flat, recorded.dtype)
        finite = np.isfinite(y) & np.isfinite(rounded)
        same = finite | (np.isnan(y) & np.isnan(rounded)) | (y == rounded)
        with np.errstate(invalid="ignore"):
            differences = np.where(finite, np.abs(rounded - y), np.where(same, 0.0, np.inf))
        absolute = differences.max(axis=1)
        return cls(recorded, flat, y, scale, absolute / scale, absolute)

    def matched(
        self,
        bound: Array,
        keep: npt.NDArray[np.bool_],
        usual: float | Array,
        explained: Array | None = None,
        unlike: float = 1.0,
    ) -> Match:
        """The result of a comparison.

        bound   the allowance of each row [B], and `keep`: whether the comparison keeps the row
        usual   the allowance without a relaxed tolerance
        """
        error, recorded = self.relative, self.recorded
        numbers = np.asarray(np.isfinite(self.y).any(axis=1))
        if (numbers & recorded.usual).any():  # only rows that the user chose
            numbers = numbers & recorded.usual
        if not keep.any():
            return Match(0.0, 0.0, 0.0, 0.0, "", 0, len(self.y), 0, int(numbers.sum()), unlike=unlike)
        with np.errstate(invalid="ignore", divide="ignore"):
            excess = np.where(error > 0, error / bound, 0.0)
        excess = np.where(keep, excess, -1)
        worst = int(excess.argmax())
        usual = np.broadcast_to(usual, error.shape)
        beyond = np.flatnonzero(keep & (error > usual) & (excess <= 1))
        most = int(beyond[error[beyond].argmax()]) if len(beyond) else 0
        return Match(
            max_abs=float(self.absolute[keep].max()),
            max_rel=float(error[keep].max()),
            excess=float(excess[worst]),
            error=float(error[worst]),
            where=self._where(worst),
            rows=int(keep.sum()),
            left_out=int((~keep).sum()),
            telling=int((numbers & keep).sum()),
            numbers=int(numbers.sum()),
            explained=float(explained[worst]) if explained is not None else 0.0,
            relaxed=(float(error[most]), float(usual[most])) if len(beyond) else None,
            unlike=unlike,
            worst=tuple(np.argsort(-excess, kind="stable")[: (excess > 1).sum()].tolist()),
        )

    def _where(self, row: int) -> str:
        """The worst output of a row, as text."""
        outputs, y = self.outputs[row], self.y[row]
        with np.errstate(invalid="ignore"):
            differences = np.abs(_as(outputs, self.recorded.dtype) - y)
        column = int(np.where(np.isnan(differences), np.inf, differences).argmax())
        place = f"row {self.recorded.place(row)}, output {column}"
        return f"{place}: {outputs[column]:.6g}, recorded {y[column]:.6g}"


def match_notes(result: Match, recorded: RecordedOutputs, what: str) -> tuple[str, ...]:
    """Notes on rows that were left out, and on errors that only a relaxed tolerance accepted."""
    words = []
    if result.left_out:
        words.append(
            f"{result.left_out} rows of {recorded.name} were not compared, because their outputs depend on rounding, "
            "or on an overflow of float32"
        )
    if result.relaxed:
        error, usual = result.relaxed
        words.append(
            f"{recorded.name}: {what} is off by up to {error:.1e} of the largest output of a row; without the relaxed "
            f"tolerance, {usual:.1e} is accepted"
        )
    return tuple(words)


def require(result: Match, recorded: RecordedOutputs, what: str) -> None:
    """Raises OutputsDiffer if the recorded outputs do not fit. `what`: the source of the other outputs."""
    if not result.enough:
        raise too_few(result, recorded)
    if not result.fits:
        raise OutputsDiffer(
            f"{what} differs from the recorded outputs: {result.error:.2e} relative, {result.where}",
            code="expected-outputs-differ",
            hint="nothing was written; select another interpretation with --option, or export the PyTorch module with "
            "--module",
        )


def reading(kan: Kan, recorded: RecordedOutputs, relaxed: float, *, every_draw: bool = False) -> Match:
    """Compare an interpretation in float64 with the outputs of the trained model. The allowed error is the effect of
    rounding, or `relaxed` (relative, from `relaxation`) if that is larger. `every_draw`: of rounding, also after one
    that decides. Raises OptionError if the shapes differ."""
    width = recorded.x[0].size
    if width != kan.n_inputs:
        raise unfit(recorded, f"{width} inputs per row", f"takes {kan.n_inputs}")
    x = recorded.x.reshape(len(recorded.x), -1)
    exact = exactly(kan, x)
    errors = _Errors.of(recorded, exact.y)
    outputs, scale = errors.outputs, errors.scale
    change = _explained(kan, x, outputs, errors.absolute, relaxed * scale, recorded.dtype, every_draw=every_draw)
    # Rounding changes some rows little by accident, and terms of a small output can be as large as those of others.
    relative = change / scale
    explained = np.maximum(np.maximum(relative, np.median(relative)), np.median(change) / scale)
    usual = EXPLAINED * explained
    bound = np.maximum(usual, relaxed)
    keep = (exact.peak < OVERFLOW) & (bound <= LOOSE)
    return errors.matched(bound, keep, usual, explained, _unlike(outputs, errors.y, recorded.usual))


def _explained(
    kan: Kan, x: Array, exact: Array, error: Array, relaxed: Array, dtype: str, *, every_draw: bool
) -> Array:
    """[B]: the change that rounding causes in each row, absolute. Without `every_draw`, the draws end if one shows that
    no other could explain the `error` of some row, or if all errors are explained. If most errors exceed the effect of
    any rounding, only the last rounding counts."""
    change = np.zeros(len(x))
    gross = (error > LOOSE * _scale(exact, exact)).mean() > 0.5
    for draw in tolerances.draws(kan, x, exact, dtype):
        first, change = not change.any(), np.maximum(change, draw)
        if every_draw:
            continue
        # At least the median: one draw changes some rows by almost nothing, and another draw explains them.
        bound = np.maximum(EXPLAINED * np.maximum(change, np.median(change)), relaxed)
        loose = bound > LOOSE * _scale(exact, exact)
        if gross or (error <= EXPLAINED * change).all() or (not first and ((error > HOPELESS * bound) & ~loose).any()):
            break
    return change


def _unlike(outputs: Array, y: Array, usual: npt.NDArray[np.bool_]) -> float:
    """The difference in shape. Its first part is the variation of the recorded outputs y [B, outputs] over the usual
    rows that remains after the best scale and shift of each output of `outputs`. Its second part is the share of
    rows in which only one side is finite. A constant has the largest first part."""
    finite = np.isfinite(y).all(axis=1), np.isfinite(outputs).all(axis=1)
    odd = float((finite[0] != finite[1]).mean())
    rows = finite[0] & finite[1]
    rows = rows & usual if (rows & usual).sum() > 1 else rows
    if rows.sum() < 2:
        return 1.0 + odd
    a, b = (part[rows] - part[rows].mean(axis=0) for part in (outputs, y))
    with np.errstate(all="ignore"):
        slope = np.nan_to_num((a * b).sum(axis=0) / (a * a).sum(axis=0))
        left = np.sqrt(((b - slope * a) ** 2).sum() / (b**2).sum())
    return odd + (float(left) if np.isfinite(left) else 1.0)


def distinct(recorded: RecordedOutputs) -> int:
    """The number of different values in the recorded outputs. A few values, such as the limits of a sigmoid, fit
    many models."""
    y = recorded.y.reshape(len(recorded.y), -1)
    some = y[recorded.usual] if recorded.usual.any() else y
    return len(np.unique(some[np.isfinite(some)].astype(np.float32)))


def too_few(result: Match, recorded: RecordedOutputs) -> OutputsDiffer:
    """The error for recorded outputs if most of them cannot be compared."""
    why = f" (rounding changes the others by more than {LOOSE:g})" if result.numbers else ""
    return OutputsDiffer(
        f"--expected-outputs {recorded.name}: only {result.telling} of {result.numbers} rows with finite outputs are "
        f"comparable, expected at least half{why}",
        code="expected-outputs-not-comparable",
        hint="record outputs for rows that resemble your data",
    )


def unfit(recorded: RecordedOutputs, has: str, model: str) -> OptionError:
    """The error for recorded outputs of another shape than those of the model."""
    return OptionError(
        f"--expected-outputs {recorded.name} has {has}, the model {model}",
        code="expected-outputs-wrong-shape",
        hint=FORMS,
    )


def _scale(y: Array, outputs: Array) -> Array:
    """[B]: the scale of the errors of each row: its largest recorded output, or the largest given output if that is
    0."""
    peaks = float64_reference.peak(y)
    some = np.where(peaks > 0, peaks, float64_reference.peak(outputs))
    return np.asarray(np.where(some > 0, some, 1.0))


def _as(values: Array, dtype: str) -> Array:
    """Outputs in the type: infinite beyond float32."""
    with np.errstate(over="ignore"):
        return values.astype(dtype).astype(np.float64)


def _change(
    evaluate: Evaluate, exact: Array, errors: _Errors, rows: npt.NDArray[np.intp], size: float, tolerance: float
) -> Array:
    """[R]: the relative change of some rows if nodes and weights are rounded by `size`. `exact`: all outputs, in
    float64. The draws end if one shows that no other could explain the error of some row."""
    x, y = errors.recorded.x[rows], exact.reshape(len(exact), -1)[rows]
    change = np.zeros(len(rows))
    with np.errstate(invalid="ignore"):
        for seed in range(DRAWS):
            moved = evaluate(x, Jitter(size, seed)).y.reshape(len(x), -1)
            differences = np.where(np.isfinite(moved) & np.isfinite(y), np.abs(moved - y), 0.0)
            change = np.maximum(change, differences.max(axis=1) / errors.scale[rows])
            most = HOPELESS * (tolerance + CONDITION * change)
            if ((errors.relative[rows] > most) & (most <= LOOSE)).any():
                break
    return change


def network(
    recorded: RecordedOutputs, kan: Kan, lowered: Lowered, target: Target, usual: float = OUTPUT_TOLERANCE
) -> VerificationBasis:
    """The graph of a network, and the network itself. `usual`: as in `graph`. Raises OutputsDiffer and OptionError."""

    def meaning(x: Array, jitter: Jitter | None) -> Trace:
        return float64_reference.evaluate(kan, x.reshape(len(x), -1), jitter=jitter)

    basis = graph(recorded, network_ports(kan), meaning, lowered, target, usual)
    if target.tolerance > OUTPUT_TOLERANCE and not reading(kan, recorded, relaxation(recorded, OUTPUT_TOLERANCE)).fits:
        return dataclasses.replace(basis, basis=CHOSEN_TOLERANCE)
    return basis


def graph(
    recorded: RecordedOutputs,
    ports: Ports,
    meaning: Evaluate,
    lowered: Lowered,
    target: Target,
    usual: float = OUTPUT_TOLERANCE,
) -> VerificationBasis:
    """Compare a graph with the recorded outputs, each output by itself. `meaning`: the graph in float64. `usual`: the
    tolerance of a graph if the user chooses none. Raises OutputsDiffer if the outputs differ, and OptionError if names
    or shapes differ."""
    recorded = recorded.of_model(ports.inputs, ports.outputs)
    graph_outputs = graph_runner.run_graph(lowered, ports.feeds(recorded.x, target.dtype))
    tolerance = allowed(recorded, target.dtype, target.tolerance)
    parts = split(ports.outputs, recorded.y)
    matches, chosen = [], False
    for at, (port, y) in enumerate(zip(ports.outputs, parts, strict=True)):
        port_outputs = dataclasses.replace(recorded, y=y)
        compared = port_outputs, graph_outputs[port.name], _part(meaning, ports, at), target.dtype
        matches.append(match(*compared, tolerance))
        several = f"'s output {port.name}" if len(parts) > 1 else ""
        require(matches[-1], port_outputs, f"the exported graph{several}")
        if target.tolerance > usual:
            chosen |= not match(*compared, allowed(recorded, target.dtype, usual)).fits
    document = manifest.ParityCheck(
        name=recorded.name,
        sha256=recorded.sha256,
        rows=min(result.rows for result in matches),
        max_abs=max(result.max_abs for result in matches),
        max_rel=max(result.max_rel for result in matches),
        tolerance=tolerance,
    )
    notes = (note for port_outputs in matches for note in match_notes(port_outputs, recorded, "the exported graph"))
    basis = CHOSEN_TOLERANCE if chosen else EXPECTED_OUTPUTS
    return VerificationBasis(basis, (document,), tuple(dict.fromkeys(notes)))


def _part(meaning: Evaluate, ports: Ports, at: int) -> Evaluate:
    """The float64 reference of the single output at position `at`."""
    if len(ports.outputs) == 1:
        return meaning

    def part(x: Array, jitter: Jitter | None) -> Trace:
        trace = meaning(x, jitter)
        return dataclasses.replace(trace, y=split(ports.outputs, trace.y)[at])

    return part
