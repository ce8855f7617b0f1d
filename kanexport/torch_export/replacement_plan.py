"""Plan of the replacement of KAN layers in a module: their readings, their places in the run, and the function of the
whole. The exporter compares each interpretation of a layer with the outputs of the layer."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import InvalidKan, ModuleRefused, OptionError
from kanexport.ir.model import Kan, Layer
from kanexport.shared.cli.suggest import advice
from kanexport.torch_export import additive, capture, conv_detect, kan_candidates, match
from kanexport.torch_export.borrowed_module import lent
from kanexport.torch_export.capture import Call, ReferenceModule, close, differentiable
from kanexport.torch_export.conv_layer import Convolved
from kanexport.torch_export.io_binding import Whole, outputs, tensors
from kanexport.torch_export.kan_candidates import LINEAR, Candidate, grouped, is_in, listed, parents, shown
from kanexport.torch_export.match import EDGES_SUM, TENSORS, Reading, Verdict, judge
from kanexport.torch_export.sampled_layer import Sampled
from kanexport.verify import float64_reference
from kanexport.verify.float64_reference import Jitter, Trace
from kanexport.verify.graph_runner import Ports
from kanexport.verify.tolerances import CONDITION

Array = npt.NDArray[np.float64]
Modules = Mapping[str, nn.Module]
Readings = dict[str, Reading]
T = TypeVar("T")

FEW = 8  # rows that settle what a layer is
NUMBERS = 20_000_000  # of all calls of a module, kept at a time
VECTORS = 4096  # evaluated at a time
ROUNDING = float(np.finfo(np.float32).eps) / 2
OWN = 4.0  # times what float32 moves the module's own outputs by is excused in a graph's
KEEP = "keep"  # the option that names submodules to be left as they are
LIMITS = {torch.float64: 1e-6, torch.float32: 1e-4}  # relative: what other rows of a batch may change in a row
FREEZE = "fix batch statistics: use BatchNorm with track_running_stats, and fixed ranges instead of batch min/max"


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
            vectors = [call.x.reshape(-1, self.kan.n_inputs)]
            if len(self.kan.layers) > 1:
                starts = range(0, max(1, len(vectors[0])), VECTORS)
                pieces = [float64_reference.evaluate(self.kan, vectors[0][at : at + VECTORS]).inputs for at in starts]
                vectors = [np.concatenate(piece) for piece in zip(*pieces, strict=True)]
        return [capture.by_row(values, axes) for values, axes in zip(vectors, self.places, strict=False)]


@dataclass(frozen=True, slots=True)
class Plan:
    """The module, its recognised networks by name, and their calls in order.

    x        rows like the example
    remarks  notes on the layers
    """

    oracle: ReferenceModule
    x: Array
    ports: Ports
    readings: dict[str, Reading]
    remarks: tuple[str, ...]
    uses: tuple[LayerCall, ...]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The recognised submodules by name."""
        return {name: self.oracle.module.get_submodule(name) for name in self.readings}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers with edges that can be queried, in the order in which they run."""
        return tuple(layer for use in self.uses if use.axes is not None for layer in use.kan.layers)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes on the layers, and one on edges that cannot be queried."""
        if not self.uses:
            return (*self.remarks, "the exporter recognized no KAN layer, so clients cannot query edges")
        loose = [use.name for use in self.uses if use.axes is None]
        if not loose:
            return self.remarks
        note = f"{listed(loose)}: vectors do not belong to single rows, so the edges cannot be queried"
        return (*self.remarks, note)

    @property
    def rows_at_once(self) -> int:
        """The number of rows for which the inputs of convolutions, which are large, may be captured at once."""
        numbers = sum(
            width * math.prod(size for size in axes if size != -1)
            for use in self.uses
            if isinstance(use.kan, Convolved)
            for axes, width in zip(use.places, use.kan.widths(), strict=False)
        )
        return max(1, NUMBERS // max(1, numbers))

    def evaluate(self, x: Array, jitter: Jitter | None = None) -> Trace:
        """The module, and the vectors of its layers [B, *positions, n]; while it is lent. With jitter, the outputs
        change at least as much as those of the module do in float32: jitter of nodes does not show rounding between
        them, such as in a rational function with cancellation. Without it, the peak is infinite for rows without
        finite outputs of the module in float32, such as exp(100) * 0."""
        y, calls = self.oracle.run(x, self.modules, jitter, tapped=_tapped(self.readings))
        float32_y = None
        if jitter is None or (jitter.seed == 0 and jitter.size >= ROUNDING):
            float32_y = self.oracle.in_float32(x)
        if jitter is not None and float32_y is not None:
            exact = self.oracle.run(x)[0]
            with np.errstate(invalid="ignore"):
                moved = (float32_y - exact) * (OWN / CONDITION)
                y = np.asarray(np.where(np.abs(moved) > np.abs(y - exact), exact + moved, y))
        inputs: list[Array] = []
        for use, call in zip(self.uses, calls, strict=True):
            inputs += use.inputs(call) if use.axes is not None else []
        peak = np.zeros(len(x))
        for values in (x, y, *inputs):
            peak = np.maximum(peak, float64_reference.peak(values))
        if jitter is None and float32_y is not None:
            overflows = (np.isfinite(y) & ~np.isfinite(float32_y)).reshape(len(x), -1).any(axis=1)
            peak = np.where(overflows, np.inf, peak)
        return Trace(y, tuple(inputs), peak)

    def without(self, left: Mapping[str, str], *, with_edges: bool = False) -> Plan:
        """The plan with some layers left to torch.onnx, and a note on each reason. `left`: the reasons by name.
        `with_edges`: a separate graph computes their edges. KAN convolutions have this form already, and lose it."""
        readings, remarks = dict(self.readings), list(self.remarks)
        for why, names in grouped((why, name) for name, why in left.items()).items():
            separate = [name for name in names if with_edges and not isinstance(readings[name].by, Convolved)]
            removed = [name for name in names if name not in separate]
            if removed:
                remarks = [note for note in remarks if not _is_about(note, removed)]
                remarks.append(f"{listed(removed)}: left to torch.onnx, because {why}")
            if separate:
                form = "exported by torch.onnx, with edge values from a separate graph"
                remarks.append(f"{listed(separate)}: {form}, because {why}")
            readings = {name: reading for name, reading in readings.items() if name not in removed}
            readings |= {name: dataclasses.replace(readings[name], edges_only=True) for name in separate}
        with lent(self.oracle.module, self.oracle.dtype):
            uses = _layer_calls(self.oracle, self.x, readings)
        return dataclasses.replace(self, readings=readings, remarks=tuple(remarks), uses=uses)

    def without_edges(self) -> list[str]:
        """One sentence on all submodules with parameters that have no edges to query. It leaves out submodules with a
        note on the reason."""
        known = {shown(use.name) for use in self.uses if use.axes is not None}
        known |= {name for note in self.notes for name in _names_in(note)}
        by_kind = grouped(
            (type(part).__name__, name)
            for name, part in self.oracle.module.named_modules()
            if known.isdisjoint(map(shown, (name, *parents(name))))
            and next(part.parameters(recurse=False), None) is not None
        )
        kinds = "; ".join(f"{kind} {listed(names)}" for kind, names in by_kind.items())
        return [f"exported by torch.onnx, without edges to query: {kinds}"] if kinds else []


def make(oracle: ReferenceModule, x: Array, options: Mapping[str, str], few: int = FEW) -> Plan:
    """Find the KAN layers of a lent module and compare each with the results of the module for a few of the rows.
    Raises InvalidKan if the output of a row depends on the other rows, and OptionError for an option that no layer
    uses."""
    whole = oracle.module
    kept = _kept(whole, options.get(KEEP, ""))
    _require_fixed(oracle, repeat(x, max(3, few)))
    _require_independent(oracle, repeat(x, 3))
    others = {key: value for key, value in options.items() if key != KEEP}
    readings, notes = _find(oracle, x[:few], others, kept)
    if kept:
        notes.append(f"{listed(kept)}: not replaced, because of --option {KEEP}")
    inputs = whole.wiring.ports
    if len(inputs) == 1:
        inputs = (dataclasses.replace(inputs[0], shape=x.shape[1:]),)
    rows = torch.from_numpy(repeat(x, 2)).to(oracle.dtype)
    with torch.set_grad_enabled(oracle.derives):
        y = whole.wiring.call(whole.body, whole.wiring.split(differentiable(rows) if oracle.derives else rows))
    ports = Ports(inputs, outputs(y, [port.name for port in inputs]))
    lone = [plug.port.name for plug in whole.wiring.plugs if plug.lone]
    lone += [port.name for port, (_, value) in zip(ports.outputs, tensors(y), strict=True) if value.ndim == 1]
    notes += [f"{name}: one number per row, served as [rows, 1]" for name in lone]
    return Plan(oracle, x, ports, readings, tuple(notes), _layer_calls(oracle, x, readings))


def _find(
    oracle: ReferenceModule, x: Array, options: Mapping[str, str], kept: Sequence[str]
) -> tuple[Readings, list[str]]:
    """Readings by name, without layers inside those that are `kept`, and notes on submodules that were not read, or
    read in another way than their tensors suggest. x: a few rows. Raises OptionError for an option that no layer
    uses."""
    whole = oracle.module

    def free(parts: dict[str, T]) -> dict[str, T]:
        return {name: part for name, part in parts.items() if not is_in(name, kept)}

    candidates = free(kan_candidates.candidates(whole))
    places = match.floating(whole.wiring.ports, x)
    far_rows = np.concatenate([match.far(x, places), *match.nonfinite(x, places).values()])
    readings, notes = _read(candidates, oracle, x, far_rows, options)
    convolving = free(conv_detect.parts(whole, readings))
    if convolving:
        calls = _calls(convolving, oracle, x)
        in_order = {name: calls[name] for name in convolving if name in calls}
        convolutions, refused = conv_detect.find_convolutions(in_order, _precision(oracle), list(readings))
        readings |= convolutions
        pairs = [(f"resembles a KAN convolution, but {why}; it has no edges", name) for name, why in refused.items()]
        pairs += [(words, name) for name, reading in convolutions.items() for words in conv_detect.notes(reading.by)]
        notes += [f"{listed(names)}: {words}" for words, names in grouped(pairs).items()]
    unknown = free(additive.unknown(whole, readings))
    if unknown:
        sampled, sampled_notes = _sampled(unknown, oracle, x, far_rows, noted=candidates)
        # A sampled layer takes the place of the readings inside it.
        readings = {name: reading for name, reading in readings.items() if sampled.keys().isdisjoint(parents(name))}
        readings |= sampled
        notes += sampled_notes
    return readings, notes


def _read(
    candidates: dict[str, Candidate], oracle: ReferenceModule, x: Array, far_rows: Array, options: Mapping[str, str]
) -> tuple[Readings, list[str]]:
    """The layers that a reader knows, outermost first, and notes on submodules that were not read, or read in another
    way."""
    modules = {name: candidate.module for name, candidate in candidates.items()}
    calls, far_calls = _calls(modules, oracle, x), _far_calls(modules, oracle, far_rows, len(x))
    readings: Readings = {}
    refused: dict[str, Verdict] = {}
    consulted: set[str] = set()
    for name in sorted(calls, key=list(candidates).index):
        if any(parent in readings for parent in parents(name)):
            continue
        verdict = judge(candidates[name], calls[name], options, _precision(oracle), far_calls.get(name, ()))
        consulted |= verdict.consulted
        if verdict.reading is not None:
            readings[name] = verdict.reading
        else:
            refused[name] = verdict
    unknown = sorted(set(options) - consulted)
    if unknown:
        known = ", ".join(sorted(key for key in consulted if " " not in key))
        option = f"--{unknown[0]}" if " " in unknown[0] else repr(unknown[0])
        raise OptionError(
            f"unknown option {option}: no KAN layer in this module uses it",
            code="option-unknown",
            hint=f"available: {known}" if known else f"remove {option}",
        )
    by_how = grouped((reading.how, name) for name, reading in readings.items() if reading.how)
    notes = [f"{listed(names)}: read {how}, to match the module" for how, names in by_how.items()]
    return readings, notes + _not_replaced(refused, readings)


def _not_replaced(refused: Mapping[str, Verdict], readings: Readings) -> list[str]:
    """Notes on submodules that were not replaced, except those that contain read layers or were not replaced for the
    same family."""
    families = {name: reading.family for name, reading in readings.items()}
    families |= {name: verdict.family for name, verdict in refused.items()}
    inner = {(parent, family) for name, family in families.items() for parent in parents(name)}
    by_why = grouped(
        ((verdict.family, verdict.why, verdict.hint), name)
        for name, verdict in refused.items()
        if (name, verdict.family) not in inner
    )
    notes = []
    for (family, why, hint), names in by_why.items():
        kind = "a linear layer" if family == LINEAR else f"a layer of {family}"
        error = max(refused[name].error for name in names)
        advice = "; ".join([f"by up to {error:.1e}"] * bool(error) + [hint] * bool(hint))
        notes.append(f"{listed(names)}: resembles {kind}, but {why}{f' ({advice})' if advice else ''}; not replaced")
    return notes


def _sampled(
    unknown: Modules, oracle: ReferenceModule, x: Array, far_rows: Array, noted: Mapping[str, Candidate]
) -> tuple[Readings, list[str]]:
    """Sampled layers for submodules without a reader that are additive, and notes on them and on others. `noted`:
    those that have notes already."""
    few = _calls(unknown, oracle, repeat(x, 2))
    likely, untried = additive.find_candidates(unknown, few)
    if not likely:
        return {}, _without_edges(untried, noted)
    modules = {name: unknown[name] for name in likely}
    calls, far_calls = _calls(modules, oracle, x), _far_calls(modules, oracle, far_rows, len(x))
    sampled, refused = additive.verify_candidates(likely, calls, far_calls, _precision(oracle))
    notes = _without_edges({name: verdict.why.replace(TENSORS, EDGES_SUM) for name, verdict in refused.items()}, noted)
    if sampled:
        note = "no reader knows the layer, and it is additive; an edge is its output if only that source changes"
        notes.append(f"{listed(sampled)}: {note}")
    return sampled, notes + _without_edges(untried, noted)


def _without_edges(reasons: Mapping[str, str], noted: Mapping[str, Candidate]) -> list[str]:
    """Notes on submodules that resemble KAN layers. `reasons`: by name."""
    by_why = grouped((why, name) for name, why in reasons.items() if name not in noted)
    return [
        f"{listed(names)}: has coefficients like those of a KAN layer without a reader, but {why}; it has no edges"
        for why, names in by_why.items()
    ]


def _precision(oracle: ReferenceModule) -> str:
    return "float64" if oracle.dtype == torch.float64 else "float32"


def _calls(modules: Modules, oracle: ReferenceModule, x: Array) -> dict[str, list[Call]]:
    """The calls of every module that runs."""
    return grouped((call.name, call) for call in oracle.run(x, modules, nested=True)[1])


def _far_calls(modules: Modules, oracle: ReferenceModule, rows: Array, count: int) -> dict[str, list[Call]]:
    """The same for `count` rows at a time, far from the example, if the module runs on them."""
    by_name: dict[str, list[Call]] = {}
    for at in range(0, len(rows), count):
        with contextlib.suppress(InvalidKan):
            for name, calls in _calls(modules, oracle, repeat(rows[at : at + count], count)).items():
                by_name.setdefault(name, []).extend(calls)
    return by_name


def repeat(x: Array, count: int) -> Array:
    """The number of rows, with different ones if there are enough."""
    return np.resize(x, (count, *x.shape[1:]))


def _is_about(note: str, names: Sequence[str]) -> bool:
    """Whether a note is about no other submodules."""
    return ": " in note and set(map(shown, names)).issuperset(_names_in(note))


def _names_in(note: str) -> list[str]:
    """The submodules that a note is about."""
    return note.partition(": ")[0].split(", ")


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


def _layer_calls(oracle: ReferenceModule, x: Array, readings: Mapping[str, Reading]) -> tuple[LayerCall, ...]:
    """The calls of the recognized submodules, in order, and the place of the rows of the batch in each, from batches
    of one, two and three rows. Raises InvalidKan if the order differs."""
    modules = {name: oracle.module.get_submodule(name) for name in readings}
    batches = (repeat(x, 2), repeat(x, 3), repeat(x, 2)[1:])
    runs = [oracle.run(rows, modules, tapped=_tapped(readings))[1] for rows in batches]
    if any([call.name for call in run] != [call.name for call in runs[0]] for run in runs):
        raise ModuleRefused(
            "the module runs different layers for different batch sizes, which a graph cannot represent",
            code="module-depends-on-batch-size",
            hint="remove loops over the rows of a batch: layers take all rows at once",
        )
    return tuple(_layer_call(readings[calls[0].name], *calls) for calls in zip(*runs, strict=True))


def _layer_call(reading: Reading, two_rows: Call, three_rows: Call, one_row: Call) -> LayerCall:
    if isinstance(reading.by, Convolved):
        both, three, single = (reading.by.pictures(call) for call in (two_rows, three_rows, one_row))
        axes, width = capture.lead_of(both.shape[:1], three.shape[:1]), both[0].size
        form = capture.TAP_AFTER if reading.by.after else capture.TAP
        use = LayerCall(two_rows.name, reading.by, form, axes, both.shape[2:])
    else:
        both, single, width = two_rows.x, one_row.x, reading.kan.n_inputs
        form, axes = capture.form(two_rows, width, reading.kan.n_outputs), capture.lead(two_rows, three_rows, width)
        # The module computes the layer: the exporter makes no graph for it, or it returns more than the vectors.
        stays = reading.edges_only or isinstance(reading.by, Sampled) or two_rows.part is not None
        use = LayerCall(two_rows.name, reading.kan, capture.TAP if stays else form, axes)
    if axes is not None:
        alone, among_two = (capture.by_row(values.reshape(-1, width), axes) for values in (single, both))
        if not np.allclose(alone[0], among_two[1], rtol=1e-5, atol=1e-6, equal_nan=True):
            return dataclasses.replace(use, axes=None)
    return use


def _tapped(readings: Mapping[str, Reading]) -> list[str]:
    return [name for name, reading in readings.items() if isinstance(reading.by, Convolved)]


def _require_fixed(oracle: ReferenceModule, x: Array) -> None:
    """Check that each of x gives one row of output, and the same in a second run. Raises InvalidKan."""
    first, second = (oracle.run(x)[0] for _ in range(2))
    if len(first) != len(x):
        raise ModuleRefused(
            f"the module returns {len(first)} rows for {len(x)}, expected one output per row",
            code="outputs-not-per-row",
            hint="make the first axis of inputs and outputs the batch",
        )
    if not close(second, first, LIMITS[oracle.dtype]):
        raise ModuleRefused(
            "the module returns different outputs for the same rows: a part of it is random at inference",
            code="module-is-random",
            hint="pass training=self.training to functional.dropout and similar functions",
        )


def _require_independent(oracle: ReferenceModule, x: Array) -> None:
    """Check that every row of x by itself gives the same as in a batch. Raises InvalidKan, which names the submodule
    that mixes rows: such a model cannot be verified row by row."""
    limit = LIMITS[oracle.dtype]
    together, _ = oracle.run(x)
    single = np.split(x, len(x))
    try:
        rows = [oracle.run(row)[0] for row in single]
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
    if not close(np.concatenate(rows), together, limit):
        modules = {name: module for name, module in oracle.module.named_modules() if name}
        calls = [oracle.run(batch, modules, nested=True)[1] for batch in (x, *single)]
        culprit = _culprit(calls[0], calls[1:], limit)
        because = f", because of {culprit}" if culprit not in ("", shown("body")) else ""
        raise ModuleRefused(
            f"the output of a row depends on the other rows of its batch (edge class C){because}; it cannot be served",
            code="module-depends-on-batch",
            hint=FREEZE,
        )


def _culprit(together: list[Call], alone: list[list[Call]], limit: float) -> str:
    """The first submodule, innermost first, with another output for the same row in a batch; empty if there is none.
    `together`: its calls with all rows; `alone`: those with each row."""
    if any([call.name for call in calls] != [call.name for call in together] for calls in alone):
        return ""
    for many, *single in zip(together, *alone, strict=True):
        for at, call in enumerate(single):
            if many.x.size != call.x.size * len(single) or many.y.size != call.y.size * len(single):
                continue
            x, y = (values.reshape(len(single), -1)[at] for values in (many.x, many.y))
            if close(x, call.x.reshape(-1), limit) and not close(y, call.y.reshape(-1), limit):
                return shown(many.name)
    return ""
