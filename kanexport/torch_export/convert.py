"""Export of modules: recognize layers, trace, splice, verify against the module, and pack."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.bundle import description, explain_graph
from kanexport.bundle.description import Signature
from kanexport.bundle.publish import Result, Target, VerificationBasis, VerifiedModel, publish
from kanexport.errors import InvalidKan, ModuleRefused, OptionError, VerificationFailed
from kanexport.graph import compose
from kanexport.graph.external_data import Weights, share
from kanexport.ir.model import Kan, Layer
from kanexport.lowering import lower
from kanexport.lowering.lower import INPUT, Lowered, edge_graph, serving_graph, term_tensors
from kanexport.parity import compare
from kanexport.parity.data import RecordedOutputs
from kanexport.shared.manifest import BASIC, HYBRID, MODULE, LayerInfo, Source, SourceFile
from kanexport.shared.sections import CLAMP
from kanexport.torch_export import conv_graphs, inputs, kan_candidates, match, nonfinite, splice, state_dict, trace
from kanexport.torch_export import plan as planning
from kanexport.torch_export.borrowed_module import TYPES, lent, unwrapped
from kanexport.torch_export.capture import ReferenceModule
from kanexport.torch_export.conv_layer import Convolved
from kanexport.torch_export.io_binding import Served
from kanexport.torch_export.kan_candidates import Whole, shown
from kanexport.torch_export.plan import FEW, LayerCall, Plan
from kanexport.torch_export.sampled_layer import EdgeGraphs, Sampled
from kanexport.torch_export.trace import Placeholder
from kanexport.verify import graph_runner, test_points, verify
from kanexport.verify.graph_runner import FLOAT, Ports, join, split
from kanexport.verify.verify import Proof

Array = npt.NDArray[np.float64]

FIRST = 2  # rows that show how long a module takes
PROOF_ROWS = 32
EXTREME = ("equal values", "tiny values", "large values")  # regions in which a normalization may underflow or overflow
MOST_ROWS = 100_000  # of a batch that a graph may have to be tried with
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
    recorded: RecordedOutputs | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
    phase: Callable[[str], None] = lambda words: None,
) -> Result:
    """Export a module and restore it. Raises ExportError; then nothing has changed.

    example   rows [B, ...] like real data: a tensor or array, a tuple of them, or a dictionary by forward's parameters
    recorded  outputs of the trained model, which the exporter compares with the graph
    """
    _check(target)
    x, wiring = inputs.rows(example, unwrapped(module))
    whole = Whole(unwrapped(module), wiring)
    stored = _stored(whole)
    oracle = ReferenceModule.of(whole, x[:FIRST])
    with lent(whole, oracle.dtype):
        most = _rows_at_once(whole, oracle, x, phase)
        plan = planning.make(whole, oracle, x, options, few=min(FEW, most))
    plan, (lowered, proof) = LayerReplacementSearch(
        lambda plan: _attempt(whole, plan, x, min(most, planning.visible(plan)), target, _Progress(advance, phase)),
        lambda plan, names, why: _without(whole, plan, x, names, why),
        lambda plan, names, why: _edges_only(whole, plan, x, names, why),
    ).best(plan)
    facts = {"options_given": options, "options_assumed": assumed or {}}
    source = Source(family=HYBRID, family_reason=_reason(plan), dtype=stored, files=files, **facts)
    model = VerifiedModel(
        lowered=lowered,
        proof=proof,
        claim=_claim(recorded, whole, plan, lowered, target),
        layers=_describe(plan, lowered),
        edge_class="B" if any(layer.mixes for layer in plan.layers) else "A",
        opset=trace.OPSET,
        signature=Signature(plan.ports, target.dtype),
        source=source,
        notes=(*plan.notes, *planning.without_edges(whole, plan), *_precision(stored, target.dtype, oracle)),
    )
    return publish(target, model)


def _rows_at_once(whole: Whole, oracle: ReferenceModule, x: Array, phase: Callable[[str], None]) -> int:
    """The number of rows with which a lent module may run at once. Raises InvalidKan for a module that is too large,
    or has weights or outputs that are not finite."""
    with trace.Operations(part.module for part in kan_candidates.candidates(whole).values()) as operations:
        oracle.run(x[:FIRST])
    effort = operations.numbers // len(x[:FIRST])
    operations.require_few(len(x[:FIRST]))
    phase(
        f"searching for KAN layers; the module runs {operations.count} operations outside of likely ones, and "
        f"computes {effort:.2g} numbers per row"
    )
    most = planning.affordable(whole, oracle, x, MOST_ROWS, effort)
    state_dict.require_finite(whole, lambda: _answers(oracle, x[: min(FEW, most)]))
    return most


def _check(target: Target) -> None:
    """Raises OptionError and RepositoryError."""
    target.check()
    if target.out_of_range == CLAMP:
        raise OptionError(
            "--out-of-range clamp does not fit a PyTorch module: torch.onnx builds that graph",
            code="clamp-not-possible",
            hint="clamp in the forward of the module, or use --out-of-range reject or flag",
        )


def _answers(oracle: ReferenceModule, x: Array) -> bool:
    """Whether some of the example rows have only finite outputs. Raises InvalidKan if no output is finite."""
    finite = np.isfinite(oracle.run(x)[0].reshape(len(x), -1))
    if not finite.any():
        raise ModuleRefused(
            "no output of the module is finite on the example rows, so the graph cannot be compared",
            code="outputs-not-finite",
            hint="pass rows like the training data with --example rows.npy",
        )
    return bool(finite.all(axis=1).any())


def _claim(
    recorded: RecordedOutputs | None, whole: Whole, plan: Plan, lowered: Lowered, target: Target
) -> VerificationBasis:
    """The basis of the verification. Raises the errors of `parity.compare.graph`."""
    if recorded is None:
        return VerificationBasis(MODULE)
    with lent(whole, plan.oracle.dtype):
        return compare.graph(recorded, plan.ports, plan.evaluate, lowered, target)


def _without(whole: Whole, plan: Plan, x: Array, names: Sequence[str], why: str) -> Plan:
    with lent(whole, plan.oracle.dtype):
        return planning.without(plan, x, names, why)


def _edges_only(whole: Whole, plan: Plan, x: Array, names: Sequence[str], why: str) -> Plan:
    with lent(whole, plan.oracle.dtype):
        return planning.edges_only(plan, x, names, why)


@dataclass(frozen=True, slots=True)
class _Progress:
    """Callbacks that report progress.

    advance  receives the progress of the verification
    phase    receives a text on each step that begins
    """

    advance: Callable[[int, int], None]
    phase: Callable[[str], None]


def _attempt(
    whole: Whole, plan: Plan, x: Array, most: int, target: Target, progress: _Progress
) -> tuple[Lowered, Proof]:
    """Graphs and their verification. Raises the error of the first trace. `most`: the largest number of rows per
    run."""
    failure: InvalidKan | VerificationFailed | None = None
    count, against = min(PROOF_ROWS, most), "" if target.baseline is None else explain_graph.OF_MODULE
    progress.phase(f"tracing the module with torch.onnx, {len(plan.layers)} layers with edges")
    for lowered, starts in _graphs(whole, plan, x, target):
        try:
            _require_at_most(starts, most)
            # If torch does not vouch for a graph, the largest batch shows a branch such as len(x) > 40.
            largest = [min(most, target.max_batch_size)] if starts else []
            sizes = tuple(sorted({2, count + 1, *starts, *largest}))
            signature = Signature(plan.ports, target.dtype)
            lowered = explain_graph.add(
                target.explain, lowered, _describe(plan, lowered), signature, target.names, against
            )
            progress.phase("verifying the graphs against the module")
            with lent(whole, plan.oracle.dtype):
                return _proved(lowered, functools.partial(_tried, plan, x, count, target, sizes, progress.advance))
        except (InvalidKan, VerificationFailed) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _tried(
    plan: Plan,
    x: Array,
    count: int,
    target: Target,
    sizes: tuple[int, ...],
    advance: Callable[[int, int], None],
    lowered: Lowered,
) -> Proof:
    return _prove(plan, lowered, verification_batches(plan.ports, x, count), target, sizes, advance)


def _proved(lowered: Lowered, prove: Callable[[Lowered], Proof]) -> tuple[Lowered, Proof]:
    """The graphs and their verification. If the optimizer of onnxruntime makes the graphs wrong, the exporter lowers
    its level. Raises the error of `prove` for the graphs at the full level."""
    try:
        return lowered, prove(lowered)
    except VerificationFailed as error:
        if lowered.explained is not None:  # the client's runtime may optimize that graph at any level
            raise
        basic = dataclasses.replace(lowered, optimization=BASIC)
        try:
            proof = prove(basic)
        except (InvalidKan, VerificationFailed):
            raise error from None
        return basic, dataclasses.replace(proof, notes=(*proof.notes, optimiser(error.message)))


def optimiser(failure: str) -> str:
    """The note on a graph that is correct only with less optimization by the runtime."""
    return (
        f"{graph_runner.name()} makes the correct graph wrong at ORT_ENABLE_EXTENDED and above ({failure}); it was "
        "compared with the module at ORT_ENABLE_BASIC, and kanserve loads it at this level; for Triton, add "
        "optimization { graph { level: -1 } } to config.pbtxt; in Python, set "
        "SessionOptions.graph_optimization_level to ORT_ENABLE_BASIC"
    )


def _require_at_most(sizes: Sequence[int], most: int) -> None:
    """Reject graphs for batches of other sizes if these cannot be run for the verification."""
    if max(sizes, default=0) > max(most, PROOF_ROWS):
        raise ModuleRefused(
            f"the module computes differently for batches of {max(sizes)} rows, which are too large to be tested",
            code="module-depends-on-batch-size",
            hint="remove branches on the number of rows from the forward",
        )


def _graphs(whole: Whole, plan: Plan, x: Array, target: Target) -> Iterator[tuple[Lowered, tuple[int, ...]]]:
    """The graphs of each trace, and the batch sizes to test."""
    file = lower.shared(plan.layers, target.dtype)
    filled, edges = layer_subgraphs(whole, plan, target, file)
    names = tuple(name for body in filled for name in body.names)
    placeholders = {
        use.name: (plan.modules[use.name], body.placeholder) for use, body in zip(plan.uses, filled, strict=True)
    }
    rows = list(plan.ports.feeds(x[:FEW], target.dtype).values())
    served, dtype = Served(whole.body, whole.wiring), TYPES[target.dtype]
    traces = trace.traces(
        served, rows, list(placeholders.values()), dtype, most=target.max_batch_size, derives=plan.oracle.derives
    )
    while True:
        with lent(whole, dtype):
            traced = next(traces, None)
        if traced is None:
            return
        yield Lowered(splice.splice(traced.model, filled, plan.ports), edges, names, file), traced.sizes


def _prove(
    plan: Plan,
    lowered: Lowered,
    zones: dict[str, Array],
    target: Target,
    sizes: tuple[int, ...],
    advance: Callable[[int, int], None],
) -> Proof:
    rows = match.nonfinite(zones["inside"], match.floating(plan.ports.inputs, zones["inside"]))
    extreme = {name: zones.pop(name) for name in EXTREME}
    alike, notes = nonfinite.compare(plan, lowered, target.dtype, rows, extreme)
    if alike:
        zones["nonfinite"] = np.concatenate([rows[name] for name in alike[: len(zones["inside"])]])
    proof = verify.verify_subject(
        plan,
        lowered,
        target.dtype,
        zones=zones,
        layers=_own_rows(plan),
        tolerance=target.tolerance,
        advance=advance,
        empty=False,  # many modules cannot take a batch of no rows, and so neither can their graphs
        sizes=sizes,
    )
    return dataclasses.replace(proof, notes=(*proof.notes, *notes))


def _own_rows(plan: Plan) -> list[dict[str, Array]]:
    """Rows by region for each layer that can be queried, with each of its knots."""
    layers = [
        pair
        for use in plan.uses
        if use.axes is not None
        for pair in zip(use.kan.layers, use.kan.widths(), strict=False)
    ]
    return [test_points.zone_rows(layer, width, seed=at) for at, (layer, width) in enumerate(layers)]


def _describe(plan: Plan, lowered: Lowered) -> tuple[LayerInfo, ...]:
    """The layers as in a plain model, with names and positions."""
    axes = [axes for use in plan.uses for axes in use.places]
    layers = zip(plan.layers, lowered.node_tensors, _names(plan.uses), axes, strict=True)
    return tuple(
        dataclasses.replace(
            description.layer(layer, at, tensor, _terms(layer, lowered.edges[at])),
            name=name,
            positions=tuple(n for n in places if n != -1),
        )
        for at, (layer, tensor, name, places) in enumerate(layers)
    )


def _terms(layer: Layer, graph: bytes) -> tuple[str, ...]:
    """The names in an edge graph for the part of each term; a graph of torch.onnx has none."""
    names = term_tensors(layer)
    return names if compose.outputs(graph).keys() >= {*filter(None, names)} else ("",) * len(names)


def _names(uses: Sequence[LayerCall]) -> Iterator[str]:
    """One name per layer: that of the submodule, numbered if it contains several layers or runs several times."""
    total = Counter(use.name for use in uses)
    counts: Counter[str] = Counter()
    for use in uses:
        counts[use.name] += 1
        if use.axes is None:
            continue
        call = f"#{counts[use.name]}" if total[use.name] > 1 else ""
        several = len(use.kan.layers) > 1
        for at, layer in enumerate(use.kan.layers):
            yield shown(f"{use.name}.{layer.name or at}" if several else use.name) + call


def _reason(plan: Plan) -> str:
    by_family: dict[str, list[str]] = {}
    for name, reading in plan.readings.items():
        by_family.setdefault(reading.family, []).append(shown(name))
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


def layer_subgraphs(
    whole: Whole, plan: Plan, target: Target, file: Weights | None
) -> tuple[list[splice.Subgraph | splice.Tap], tuple[bytes, ...]]:
    """The subgraph for each call of a layer, and the edge graphs. `file`: the one for their large constants."""
    index = {name: at for at, name in enumerate(plan.modules)}
    sampled = _sampled(whole, plan, target)
    edges: list[bytes] = []
    bodies: list[splice.Subgraph | splice.Tap] = []
    for use in plan.uses:
        if isinstance(use.kan, Convolved):
            tap, more = _tap(whole, use, use.kan, index[use.name], len(edges), target)
            bodies.append(tap)
            edges += [share(graph, file) for graph in more]
            continue
        nodes = []
        inner = [INPUT, *(f"layer{at}_in" for at in range(1, len(use.kan.layers)))]
        for layer, width, tensor in zip(use.kan.layers, use.kan.widths(), inner, strict=False):
            if use.axes is not None:
                name = f"layer{len(edges)}_in"
                nodes.append((tensor, name))
                by = plan.readings[use.name].by
                if by is None:
                    edges.append(edge_graph(layer, name, width, target.dtype, file))
                else:
                    edges.append(share(sampled(by, name), file))
        placeholder = Placeholder(index[use.name], use.kan.n_inputs, use.kan.n_outputs, use.form)
        model = _serving(plan.readings[use.name].by, use.kan, tuple(inner), target, file)
        bodies.append(splice.Subgraph(placeholder, model, tuple(nodes), use.axes))
    return bodies, tuple(edges)


def _sampled(whole: Whole, plan: Plan, target: Target) -> Callable[[Sampled, str], bytes]:
    """A function from a sampled layer and the name of its input tensor to its edge graph."""
    with lent(whole, TYPES[target.dtype]):
        graphs = EdgeGraphs(reading.by for reading in plan.readings.values() if isinstance(reading.by, Sampled))

    def edges(by: Sampled, name: str) -> bytes:
        with lent(whole, TYPES[target.dtype]):
            return graphs.edges(by, name, target.dtype, target.max_batch_size)

    return edges


def _tap(
    whole: Whole, use: LayerCall, convolved: Convolved, index: int, first: int, target: Target
) -> tuple[splice.Tap, list[bytes]]:
    """The tap at a convolution, and its edge graphs, from number `first` on."""
    graphs, unfolded = [], []
    for at, (part, axes) in enumerate(zip(convolved.parts, use.places, strict=False), first):
        name = f"layer{at}_in"
        unfolded.append(conv_graphs.unfolded(part, name, axes, use.picture))
        with lent(whole, TYPES[target.dtype]):
            graphs.append(conv_graphs.edges(convolved, part, name, target.dtype, target.max_batch_size))
    placeholder = Placeholder(index, 0, 0, use.form)
    return splice.Tap(placeholder, tuple(unfolded), use.picture, target.dtype), graphs


def _serving(by: Sampled | None, kan: Kan, inner: tuple[str, ...], target: Target, file: Weights | None) -> bytes:
    if by is None:
        return serving_graph(kan, inner, target.dtype, file, whole=False)
    return splice.passing(kan.n_inputs, target.dtype)  # the traced module still computes the layer


def verification_batches(ports: Ports, x: Array, count: int) -> dict[str, Array]:
    """Rows of the model by region, at most `count`: as given, and derived from the given rows."""
    parts = split(ports.inputs, x)
    floating = [part for part, port in zip(parts, ports.inputs, strict=True) if port.kind == FLOAT]
    counts = {name: len(rows) for name, rows in _beside((floating or parts)[0], count).items()}
    zones = [
        _beside(part, count) if port.kind == FLOAT else _drawn(part, counts)
        for part, port in zip(parts, ports.inputs, strict=True)
    ]
    return {name: join([zone[name] for zone in zones]) for name in counts}


def _drawn(ids: Array, counts: dict[str, int]) -> dict[str, Array]:
    """Whole numbers by region: as given, then drawn place by place from the given values, because other values may
    be invalid for the model."""
    rng = np.random.default_rng(0)
    flat = ids.reshape(len(ids), -1)
    zones = {}
    for name, count in counts.items():
        drawn = flat[rng.integers(len(flat), size=(count, flat.shape[1])), np.arange(flat.shape[1])]
        if name == "inside":
            drawn[: len(flat)] = flat[:count]
        zones[name] = drawn.reshape(count, *ids.shape[1:])
    return zones


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
    return {name: rows.astype(np.float32).astype(np.float64) for name, rows in zones.items()}


T = TypeVar("T")

ATTEMPTS = 10  # at finding them; each takes a trace and a proof
REFUSALS = (InvalidKan, VerificationFailed)


@dataclass(frozen=True, slots=True)
class LayerReplacementSearch(Generic[T]):
    """Search for the plan that replaces as many layers as possible.

    attempt     builds the result of a plan, or refuses it
    without     leaves layers of a plan to torch.onnx, and notes why
    edges_only  as `without`, but keeps their edges
    """

    attempt: Callable[[Plan], T]
    without: Callable[[Plan, list[str], str], Plan]
    edges_only: Callable[[Plan, list[str], str], Plan]

    def best(self, plan: Plan) -> tuple[Plan, T]:
        """The plan with as many replaced layers as possible, and its result. Raises the error of `attempt` if the
        module cannot be exported at all."""
        try:
            return plan, self.attempt(plan)
        except REFUSALS as error:
            first = error
        names = list(plan.readings)
        if not names:
            raise first
        try:
            bare = self._try(plan, dict.fromkeys(names, first.message))
        except REFUSALS as second:
            # Where both cannot be traced, the second speaks of the module alone.
            raise second if isinstance(first, InvalidKan) else first from second
        best, left = self._search(plan, dict.fromkeys(names, first.message), bare)
        try:
            return self._try(plan, left, self.edges_only)
        except REFUSALS:
            return best

    def _search(self, plan: Plan, left: dict[str, str], best: tuple[Plan, T]) -> tuple[tuple[Plan, T], dict[str, str]]:
        """The plan with layers put back, by halves, and those that stay out.

        left  all layers, and why they were left
        best  result of the plan without them
        """
        groups, attempts = _halves(list(left)), ATTEMPTS
        while groups and attempts:
            group, attempts = groups.pop(0), attempts - 1
            others = {name: why for name, why in left.items() if name not in group}
            try:
                best = self._try(plan, others)
                left = others
            except REFUSALS as error:
                groups = _halves(group) + groups
                left |= dict.fromkeys(group, error.message)
        return best, left

    def _try(
        self, plan: Plan, left: Mapping[str, str], leave: Callable[[Plan, list[str], str], Plan] | None = None
    ) -> tuple[Plan, T]:
        for why in dict.fromkeys(left.values()):
            plan = (leave or self.without)(plan, [name for name, reason in left.items() if reason == why], why)
        return plan, self.attempt(plan)


def _halves(group: list[str]) -> list[list[str]]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]] if middle else []
