"""Export of modules: recognize layers, trace, splice, verify against the module, and pack."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.bundle import description, explain_graph
from kanexport.bundle.description import Signature
from kanexport.bundle.publish import Result, Target, VerificationBasis, VerifiedModel, publish
from kanexport.errors import REPAIR, InvalidKan, ModuleRefused, OptionError, VerificationFailed
from kanexport.graph import compose
from kanexport.graph.external_data import Weights, share
from kanexport.lowering import lower
from kanexport.lowering.lower import INPUT, Lowered, edge_graph, serving_graph, term_tensors
from kanexport.parity import compare, data
from kanexport.shared.manifest import BASIC, HYBRID, MODULE, LayerInfo, Source, SourceFile
from kanexport.shared.sections import CLAMP
from kanexport.torch_export import (
    conv_graphs,
    inputs,
    kan_candidates,
    match,
    nonfinite,
    replacement_plan,
    splice,
    trace,
)
from kanexport.torch_export.borrowed_module import TYPES, lent, unwrapped
from kanexport.torch_export.capture import ReferenceModule, rounded
from kanexport.torch_export.conv_layer import Convolved
from kanexport.torch_export.io_binding import Served, Whole
from kanexport.torch_export.kan_candidates import grouped, shown
from kanexport.torch_export.replacement_plan import FEW, NUMBERS, Plan, repeat
from kanexport.torch_export.sampled_layer import EdgeGraphs, Sampled
from kanexport.torch_export.trace import Placeholder, Traced
from kanexport.verify import graph_runner, test_points, verify
from kanexport.verify.graph_runner import FLOAT, Ports, join, split
from kanexport.verify.verify import Proof

Array = npt.NDArray[np.float64]
Advance = Callable[[int, int], None]
Phase = Callable[[str], None]
T = TypeVar("T")

FIRST = 2  # rows that show how long a module takes
PROOF_ROWS = 32
EXTREME = ("equal values", "tiny values", "large values")  # regions in which a normalization may underflow or overflow
MOST_ROWS = 100_000  # of a batch that a graph may have to be tried with
EFFORT = 400_000_000  # numbers that the operations of a module compute in one run: seconds, and less than a GiB
ATTEMPTS = 10  # at putting layers back; each takes a trace and a proof
REFUSALS = (InvalidKan, VerificationFailed)
# Types of the parameters, widest first.
STORED = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def convert(
    module: nn.Module,
    example: Any,
    target: Target,
    *,
    options: dict[str, str],
    assumed: dict[str, str] | None = None,
    files: tuple[SourceFile, ...] = (),
    expected: Sequence[Path] = (),
    advance: Advance = lambda done, total: None,
    phase: Phase = lambda words: None,
) -> Result:
    """Export a module and restore it. Raises ExportError; then nothing has changed.

    example   rows [B, ...] like real data: a tensor or array, a tuple of them, or a dictionary by forward's parameters
    expected  files with outputs of the trained model, which the exporter compares with the graph
    """
    _check(target)
    recorded = data.load(expected) if expected else None
    x, wiring = inputs.rows(example, unwrapped(module))
    whole = Whole(unwrapped(module), wiring)
    oracle = ReferenceModule.of(whole, x[:FIRST])
    with lent(whole, oracle.dtype):
        most = _rows_at_once(oracle, x, phase)
        plan = replacement_plan.make(oracle, x, options, few=min(FEW, most))
    plan, (lowered, proof) = most_replaced(
        plan, lambda plan: _Attempt(plan, target, min(most, plan.rows_at_once), advance, phase).run()
    )
    claim = VerificationBasis(MODULE)
    if recorded is not None:
        with lent(whole, oracle.dtype):
            claim = compare.graph(recorded, plan.ports, plan.evaluate, lowered, target)
    stored, facts = _stored(whole), {"options_given": options, "options_assumed": assumed or {}}
    source = Source(family=HYBRID, family_reason=_reason(plan), dtype=stored, files=files, **facts)
    model = VerifiedModel(
        lowered=lowered,
        proof=proof,
        claim=claim,
        layers=_describe(plan, lowered),
        edge_class="B" if any(layer.mixes for layer in plan.layers) else "A",
        opset=trace.OPSET,
        signature=Signature(plan.ports, target.dtype),
        source=source,
        notes=(*plan.notes, *plan.without_edges(), *_precision(stored, target.dtype, oracle)),
    )
    return publish(target, model)


def _check(target: Target) -> None:
    """Raises OptionError and RepositoryError."""
    target.check()
    if target.out_of_range == CLAMP:
        raise OptionError(
            "--out-of-range clamp does not fit a PyTorch module: torch.onnx builds that graph",
            code="clamp-not-possible",
            hint="clamp in the forward of the module, or use --out-of-range reject or flag",
        )


def _reason(plan: Plan) -> str:
    by_family = grouped((reading.family, shown(name)) for name, reading in plan.readings.items())
    return "; ".join(f"{family}: {', '.join(names)}" for family, names in by_family.items()) or "no KAN layer"


def _stored(module: nn.Module) -> str:
    kinds = {parameter.dtype for parameter in module.parameters()}
    return next((name for kind, name in STORED.items() if kind in kinds), "float32")


def _precision(stored: str, dtype: str, oracle: ReferenceModule) -> list[str]:
    notes = []
    if stored in ("float16", "bfloat16"):
        notes.append(
            f"the weights of the module are {stored}; the graph computes in {dtype}, which represents them exactly"
        )
    if oracle.dtype != torch.float64:
        notes.append("the module does not run in float64, so it was compared in float32")
    return notes


def _rows_at_once(oracle: ReferenceModule, x: Array, phase: Phase) -> int:
    """The number of rows with which a lent module may run at once. Raises InvalidKan for a module that is too large,
    or has weights or outputs that are not finite."""
    modules = {name: part.module for name, part in kan_candidates.candidates(oracle.module).items()}
    with trace.Operations(modules.values()) as operations:
        oracle.run(x[:FIRST])
    effort = operations.numbers // len(x[:FIRST])
    operations.require_few(len(x[:FIRST]))
    phase(
        f"searching for KAN layers; the module runs {operations.count} operations outside of likely ones, and "
        f"computes {effort:.2g} numbers per row"
    )
    y, calls = oracle.run(repeat(x, 2), modules, nested=True)  # a module may not take one row by itself
    numbers = (y.size + sum(call.x.size + call.y.size for call in calls)) // 2
    most = max(1, min(MOST_ROWS, NUMBERS // max(1, numbers), EFFORT // max(1, effort)))

    def has_finite_rows() -> bool:
        rows = x[: min(FEW, most)]
        finite = np.isfinite(oracle.run(rows)[0].reshape(len(rows), -1))
        if not finite.any():
            raise ModuleRefused(
                "no output of the module is finite on the example rows, so the graph cannot be compared",
                code="outputs-not-finite",
                hint="pass rows like the training data with --example rows.npy",
            )
        return bool(finite.all(axis=1).any())

    _require_finite_weights(oracle.module, has_finite_rows)
    return most


def _require_finite_weights(module: nn.Module, has_finite_rows: Callable[[], bool]) -> None:
    """Raises InvalidKan for NaN or infinity in a parameter or in statistics of a normalization, and for NaN in a
    buffer. Infinities in other buffers, such as the mask of an attention, may be intended; they are rejected, too,
    unless the module returns finite outputs for some of the ordinary rows."""
    norms = {
        f"{name}.{buffer}"
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        for buffer in part._buffers
    }
    for name, parameter in module.named_parameters():
        _require_finite("parameter", name, parameter, infinity=False)
    for name, buffer in module.named_buffers():
        _require_finite("buffer", name, buffer, infinity=name not in norms)
    if not has_finite_rows():
        for name, buffer in module.named_buffers():
            _require_finite("buffer", name, buffer, infinity=False)


def _require_finite(what: str, name: str, tensor: torch.Tensor, *, infinity: bool) -> None:
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()) or tensor.layout != torch.strided:
        return
    bad = torch.isnan(tensor) if infinity else ~torch.isfinite(tensor)
    if not bad.any():
        return
    first = tuple(torch.nonzero(bad)[0].tolist())
    raise InvalidKan(
        f"{what} {shown(name)} at [{', '.join(map(str, first))}] is {tensor[first].item()!r} "
        f"({int(bad.sum())} of {tensor.numel()} are not finite)",
        code="weights-not-finite",
        hint=REPAIR,
    )


def most_replaced(plan: Plan, attempt: Callable[[Plan], T]) -> tuple[Plan, T]:
    """The plan with as many replaced layers as possible, and the result of its `attempt`. Raises the error of the
    attempt if the module cannot be exported at all."""
    try:
        return plan, attempt(plan)
    except REFUSALS as error:
        first = error
    if not plan.readings:
        raise first
    left = dict.fromkeys(plan.readings, first.message)
    try:
        bare = plan.without(left)
        best = bare, attempt(bare)
    except REFUSALS as second:
        # Where both cannot be traced, the second speaks of the module alone.
        raise second if isinstance(first, InvalidKan) else first from second
    # Layers are put back by halves.
    groups, attempts = _halves(list(left)), ATTEMPTS
    while groups and attempts:
        group, attempts = groups.pop(0), attempts - 1
        others = {name: why for name, why in left.items() if name not in group}
        try:
            fuller = plan.without(others)
            best = fuller, attempt(fuller)
            left = others
        except REFUSALS as error:
            groups = _halves(group) + groups
            left |= dict.fromkeys(group, error.message)
    try:
        with_edges = plan.without(left, with_edges=True)
        return with_edges, attempt(with_edges)
    except REFUSALS:
        return best


def _halves(group: list[str]) -> list[list[str]]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]] if middle else []


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt to export a plan: its graphs and their verification. `most`: the largest number of rows per run."""

    plan: Plan
    target: Target
    most: int
    advance: Advance
    phase: Phase

    def run(self) -> tuple[Lowered, Proof]:
        """The graphs of the first trace that equals the module. Raises the error of the first trace."""
        plan, target = self.plan, self.target
        self.phase(f"tracing the module with torch.onnx, {len(plan.layers)} layers with edges")
        file = lower.shared(plan.layers, target.dtype)
        bodies, edges = layer_subgraphs(plan, target, file)
        names = tuple(f"layer{at}_in" for at in range(len(edges)))
        failure: InvalidKan | VerificationFailed | None = None
        for traced in self._traces([body.placeholder for body in bodies]):
            lowered = Lowered(splice.splice(traced.model, bodies, plan.ports), edges, names, file)
            try:
                self._require_testable(traced.sizes)
                return self._verified(self._explained(lowered), traced.sizes)
            except REFUSALS as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def _traces(self, placeholders: Sequence[Placeholder]) -> Iterator[Traced]:
        """The traces of the module, which is lent only while one is made."""
        plan, dtype, whole = self.plan, TYPES[self.target.dtype], self.plan.oracle.module
        modules = plan.modules
        parts = {use.name: (modules[use.name], own) for use, own in zip(plan.uses, placeholders, strict=True)}
        rows = list(plan.ports.feeds(plan.x[:FEW], self.target.dtype).values())
        served, most = Served(whole.body, whole.wiring), self.target.max_batch_size
        traces = trace.traces(served, rows, list(parts.values()), dtype, most=most, derives=plan.oracle.derives)
        while True:
            with lent(whole, dtype):
                traced = next(traces, None)
            if traced is None:
                return
            yield traced

    def _require_testable(self, starts: tuple[int, ...]) -> None:
        """Raises InvalidKan for batches that are too large to be tested. `starts`: the batch sizes from which on the
        module may compute in another way."""
        if max(starts, default=0) > max(self.most, PROOF_ROWS):
            raise ModuleRefused(
                f"the module computes differently for batches of {max(starts)} rows, which are too large to be tested",
                code="module-depends-on-batch-size",
                hint="remove branches on the number of rows from the forward",
            )

    def _explained(self, lowered: Lowered) -> Lowered:
        """The graphs with one that explains outputs, if the target has it."""
        target, layers = self.target, _describe(self.plan, lowered)
        against = "" if target.baseline is None else explain_graph.OF_MODULE
        signature = Signature(self.plan.ports, target.dtype)
        return explain_graph.add(target.explain, lowered, layers, signature, target.names, against)

    def _verified(self, lowered: Lowered, starts: tuple[int, ...]) -> tuple[Lowered, Proof]:
        """The graphs and their verification. If the optimizer of onnxruntime makes the graphs wrong, the exporter
        lowers its level. Raises the error for the graphs at the full level. `starts`: as in `_require_testable`."""
        self.phase("verifying the graphs against the module")
        with lent(self.plan.oracle.module, self.plan.oracle.dtype):
            try:
                return lowered, self._prove(lowered, starts)
            except VerificationFailed as error:
                if lowered.explained is not None:  # the client's runtime may optimize that graph at any level
                    raise
                basic, failure = dataclasses.replace(lowered, optimization=BASIC), error
            try:
                proof = self._prove(basic, starts)
            except REFUSALS:
                raise failure from None
        note = (
            f"{graph_runner.name()} makes the correct graph wrong at ORT_ENABLE_EXTENDED and above "
            f"({failure.message}); it was compared with the module at ORT_ENABLE_BASIC, and kanserve loads it at this "
            "level; for Triton, add optimization { graph { level: -1 } } to config.pbtxt; in Python, set "
            "SessionOptions.graph_optimization_level to ORT_ENABLE_BASIC"
        )
        return basic, dataclasses.replace(proof, notes=(*proof.notes, note))

    def _prove(self, lowered: Lowered, starts: tuple[int, ...]) -> Proof:
        plan, target, most = self.plan, self.target, self.most
        count = min(PROOF_ROWS, most)
        zones = verification_batches(plan.ports, plan.x, count)
        rows = match.nonfinite(zones["inside"], match.floating(plan.ports.inputs, zones["inside"]))
        extreme = {name: zones.pop(name) for name in EXTREME}
        alike, notes = nonfinite.compare(plan, lowered, target.dtype, rows, extreme)
        if alike:
            zones["nonfinite"] = np.concatenate([rows[name] for name in alike[: len(zones["inside"])]])
        layers = [
            pair
            for use in plan.uses
            if use.axes is not None
            for pair in zip(use.kan.layers, use.kan.widths(), strict=False)
        ]
        # If torch does not vouch for a graph, the largest batch shows a branch such as len(x) > 40.
        largest = [min(most, target.max_batch_size)] if starts else []
        proof = verify.verify_subject(
            plan,
            lowered,
            target.dtype,
            zones=zones,
            layers=[test_points.zone_rows(layer, width, seed=at) for at, (layer, width) in enumerate(layers)],
            tolerance=target.tolerance,
            advance=self.advance,
            empty=False,  # many modules cannot take a batch of no rows, and so neither can their graphs
            sizes=tuple(sorted({2, count + 1, *starts, *largest})),
        )
        return dataclasses.replace(proof, notes=(*proof.notes, *notes))


def layer_subgraphs(
    plan: Plan, target: Target, file: Weights | None
) -> tuple[list[splice.Subgraph | splice.Tap], tuple[bytes, ...]]:
    """The subgraph for each call of a layer, and the edge graphs. `file`: the one for their large constants."""
    whole, dtype, most = plan.oracle.module, target.dtype, target.max_batch_size
    index = {name: at for at, name in enumerate(plan.readings)}
    with lent(whole, TYPES[dtype]):
        sampled = EdgeGraphs(reading.by for reading in plan.readings.values() if isinstance(reading.by, Sampled))
    edges: list[bytes] = []
    bodies: list[splice.Subgraph | splice.Tap] = []
    for use in plan.uses:
        by = plan.readings[use.name].by
        if isinstance(use.kan, Convolved):
            unfolded = []
            for part, axes in zip(use.kan.parts, use.places, strict=False):
                name = f"layer{len(edges)}_in"
                unfolded.append(conv_graphs.unfolded(part, name, axes, use.picture))
                with lent(whole, TYPES[dtype]):
                    edges.append(share(conv_graphs.edges(use.kan, part, name, dtype, most), file))
            placeholder = Placeholder(index[use.name], 0, 0, use.form)
            bodies.append(splice.Tap(placeholder, tuple(unfolded), use.picture, dtype))
            continue
        nodes = []
        inner = (INPUT, *(f"layer{at}_in" for at in range(1, len(use.kan.layers))))
        for layer, width, tensor, _ in zip(use.kan.layers, use.kan.widths(), inner, use.places, strict=False):
            name = f"layer{len(edges)}_in"
            nodes.append((tensor, name))
            if by is None:
                edges.append(edge_graph(layer, name, width, dtype, file))
                continue
            with lent(whole, TYPES[dtype]):
                edges.append(share(sampled.edges(by, name, dtype, most), file))
        placeholder = Placeholder(index[use.name], use.kan.n_inputs, use.kan.n_outputs, use.form)
        if by is None:
            model = serving_graph(use.kan, inner, dtype, file, whole=False)
        else:  # the traced module still computes the layer
            model = splice.passing(use.kan.n_inputs, dtype)
        bodies.append(splice.Subgraph(placeholder, model, tuple(nodes), use.axes))
    return bodies, tuple(edges)


def _describe(plan: Plan, lowered: Lowered) -> tuple[LayerInfo, ...]:
    """The layers as in a plain model, with positions and names: that of the submodule, numbered if it contains several
    layers or runs several times."""
    total = Counter(use.name for use in plan.uses)
    counts: Counter[str] = Counter()
    infos: list[LayerInfo] = []
    for use in plan.uses:
        counts[use.name] += 1
        call = f"#{counts[use.name]}" if total[use.name] > 1 else ""
        several = len(use.kan.layers) > 1
        for part, (layer, axes) in enumerate(zip(use.kan.layers, use.places, strict=False)):
            at, terms = len(infos), term_tensors(layer)
            if not compose.outputs(lowered.edges[at]).keys() >= {*filter(None, terms)}:
                terms = ("",) * len(terms)  # a graph of torch.onnx has no tensors of single terms
            info = description.layer(layer, at, lowered.node_tensors[at], terms)
            name = shown(f"{use.name}.{layer.name or part}" if several else use.name) + call
            infos.append(dataclasses.replace(info, name=name, positions=tuple(n for n in axes if n != -1)))
    return tuple(infos)


def verification_batches(ports: Ports, x: Array, count: int) -> dict[str, Array]:
    """Rows of the model by region, at most `count`: as given, and derived from the given rows."""
    parts = split(ports.inputs, x)
    floating = [part for part, port in zip(parts, ports.inputs, strict=True) if port.kind == FLOAT]
    counts = {name: len(rows) for name, rows in _beside((floating or parts)[0], count).items()}
    zones = []
    for part, port in zip(parts, ports.inputs, strict=True):
        if port.kind == FLOAT:
            zones.append(_beside(part, count))
            continue
        rng = np.random.default_rng(0)
        zones.append({name: inputs.resampled(part, size, rng) for name, size in counts.items()})
        zones[-1]["inside"][: len(part)] = part[:count]
    return {name: join([zone[name] for zone in zones]) for name in counts}


def _beside(x: Array, count: int) -> dict[str, Array]:
    """Floating-point rows by zone."""
    rng = np.random.default_rng(0)
    inside = x[:count]
    if len(inside) < min(FEW, count):  # a few example rows prove little
        more = inside[rng.integers(len(inside), size=count - len(inside))]
        inside = np.concatenate([inside, more * rng.uniform(0.5, 1.5, size=more.shape)])
    spread, few = float(inside.std()) or 1.0, inside[: min(FEW, (count + 1) // 2)]
    zones = {
        "inside": inside,
        "scaled": np.concatenate([few * 3, few * 0.1]),
        "noise": few + rng.normal(0, spread, size=few.shape),
        "zeros": np.zeros((1, *x.shape[1:])),
        EXTREME[0]: np.broadcast_to(few.reshape(len(few), -1)[:, :1].reshape(-1, *[1] * (x.ndim - 1)), few.shape),
        EXTREME[1]: np.concatenate([few * 1e-9, few * 1e-20]),
        EXTREME[2]: np.concatenate([few * 30, few * 1000]),
    }
    return {name: rounded(rows) for name, rows in zones.items()}
