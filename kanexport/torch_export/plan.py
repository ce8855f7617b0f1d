"""Plan of the export of a module: its KAN layers, their places in the run, and the function of the whole."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import InvalidKan, ModuleRefused, OptionError
from kanexport.ir.model import Kan, Layer
from kanexport.shared.cli.suggest import advice
from kanexport.torch_export import capture, kan_candidates
from kanexport.torch_export.capture import Call, ReferenceModule, differentiable
from kanexport.torch_export.conv_layer import Convolved
from kanexport.torch_export.io_binding import outputs, tensors
from kanexport.torch_export.kan_candidates import Whole, parents, shown
from kanexport.torch_export.match import Reading
from kanexport.torch_export.resolve import find, listed, repeat
from kanexport.torch_export.sampled_layer import Sampled
from kanexport.verify import float64_reference
from kanexport.verify.float64_reference import Jitter, Trace
from kanexport.verify.graph_runner import Ports
from kanexport.verify.tolerances import CONDITION

Array = npt.NDArray[np.float64]

FEW = 8  # rows that settle what a layer is
NUMBERS = 20_000_000  # of all calls of a module, kept at a time
EFFORT = 400_000_000  # numbers that the operations of a module compute in one run: seconds, and less than a GiB
VECTORS = 4096  # evaluated at a time
ROUNDING = float(np.finfo(np.float32).eps) / 2
OWN = 4.0  # times what float32 moves the module's own answers by is excused in a graph's
KEEP = "keep"  # the option that names submodules to be left as they are


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a recognised submodule.

    form     shape of its output, as `capture.form` says
    axes     axes as `capture.lead` says; None: its vectors have no place among the rows, so it has no edges to query
    picture  size of a convolution's picture
    """

    name: str
    kan: Kan | Convolved
    form: str
    axes: tuple[int, ...] | None
    picture: tuple[int, ...] = ()

    @property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """The axes of the vectors of each layer with edges that can be queried."""
        if self.axes is None:
            return ()
        if isinstance(self.kan, Convolved):
            return tuple((*self.axes, *part.geometry.positions(self.picture)) for part in self.kan.parts)
        return (self.axes,) * len(self.kan.layers)

    def inputs(self, call: Call) -> list[Array]:
        """The vectors of each layer, [B, *positions, width]."""
        if isinstance(self.kan, Convolved):
            vectors = [values.reshape(-1, values.shape[-1]) for values in self.kan.vectors(call)]
        else:
            vectors = _inputs(self.kan, call.x.reshape(-1, self.kan.n_inputs))
        return [capture.by_row(values, axes) for values, axes in zip(vectors, self.places, strict=False)]


@dataclass(frozen=True, slots=True)
class Plan:
    """The module, its recognised networks by name, and their calls in order."""

    oracle: ReferenceModule
    ports: Ports
    modules: dict[str, nn.Module]
    readings: dict[str, Reading]
    uses: tuple[LayerCall, ...]
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers with edges that can be queried, in the order in which they run."""
        return tuple(layer for use in self.uses if use.axes is not None for layer in use.kan.layers)

    def evaluate(self, x: Array, jitter: Jitter | None = None) -> Trace:
        """The module, and the vectors of its layers [B, *positions, n]; while it is lent."""
        y, calls = self.oracle.run(x, self.modules, jitter, tapped=_tapped(self.readings))
        if jitter is not None and jitter.seed == 0:
            y = self._as_rounded(y, x, jitter)
        inputs = [
            vectors
            for use, call in zip(self.uses, calls, strict=True)
            if use.axes is not None
            for vectors in use.inputs(call)
        ]
        peak = np.stack([_peak(values) for values in (x, y, *inputs)]).max(axis=0)
        return Trace(y, tuple(inputs), peak if jitter is not None else np.maximum(peak, self._overflows(y, x)))

    def _overflows(self, y: Array, x: Array) -> Array:
        """Infinite for rows without finite outputs of the module in float32, such as exp(100) * 0; otherwise zero."""
        own = self.oracle.in_float32(x)
        if own is None:
            return np.zeros(len(x))
        lost = (np.isfinite(y) & ~np.isfinite(own)).reshape(len(x), -1).any(axis=1)
        return np.where(lost, np.inf, 0.0)

    def _as_rounded(self, y: Array, x: Array, jitter: Jitter) -> Array:
        """Outputs y with jitter, or the change of the outputs of the module in float32 if that is larger. Jitter of
        nodes does not show rounding between them, such as in a rational function with cancellation."""
        rounded = self.oracle.in_float32(x) if jitter.size >= ROUNDING else None
        if rounded is None:
            return y
        exact = self.oracle.run(x)[0]
        with np.errstate(invalid="ignore"):
            moved = (rounded - exact) * (OWN / CONDITION)
            return np.asarray(np.where(np.abs(moved) > np.abs(y - exact), exact + moved, y))


def make(whole: Whole, oracle: ReferenceModule, x: Array, options: Mapping[str, str], few: int = FEW) -> Plan:
    """Find the KAN layers of a lent module and compare each with the results of the module for a few of the rows.
    Raises InvalidKan if the output of a row depends on the other rows, and OptionError for an option that no layer
    uses."""
    kept = _kept(whole, options.get(KEEP, ""))
    require_fixed(oracle, repeat(x, max(3, few)))
    require_independent(whole, oracle, repeat(x, 3))
    others = {key: value for key, value in options.items() if key != KEEP}
    readings, notes = find(whole, oracle, x[:few], others, kept)
    if kept:
        notes.append(f"{listed(kept)}: not replaced, because of --option {KEEP}")
    ports, lone = _ports(whole, oracle, x)
    notes += [f"{name}: one number per row, served as [rows, 1]" for name in lone]
    modules = {name: whole.get_submodule(name) for name in readings}
    return _plan(oracle, ports, x, modules, readings, notes)


def _ports(whole: Whole, oracle: ReferenceModule, x: Array) -> tuple[Ports, list[str]]:
    """The inputs and outputs of a lent module for the first rows; and the names of those with one number per row."""
    rows = torch.from_numpy(repeat(x, 2)).to(oracle.dtype)
    inputs = whole.wiring.ports
    if len(inputs) == 1:
        inputs = (dataclasses.replace(inputs[0], shape=x.shape[1:]),)
    with torch.set_grad_enabled(oracle.derives):
        y = whole.wiring.call(whole.body, whole.wiring.split(differentiable(rows) if oracle.derives else rows))
    ports = outputs(y, [port.name for port in inputs])
    lone = [plug.port.name for plug in whole.wiring.plugs if plug.lone]
    lone += [port.name for port, (_, value) in zip(ports, tensors(y), strict=True) if value.ndim == 1]
    return Ports(inputs, ports), lone


def without(plan: Plan, x: Array, names: Iterable[str], why: str) -> Plan:
    """The plan of a lent module with some layers left to torch.onnx, and a note with the reason `why`."""
    left = list(names)
    readings = {name: reading for name, reading in plan.readings.items() if name not in left}
    modules = {name: plan.modules[name] for name in readings}
    notes = [note for note in plan.notes if note not in _about(plan.uses) and not _speaks_of(note, left)]
    return _plan(
        plan.oracle, plan.ports, x, modules, readings, [*notes, f"{listed(left)}: left to torch.onnx, because {why}"]
    )


def _speaks_of(note: str, names: Sequence[str]) -> bool:
    """Whether a note is only about these submodules."""
    about, colon, _ = note.partition(": ")
    return bool(colon) and set(about.split(", ")) <= {shown(name) for name in names}


def edges_only(plan: Plan, x: Array, names: Iterable[str], why: str) -> Plan:
    """The plan of a lent module in which torch.onnx exports some layers and a separate graph computes their edges,
    and a note with the reason `why`. KAN convolutions have this form already; they are left to torch.onnx."""
    own = [name for name in names if isinstance(plan.readings[name].by, Convolved)]
    plan = without(plan, x, own, why) if own else plan
    others = [name for name in names if name not in own]
    if not others:
        return plan
    changed = {name: dataclasses.replace(plan.readings[name], edges_only=True) for name in others}
    notes = [note for note in plan.notes if note not in _about(plan.uses)]
    note = f"{listed(others)}: exported by torch.onnx, with edge values from a separate graph, because {why}"
    return _plan(plan.oracle, plan.ports, x, plan.modules, plan.readings | changed, [*notes, note])


def _plan(
    oracle: ReferenceModule,
    ports: Ports,
    x: Array,
    modules: dict[str, nn.Module],
    readings: dict[str, Reading],
    notes: Sequence[str],
) -> Plan:
    uses = tuple(_layer_calls(oracle, x, modules, readings))
    return Plan(oracle, ports, modules, readings, uses, (*notes, *_about(uses)))


def _about(uses: Sequence[LayerCall]) -> list[str]:
    """Notes on the edges that cannot be queried."""
    if not uses:
        return ["no KAN layer was recognized, so there are no edges to query"]
    loose = [use.name for use in uses if use.axes is None]
    return [f"{listed(loose)}: vectors do not belong to single rows, so the edges cannot be queried"] * bool(loose)


def _kept(whole: Whole, patterns: str) -> list[str]:
    """The submodules that match the comma-separated names of --option keep, with the wildcards * and ?; without
    those inside another one. Raises OptionError for a name without a match."""
    names = {name: shown(name) for name, _ in whole.named_modules() if name}
    result: list[str] = []
    for pattern in map(str.strip, patterns.split(",") if patterns else ()):
        matching = [name for name, called in names.items() if fnmatch.fnmatchcase(called, pattern)]
        if not matching:
            hint = advice(pattern, names.values(), what="available")
            raise OptionError(
                f"option {KEEP}: the module has no submodule {pattern[:80]!r}", code="submodule-unknown", hint=hint
            )
        result += matching
    return [name for name in dict.fromkeys(result) if not any(map(result.__contains__, parents(name)))]


def _layer_calls(
    oracle: ReferenceModule, x: Array, modules: Mapping[str, nn.Module], readings: Mapping[str, Reading]
) -> list[LayerCall]:
    """The calls of the recognized submodules, in order, and the place of the rows of the batch in each, from batches
    of one, two and three rows. Raises InvalidKan if the order differs."""
    two_rows, three_rows, one_row = (
        oracle.run(rows, modules, tapped=_tapped(readings))[1]
        for rows in (repeat(x, 2), repeat(x, 3), repeat(x, 2)[1:])
    )
    if not [call.name for call in one_row] == [call.name for call in two_rows] == [call.name for call in three_rows]:
        raise ModuleRefused(
            "the module runs different layers for different batch sizes, which a graph cannot represent",
            code="module-depends-on-batch-size",
            hint="remove loops over the rows of a batch: layers take all rows at once",
        )
    return [_layer_call(readings[calls[1].name], *calls) for calls in zip(one_row, two_rows, three_rows, strict=True)]


def _layer_call(reading: Reading, one_row: Call, two_rows: Call, three_rows: Call) -> LayerCall:
    """A call with one, two and three rows."""
    kan = reading.kan
    if isinstance(reading.by, Convolved):
        single, first, second = (reading.by.pictures(call) for call in (one_row, two_rows, three_rows))
        axes = capture.lead_of(first.shape[:1], second.shape[:1])
        same = axes is not None and _same_row(single, first, axes, first[0].size)
        form = capture.TAP_AFTER if reading.by.after else capture.TAP
        return LayerCall(two_rows.name, reading.by, form, axes if same else None, first.shape[2:])
    form, axes = capture.form(two_rows, kan.n_inputs, kan.n_outputs), capture.lead(two_rows, three_rows, kan.n_inputs)
    form = capture.TAP if _stays(reading, two_rows) else form
    same = axes is not None and _same_row(one_row.x, two_rows.x, axes, kan.n_inputs)
    return LayerCall(two_rows.name, kan, form, axes if same else None)


def _stays(reading: Reading, call: Call) -> bool:
    """Whether the module computes the layer: the exporter makes no graph for it, or it returns more than the output
    vectors."""
    return reading.edges_only or isinstance(reading.by, Sampled) or call.part is not None


def _tapped(readings: Mapping[str, Reading]) -> list[str]:
    return [name for name, reading in readings.items() if isinstance(reading.by, Convolved)]


def affordable(whole: Whole, oracle: ReferenceModule, x: Array, most: int, effort: int) -> int:
    """The number of rows, at most `most`, with which a lent module may be captured at once. `effort`: the numbers
    that its operations compute for one row."""
    modules = {name: candidate.module for name, candidate in kan_candidates.candidates(whole).items()}
    y, calls = oracle.run(repeat(x, 2), modules, nested=True)  # a module may not take one row by itself
    numbers = (y.size + sum(call.x.size + call.y.size for call in calls)) // 2
    return max(1, min(most, NUMBERS // max(1, numbers), EFFORT // max(1, effort)))


def visible(plan: Plan) -> int:
    """The number of rows for which the inputs of convolutions, which are large, may be captured at once."""
    numbers = sum(
        width * math.prod(size for size in axes if size != -1)
        for use in plan.uses
        if isinstance(use.kan, Convolved)
        for axes, width in zip(use.places, use.kan.widths(), strict=False)
    )
    return max(1, NUMBERS // max(1, numbers))


def _inputs(kan: Kan, x: Array) -> list[Array]:
    """The input vectors [rows, width] of every layer."""
    if len(kan.layers) == 1:
        return [x]
    pieces = [float64_reference.evaluate(kan, x[at : at + VECTORS]).inputs for at in range(0, max(1, len(x)), VECTORS)]
    return [np.concatenate(piece) for piece in zip(*pieces, strict=True)]


def _same_row(single: Array, two: Array, axes: tuple[int, ...], n: int) -> bool:
    """Whether the vectors of the second of two rows equal those of that row by itself."""
    alone, both = (capture.by_row(values.reshape(-1, n), axes) for values in (single, two))
    return bool(np.allclose(alone[0], both[1], rtol=1e-5, atol=1e-6, equal_nan=True))


def _peak(values: Array) -> Array:
    magnitude = np.where(np.isfinite(values), np.abs(values), 0)
    highest: Array = magnitude.reshape(len(values), -1).max(axis=1, initial=0)
    return highest


def without_edges(whole: Whole, plan: Plan) -> list[str]:
    """One sentence on all submodules with parameters that have no edges to query. It leaves out submodules with a
    note on the reason."""
    with_edges = {shown(use.name) for use in plan.uses if use.axes is not None}
    known = with_edges | {name for note in plan.notes for name in note.partition(": ")[0].split(", ")}
    by_kind: dict[str, list[str]] = {}
    for name, part in whole.named_modules():
        around = map(shown, (name, *parents(name)))
        if known.isdisjoint(around) and next(part.parameters(recurse=False), None) is not None:
            by_kind.setdefault(type(part).__name__, []).append(name)
    kinds = "; ".join(f"{kind} {listed(names)}" for kind, names in by_kind.items())
    return [f"exported by torch.onnx, without edges to query: {kinds}"] if kinds else []


LIMITS = {torch.float64: 1e-6, torch.float32: 1e-4}  # relative: what other rows of a batch may change in a row
FREEZE = "fix batch statistics: use BatchNorm with track_running_stats, and fixed ranges instead of batch min/max"


def require_fixed(oracle: ReferenceModule, x: Array) -> None:
    """Check that each of x gives one row of output, and the same in a second run. Raises InvalidKan."""
    first, second = (oracle.run(x)[0] for _ in range(2))
    if len(first) != len(x):
        raise ModuleRefused(
            f"the module returns {len(first)} rows for {len(x)}, expected one output per row",
            code="outputs-not-per-row",
            hint="make the first axis of inputs and outputs the batch",
        )
    if first.shape != second.shape or not _close(second, first, LIMITS[oracle.dtype]):
        raise ModuleRefused(
            "the module returns different outputs for the same rows: a part of it is random at inference",
            code="module-is-random",
            hint="pass training=self.training to functional.dropout and similar functions",
        )


def require_independent(whole: Whole, oracle: ReferenceModule, x: Array) -> None:
    """Check that every row of x by itself gives the same as in a batch. Raises InvalidKan, which names the submodule
    that mixes rows: such a model cannot be verified row by row."""
    limit = LIMITS[oracle.dtype]
    together, _ = oracle.run(x)
    try:
        rows = [oracle.run(row)[0] for row in _singly(x)]
    except InvalidKan as error:
        raise ModuleRefused(
            f"{error.message}; single rows cannot be served", code="module-depends-on-batch", hint=FREEZE
        ) from error
    if any(row.shape != (1, *together.shape[1:]) for row in rows):
        raise ModuleRefused(
            f"a row gives {list(rows[0].shape[1:])} by itself and {list(together.shape[1:])} in a batch",
            code="module-depends-on-batch",
            hint="return an output of the same shape for every row",
        )
    if not _close(np.concatenate(rows), together, limit):
        culprit = _culprit(whole, oracle, x, limit)
        because = f", because of {culprit}" if culprit not in ("", shown("body")) else ""
        raise ModuleRefused(
            f"the output of a row depends on the other rows of its batch (edge class C){because}; it cannot be served",
            code="module-depends-on-batch",
            hint=FREEZE,
        )


def _singly(x: Array) -> list[Array]:
    return [x[at : at + 1] for at in range(len(x))]


def _culprit(whole: Whole, oracle: ReferenceModule, x: Array, limit: float) -> str:
    """The first submodule, innermost first, with another result for a row in a batch; empty if none is found."""
    modules = {name: module for name, module in whole.named_modules() if name}
    together, *alone = (oracle.run(rows, modules, nested=True)[1] for rows in (x, *_singly(x)))
    if any([call.name for call in calls] != [call.name for call in together] for calls in alone):
        return ""
    calls = zip(together, *alone, strict=True)
    return next((shown(many.name) for many, *single in calls if _mixes_rows(many, single, limit)), "")


def _mixes_rows(many: Call, single: Sequence[Call], limit: float) -> bool:
    """Whether a call with all rows had the same input for some row as the call with only that row, and another
    output. `single`: one call for each row."""
    rows = len(single)
    for at, call in enumerate(single):
        if many.x.size != call.x.size * rows or many.y.size != call.y.size * rows:
            continue
        x, y = (values.reshape(rows, -1)[at] for values in (many.x, many.y))
        if _close(x, call.x.reshape(-1), limit) and not _close(y, call.y.reshape(-1), limit):
            return True
    return False


def _close(values: Array, expected: Array, limit: float) -> bool:
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0) or 1.0
    return bool(np.allclose(values, expected, rtol=0, atol=limit * scale, equal_nan=True))
