"""NaN, infinities and extreme numbers in the rows of a module: its results in PyTorch and in the exported graph.

torch.onnx and onnxruntime do not propagate every NaN: an LSTM of onnxruntime gives ordinary numbers for NaN. There is
one note for each kind of difference. It names the operators of the graph that cause it, because an SRE whose service
receives such rows has to know them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from kanexport.errors import REPORT, ExportError, InvalidKan, VerificationFailed
from kanexport.graph.compose import exposed
from kanexport.graph.opened import opened
from kanexport.lowering.lower import Lowered
from kanexport.torch_export.borrowed_module import lent
from kanexport.torch_export.capture import ReferenceModule
from kanexport.torch_export.match import number_text
from kanexport.torch_export.replacement_plan import Plan
from kanexport.verify import graph_runner
from kanexport.verify.graph_runner import join
from kanexport.verify.prover import Prover
from kanexport.verify.tolerances import OVERFLOW, magnitude

Array = npt.NDArray[np.float64]
Tensors = Sequence[Array]  # the output first, then the vectors of each layer
Run = Callable[[Array], Tensors]
Blame = Callable[[Array, bool], str]  # from a row, and whether the graph loses its NaN or makes one, to a clause or ""

NUMBER = re.compile(r"-?\d\S*$")
CLOSE = 1e-3  # relative; the proof is stricter, this tells what is meant to be the same
# Operators that select a part of their inputs or inspect them: they lose NaN in torch too.
SELECTING = {
    *("And", "ArgMax", "ArgMin", "Compress", "Equal", "Gather", "GatherElements", "GatherND", "Greater"),
    *("GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonZero", "Not", "Or", "Shape"),
    *("Size", "Slice", "Split", "TopK", "Where", "Xor"),
}
NAMED = 3  # operators that one note names, at most


def compare(
    plan: Plan, lowered: Lowered, dtype: str, rows: Mapping[str, Array], extreme: Mapping[str, Array]
) -> tuple[list[str], list[str]]:
    """The rows [1, ...] with equal outputs of the graphs and of a lent module, by name, and sentences on all others.
    `extreme`: finite rows [B, ...] of extreme sizes, by name; VerificationFailed if the graph differs on them."""
    prover = Prover(plan, lowered, dtype, CLOSE)
    for name, x in extreme.items():
        _require_alike(prover, plan, name, x)

    def exact(row: Array) -> Tensors:
        trace = plan.evaluate(row)
        if dtype == "float64" or plan.oracle.dtype == torch.float32 or trace.peak[0] < OVERFLOW:
            return [trace.y, *trace.inputs]
        # float32 cannot represent the values that occur in float64.
        with lent(plan.oracle.module, torch.float32):
            return [ReferenceModule(plan.oracle.module, torch.float32).run(row)[0]]

    def graph(row: Array) -> Tensors:
        outputs = prover.run(row)
        return [_joined(plan, outputs), *(outputs[name] for name in lowered.node_tensors)]

    return differing(rows, exact, graph, lambda row, lost: _blamed(prover, row, lost))


def _joined(plan: Plan, outputs: Mapping[str, Array]) -> Array:
    return join([outputs[port.name] for port in plan.ports.outputs])


def _require_alike(prover: Prover, plan: Plan, name: str, x: Array) -> None:
    """Compare the graph with the module in the precision of the graph. Raises VerificationFailed if only the graph
    gives NaN or infinity, or if it differs by more than CLOSE and ten times the rounding of the module itself."""
    try:
        trace = plan.evaluate(x)
        own = None if prover.dtype == np.float64 else plan.oracle.in_float32(x)
    except InvalidKan:  # the module rejects such rows
        return
    graph = _joined(plan, prover.run(x))
    keep = trace.peak < OVERFLOW
    tensors = (trace.y, trace.y if own is None else own, graph)
    wide, expected, actual = (values.reshape(len(x), -1)[keep] for values in tensors)
    lost = np.argwhere(np.isfinite(expected) & ~np.isfinite(actual))
    if len(lost):
        row, column = lost[0]
        raise VerificationFailed(
            f"the exported graph returns {number_text(actual[row, column])} for a finite row ({name}), PyTorch returns "
            f"{number_text(expected[row, column])}{_blamed(prover, x[keep][row : row + 1], False)}",
            code="graph-not-finite",
            hint=REPORT,
        )
    rounding, error = (np.nan_to_num(np.abs(values - expected)).max(initial=0) for values in (wide, actual))
    if error > CLOSE * magnitude(expected) + 10 * rounding:
        raise VerificationFailed(
            f"the exported graph differs from PyTorch by {error:.2e} on rows of extreme sizes ({name})",
            code="graph-differs-on-extreme-rows",
            hint=REPORT,
        )


def _blamed(prover: Prover, row: Array, lost: bool) -> str:
    """A clause that names operators of the graph, or "" if none is found. If NaN is `lost`, it names those that turn
    NaN into numbers. Otherwise it names the first one that makes NaN from numbers."""
    lowered, ports = prover.lowered, prover.subject.ports
    try:
        model = exposed(lowered.model)
        session = graph_runner.session(model, lowered.weights, optimization=lowered.optimization)
        values = graph_runner.run(session, ports.feeds(row, prover.dtype)) | ports.float64_inputs(row)
    except ExportError:  # a runtime does not return some values, such as a sequence
        return ""
    nan = {name for name, value in values.items() if np.isnan(value).any()}
    operators: dict[str, None] = {}
    for node in opened(lowered.model, lowered.weights).operators:
        with_nan, without = (node.inputs, node.outputs) if lost else (node.outputs, node.inputs)
        if node.kind not in SELECTING and not nan.isdisjoint(with_nan) and nan.isdisjoint(without):
            operators[node.kind] = None
    if not operators:
        return ""
    names = " and ".join(list(operators)[: NAMED if lost else 1])
    return f": {names} of the graph {'returns numbers for NaN' if lost else 'returns NaN for numbers'}"


def differing(rows: Mapping[str, Array], exact: Run, graph: Run, blame: Blame) -> tuple[list[str], list[str]]:
    """The names of rows with equal results of the graph and the module, and sentences on all others. `exact`: the
    module; it may return fewer tensors than the graph. The function calls `blame` once for each kind of difference
    with NaN in it."""
    alike: list[str] = []
    by_kinds: dict[tuple[str, str], tuple[list[str], str]] = {}  # names of rows, and words on the graph for the first
    for name, row in rows.items():
        pair = _refused_or_different(row, exact, graph)
        if pair is None:
            alike.append(name)
            continue
        # Ordinary numbers differ from row to row.
        kinds = NUMBER.sub("a number", pair[0]), NUMBER.sub("a number", pair[1])
        if kinds not in by_kinds:
            nan = [text.endswith("NaN") for text in pair]
            by_kinds[kinds] = [], pair[1] + (blame(row, nan[0]) if any(nan) else "")
        by_kinds[kinds][0].append(name)
    return alike, [
        f"differs from PyTorch: if a row has {', '.join(names)}, PyTorch {module} and the exported graph {graph}"
        for (module, _), (names, graph) in by_kinds.items()
    ]


def _refused_or_different(row: Array, exact: Run, graph: Run) -> tuple[str, str] | None:
    """The results of the module and of the graph for a row if they differ, as text; None if they are equal."""
    try:
        expected = exact(row)
    except InvalidKan:
        return "rejects it", "returns a result"
    for at, tensors in enumerate(zip(expected, graph(row), strict=False)):
        module, output = (tensor.reshape(-1) for tensor in tensors)
        # NaN must match NaN, and an infinity the same infinity.
        limit = CLOSE * (magnitude(module) or 1.0)
        wrong = np.flatnonzero(~np.isclose(output, module, rtol=0, atol=limit, equal_nan=True))
        if len(wrong):
            what = "returns" if not at else f"feeds layer {at - 1} with"
            return f"{what} {number_text(module[wrong[0]])}", f"{what} {number_text(output[wrong[0]])}"
    return None
