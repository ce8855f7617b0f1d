"""The page for modules: recognise, trace, splice, prove against the module, pack."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport import describe, evaluate, lower, rows, verify
from kanexport.errors import InvalidKan, OptionError
from kanexport.evaluate import Jitter, Trace
from kanexport.hybrid import capture, recognise, splice, trace
from kanexport.hybrid.capture import Call, Oracle
from kanexport.hybrid.recognise import Whole, shown
from kanexport.hybrid.trace import Hole
from kanexport.ir import Kan, Layer
from kanexport.lower import Lowered
from kanexport.manifest import LayerInfo, Source, SourceFile
from kanexport.publish import Model, Result, Target, publish

Array = npt.NDArray[np.float64]

FAMILY = "hybrid"
PROOF_ROWS, FEW = 32, 8
INDEPENDENT = 1e-6  # relative: what the other rows of a batch may change in a row, in float64


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a recognised submodule. `axes`: as `capture.lead` says; None where
    its vectors have no place among the rows, so its edges cannot be asked for."""

    name: str
    kan: Kan
    hole: Hole
    axes: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The module, the networks found in it by name, and their calls in order."""

    module: Whole
    oracle: Oracle
    kans: dict[str, Kan]
    families: dict[str, str]
    uses: tuple[Use, ...]
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for use in self.uses if use.axes is not None for layer in use.kan.layers)

    def evaluate(self, x: Array, jitter: Jitter | None = None) -> Trace:
        """The module itself, and its layers' vectors [B, *positions, n]."""
        y, calls = self.oracle.run(x, self.kans, jitter)
        inputs = [
            capture.by_row(vectors, use.axes)
            for use, call in zip(self.uses, calls, strict=True)
            if use.axes is not None
            for vectors in evaluate.evaluate(use.kan, call.x.reshape(-1, use.kan.n_inputs)).inputs
        ]
        return Trace(y, tuple(inputs), np.max([_peak(values) for values in (x, y, *inputs)], axis=0))


def convert(
    module: nn.Module,
    example: Any,
    target: Target,
    *,
    options: dict[str, str],
    files: tuple[SourceFile, ...] = (),
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Export a module. `example`: one tensor or array of rows [B, ...], the more like real
    data the better: the proof is made with them. Raises ExportError; then nothing changed."""
    target.check()
    x = _rows(example)
    plan = make_plan(module, x, options)
    lowered = _lower(plan, x, target.dtype)
    proof = verify.prove(
        plan,
        lowered,
        target.dtype,
        zones=_zones(x),
        layers=_own_rows(plan),
        tolerance=target.tolerance,
        advance=advance,
        empty=False,  # many modules cannot take a batch of no rows, and so neither can their graphs
    )
    made = Model(
        lowered=lowered,
        proof=proof,
        layers=_describe(plan, lowered),
        edge_class="B" if any(layer.mixes for layer in plan.layers) else "A",
        opset=trace.OPSET,
        input_shape=x.shape[1:],
        output_shape=plan.oracle.run(x[:1])[0].shape[1:],
        source=Source(
            family=FAMILY,
            family_reason=_reason(plan),
            dtype=_dtype(module),
            files=files,
            options_given=options,
            options_assumed={},
        ),
        notes=plan.notes,
    )
    return publish(target, made)


def make_plan(module: nn.Module, x: Array, options: dict[str, str]) -> Plan:
    """Find the KAN layers of a module and check each against what the module computes.
    Raises InvalidKan where a row's output depends on the other rows."""
    whole = Whole(module)
    try:
        oracle = Oracle.of(whole, x[:FEW])
    except Exception as error:
        raise InvalidKan(
            f"the module does not run on rows of shape {list(x.shape[1:])}: {capture.first_line(error)}",
            hint="give rows as the module takes them: --example rows.npy, or --input-shape without the batch axis",
        ) from error
    _require_independent(oracle, x)
    kans, families, notes = _settle(whole, oracle, x, options)
    _, two = oracle.run(_repeat(x, 2), kans)
    _, three = oracle.run(_repeat(x, 3), kans)
    _, one = oracle.run(_repeat(x, 2)[1:], kans)
    if not [call.name for call in one] == [call.name for call in two] == [call.name for call in three]:
        raise InvalidKan("the module runs other layers for other batch sizes; it cannot become a graph")
    index = {name: at for at, name in enumerate(kans)}
    uses = []
    for single, first, second in zip(one, two, three, strict=True):
        kan = kans[first.name]
        hole = Hole(index[first.name], kan.n_inputs, kan.n_outputs, capture.form(first, kan))
        axes = capture.lead(first, second, kan)
        if axes is None or not _same_row(single, first, axes, kan.n_inputs):
            axes = None
            notes.append(f"{shown(first.name)}: its vectors do not belong to single rows, so its edges are not queried")
        uses.append(Use(first.name, kan, hole, axes))
    if oracle.dtype != torch.float64:
        notes.append("the module does not run in float64, so it was compared in float32")
    return Plan(whole, oracle, kans, families, tuple(uses), tuple(notes))


def _settle(
    whole: Whole, oracle: Oracle, x: Array, options: dict[str, str]
) -> tuple[dict[str, Kan], dict[str, str], list[str]]:
    """Networks and families by name. What is not called as a whole, or computes something
    else than its tensors tell, is opened and its parts are tried instead."""
    refused: dict[str, str] = {}
    while True:
        found = list(recognise.candidates(whole, options, refused))
        kans = {name: kan for name, _, kan in found}
        _, calls = oracle.run(x[:FEW], kans)
        wrong = {name: "" for name in kans} | {call.name: capture.agree(call, kans[call.name]) for call in calls}
        called = {call.name for call in calls}
        new = {name: why for name, why in wrong.items() if why or name not in called}
        if not new:
            break
        refused |= new
    families = {name: family for name, family, _ in found}
    notes = [f"{shown(name)} looks like a KAN, but {why}; left as it is" for name, why in refused.items() if why]
    return kans, families, notes


def _require_independent(oracle: Oracle, x: Array) -> None:
    """Edge class C is refused: nothing could be said about such a model row by row."""
    part = _repeat(x, 3)
    together, _ = oracle.run(part)
    if len(together) != len(part):
        raise InvalidKan(f"the module gives {len(together)} rows for {len(part)}; the first axis must be the batch")
    alone = np.concatenate([oracle.run(part[at : at + 1])[0] for at in range(len(part))])
    scale = np.abs(together[np.isfinite(together)]).max(initial=0) or 1.0
    limit = INDEPENDENT if oracle.dtype == torch.float64 else 1e-4
    if not np.allclose(alone, together, rtol=0, atol=limit * scale, equal_nan=True):
        raise InvalidKan(
            "the output of a row depends on the other rows of its batch (edge class C), so it cannot be served",
            hint="freeze batch statistics: BatchNorm with track_running_stats, fixed ranges instead of batch min/max",
        )


def _same_row(single: Call, two: Call, axes: tuple[int, ...], n: int) -> bool:
    """Whether the vectors of the second of two rows are those of that row alone."""
    alone, both = (capture.by_row(call.x.reshape(-1, n), axes) for call in (single, two))
    return bool(np.allclose(alone[0], both[1], rtol=1e-5, atol=1e-6, equal_nan=True))


def _lower(plan: Plan, x: Array, dtype: str) -> Lowered:
    holes = {use.name: use.hole for use in plan.uses}
    typed = plan.oracle.module if dtype == "float64" else capture.single(plan.module)
    traced = trace.trace(typed, x.astype(dtype), holes)
    names: list[str] = []
    edges: list[bytes] = []
    bodies = []
    for use in plan.uses:
        nodes = []
        inner = [lower.INPUT, *(f"layer{at}_in" for at in range(1, len(use.kan.layers)))]
        for layer, width, tensor in zip(use.kan.layers, use.kan.widths(), inner, strict=False):
            if use.axes is not None:
                names.append(f"layer{len(names)}_in")
                nodes.append((tensor, names[-1]))
                edges.append(lower.edge_graph(layer, names[-1], width, dtype))
        bodies.append(splice.Body(use.hole, lower.serving_graph(use.kan, tuple(inner), dtype), tuple(nodes), use.axes))
    return Lowered(splice.splice(traced, bodies), tuple(edges), tuple(names))


def _zones(x: Array) -> dict[str, Array]:
    """Rows of the model by zone: as given, and beside what was given."""
    rng = np.random.default_rng(0)
    inside = x[:PROOF_ROWS]
    if len(inside) < FEW:  # a few example rows prove little
        more = inside[rng.integers(len(inside), size=PROOF_ROWS - len(inside))]
        inside = np.concatenate([inside, more * rng.uniform(0.5, 1.5, size=more.shape)])
    spread = float(inside.std()) or 1.0
    zones = {
        "inside": inside,
        "scaled": np.concatenate([inside[:FEW] * 3, inside[:FEW] * 0.1]),
        "noise": inside[:FEW] + rng.normal(0, spread, size=inside[:FEW].shape),
        "zeros": np.zeros((1, *x.shape[1:])),
    }
    return {name: made.astype(np.float32).astype(np.float64) for name, made in zones.items()}


def _own_rows(plan: Plan) -> list[dict[str, Array]]:
    """Rows by zone for each layer that can be queried, so that it meets each of its knots."""
    layers = [
        pair
        for use in plan.uses
        if use.axes is not None
        for pair in zip(use.kan.layers, use.kan.widths(), strict=False)
    ]
    return [rows.zone_rows(layer, width, seed=at) for at, (layer, width) in enumerate(layers)]


def _describe(plan: Plan, lowered: Lowered) -> tuple[LayerInfo, ...]:
    """As in a plain model, with names and positions."""
    names = _names(plan.uses)
    axes = [use.axes for use in plan.uses if use.axes is not None for _ in use.kan.layers]
    return tuple(
        dataclasses.replace(
            describe.layer(layer, at, tensor),
            name=name,
            positions=tuple(n for n in places if n != -1),
        )
        for at, (layer, tensor, name, places) in enumerate(
            zip(plan.layers, lowered.node_tensors, names, axes, strict=True)
        )
    )


def _names(uses: Sequence[Use]) -> Iterator[str]:
    """One name per layer: the submodule's; numbered where it holds or runs several."""
    total = Counter(use.name for use in uses)
    seen: Counter[str] = Counter()
    for use in uses:
        seen[use.name] += 1
        if use.axes is None:
            continue
        call = f"#{seen[use.name]}" if total[use.name] > 1 else ""
        for at in range(len(use.kan.layers)):
            yield shown(use.name) + (f".{at}" if len(use.kan.layers) > 1 else "") + call


def _reason(plan: Plan) -> str:
    by_family: dict[str, list[str]] = {}
    for name, family in plan.families.items():
        by_family.setdefault(family, []).append(shown(name))
    return "; ".join(f"{family}: {', '.join(names)}" for family, names in by_family.items()) or "no KAN layer"


def _rows(example: Any) -> Array:
    """[B, ...] in float64, with values that float32 holds."""
    if isinstance(example, tuple | list) and len(example) == 1:
        example = example[0]
    if isinstance(example, torch.Tensor):
        example = example.detach().cpu().numpy()
    if not isinstance(example, np.ndarray) or example.dtype.kind != "f" or example.ndim < 2 or not len(example):
        what = f"{example.dtype} {example.shape}" if isinstance(example, np.ndarray) else type(example).__name__
        raise OptionError(
            f"the example is {what}, expected one floating-point tensor [rows, ...]",
            hint="a served model has one input; wrap a module that takes more, or integers, in one that does not",
        )
    if not np.isfinite(example).all():
        raise OptionError("the example rows hold values that are not finite")
    return example.astype(np.float32).astype(np.float64)


def _repeat(x: Array, count: int) -> Array:
    """So many rows, different ones where there are any."""
    return np.resize(x, (count, *x.shape[1:]))


def _dtype(module: nn.Module) -> str:
    kinds = {parameter.dtype for parameter in module.parameters()}
    return "float64" if torch.float64 in kinds else "float32"


def _peak(values: Array) -> Array:
    magnitude = np.where(np.isfinite(values), np.abs(values), 0)
    highest: Array = magnitude.reshape(len(values), -1).max(axis=1, initial=0)
    return highest
