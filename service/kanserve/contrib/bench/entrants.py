"""Systems compared by the benchmark: how each one runs on some threads, and the reference for its outputs."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from kanexport.shared.cli import suggest
from kanexport.shared.manifest import HYBRID, MODEL_FILE, LayerInfo, Manifest
from kanserve.analysis import drift
from kanserve.config.settings import Settings
from kanserve.models.loader import Loader
from kanserve.observability.metrics import Metrics
from kanserve.repository.layout import Bundle
from kanserve.runtime.base import Session, SessionOptions, create_session
from kanserve.sandbox import verify
from kanserve.scheduling.batching import Batch
from kanserve.types import DTYPES, Array

Feeds = Mapping[str, Array]
SOME = 1.0  # half of the assumed range around 0, for an input of unknown range


def repeated(feeds: Feeds, rows: int, start: int = 0) -> dict[str, Array]:
    """`rows` rows, from `start` on, repeated from the first row after the last."""
    return {name: array[(np.arange(rows) + start) % len(array)] for name, array in feeds.items()}


def drawn(manifest: Manifest, rows: int, seed: int = 0) -> dict[str, Array]:
    """Random rows by input, uniform per number. The range is the grid if the first layer reads the number directly,
    otherwise the range in the manifest's reference rows."""
    rng = np.random.default_rng(seed)
    known = verify.feeds(manifest) if manifest.reference.inputs else {}
    feeds = {}
    for tensor in verify.tensors(manifest.inputs):
        size = tensor.shape[1:]
        low, high = np.full(size, -SOME), np.full(size, SOME)
        if tensor.name in known:
            observed = known[tensor.name].astype(np.float64)
            finite = np.isfinite(observed)
            least = np.where(finite, observed, np.inf).min(axis=0)
            most = np.where(finite, observed, -np.inf).max(axis=0)
            low, high = np.where(least > most, low, least), np.where(least > most, high, most)
        if len(size) == 1:
            for layer in manifest.layers:
                if layer.node_tensor == tensor.name:
                    # Limit the range to the grids of the nodes that the layer reads directly.
                    for node in range(len(low)):
                        span = drift.core(layer, node)
                        if span is not None:
                            low[node], high[node] = span
        values = rng.uniform(low, high, (rows, *size))
        kind = DTYPES[tensor.datatype]
        feeds[tensor.name] = (values.round() if kind.kind in "iu" else values).astype(kind)
    return feeds


Execute = Callable[[Feeds], list[Array]]
OURS, MLP, TORCH = "kanserve", "mlp", "torch eager"


@dataclass(frozen=True, slots=True)
class Absent:
    """System that the benchmark excludes, and the reason."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Entrant:
    """System that takes part in the benchmark.

    threads    prepares the system for a number of threads; returns a function from inputs to outputs, and a description
    check      largest output error in runs of so many rows, relative to the largest magnitude of each output; or None
    against    the reference of that error
    tolerance  the largest error that counts as right
    """

    name: str
    about: str
    against: str
    tolerance: float
    threads: Callable[[int], tuple[Execute, str]]
    check: Callable[[Execute, int], float | None]
    edges: int = 0  # of a row


def kanserve_entrant(bundle: Bundle, manifest: Manifest, settings: Settings) -> Entrant:
    """The exported graph, in micro-batches and on threads as a server with these settings executes one request."""
    names = tuple(tensor.name for tensor in manifest.outputs)

    def threads(count: int) -> tuple[Execute, str]:
        _, session, plan = Loader(settings, count, Metrics()).unproved(bundle)
        pieces = f", in micro-batches of {plan.piece_rows} rows"
        pieces += f", from {plan.many_from} rows on with the large-batch graph" if plan.many_from else ""
        pieces += ", with kanserve-kernel" * plan.kernel
        helpers = plan.instances - 1
        pool = ThreadPoolExecutor(max(1, helpers))
        how = one_run(plan.threads)
        if helpers:
            how = f"{plan.instances} parallel executions on {plan.threads} thread{'s' * (plan.threads > 1)} each"
        return functools.partial(_run, session, names, plan.piece_rows, pool, helpers), how + pieces

    return Entrant(
        OURS,
        f"{manifest.name} version {manifest.version}",
        f"the float64 outputs of {len(manifest.reference.inputs)} reference rows of the export",
        manifest.reference.tolerance,
        threads,
        functools.partial(_reference_error, manifest),
        edges(manifest.layers),
    )


def one_run(threads: int) -> str:
    """Description of an execution in words."""
    return f"one execution on {threads} thread{'s' * (threads > 1)}"


def _run(
    session: Session, names: Sequence[str], piece: int, pool: ThreadPoolExecutor, helpers: int, feeds: Feeds
) -> list[Array]:
    """Outputs, from micro-batches on the current thread and on `helpers` threads of the pool."""
    batch = Batch(session.run, names, [feeds], len(next(iter(feeds.values()))), piece)
    others = [pool.submit(batch.work) for _ in range(min(helpers, batch.pieces - 1))]
    batch.work()
    wait(others)
    if batch.error is not None:
        raise batch.error
    return batch.result


def _reference_error(manifest: Manifest, execute: Execute, rows: int) -> float | None:
    """Largest error over all reference rows, in executions of `rows` rows each. The last execution starts again with
    the first rows."""
    if not manifest.reference.inputs:
        return None
    feeds, expected = verify.feeds(manifest), verify.reference_outputs(manifest)
    worst, count = 0.0, len(expected[0])
    for start in range(0, count, rows):
        outputs = execute(repeated(feeds, rows, start))
        at = (np.arange(rows) + start) % count
        errors = [error(output, right[at], right) for output, right in zip(outputs, expected, strict=True)]
        worst = max(worst, *errors)
    return worst


def error(actual: Array, expected: Array, scale: Array) -> float:
    """The largest difference, relative to the largest magnitude of `scale`; infinite if it is undefined."""
    if actual.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    largest = float(np.abs(scale.astype(np.float64)).max(initial=0.0))
    if difference == 0:
        return 0.0
    return difference / largest if np.isfinite(difference) and largest else float("inf")


def mlp(manifest: Manifest, device: str, feeds: Feeds) -> Entrant | Absent:
    """An MLP with as many parameters on the same runtime. `feeds`: rows for the comparison with float64."""
    if why := _no_mlp(manifest):
        return Absent(MLP, why)
    try:
        maker = suggest.load("bench", "kanserve.contrib.bench.mlp_graph", "export")
    except suggest.MissingPackage as missing:
        return Absent(MLP, f"{missing.message}; {missing.hint}")
    target = parameters(manifest.layers)
    widths = mlp_widths(manifest.widths[0], manifest.widths[-1], len(manifest.layers), target)
    network = maker.random(widths, manifest.input.datatype)
    graph = network.graph()
    (x,) = feeds.values()
    right = network.evaluate(x)

    def threads(count: int) -> tuple[Execute, str]:
        session = create_session({MODEL_FILE: graph}, None, MODEL_FILE, SessionOptions(device, count))

        def execute(inputs: Feeds) -> list[Array]:
            (rows,) = inputs.values()
            return session.run([maker.RESULT], {maker.GIVEN: rows})

        return execute, one_run(count)

    def check(execute: Execute, rows: int) -> float:
        at = np.arange(rows) % len(x)
        return error(execute(repeated(feeds, rows))[0], right[at], right)

    return Entrant(
        MLP,
        f"{list(widths)}, ReLU, random weights: {mlp_parameters(widths)} parameters, the model has {target}",
        "its float64 evaluation of the rows",
        manifest.reference.tolerance,
        threads,
        check,
    )


def _no_mlp(manifest: Manifest) -> str:
    """The reason why there is no MLP, or ""."""
    if manifest.source.family == HYBRID:
        return "the model is a PyTorch module export, and the number of its other parameters is unknown"
    if len(manifest.inputs) + len(manifest.outputs) != 2 or len(manifest.input.shape) + len(manifest.output.shape) != 4:
        return "the model does not map vectors to vectors"
    if {manifest.input.datatype, manifest.output.datatype} - set(verify.FLOATS):
        return f"the model has the datatype {manifest.input.datatype}"
    return ""


AFFINE = 2  # numbers with which one edge shifts and stretches a function
SYMBOLIC = 4  # a, b, c, d of a symbolic edge


def parameters(layers: Sequence[LayerInfo]) -> int:
    """Number of trained parameters: the coefficients of all edges that are not masked, four of each symbolic edge, and
    biases. Knots and the steps between layers are not counted."""
    total = 0
    for layer in layers:
        count = layer.sources * layer.destinations
        if layer.mask:
            count = sum(value != 0 for row in layer.mask for value in row)
        each = sum(basis.functions + AFFINE * basis.per_edge for basis in layer.bases)
        total += count * each + SYMBOLIC * sum(edge.mask != 0 for edge in layer.symbolic) + len(layer.bias)
    return total


def edges(layers: Sequence[LayerInfo]) -> int:
    """Edges that can contribute, evaluated for one row: at every position of it."""
    return sum(layer.active_edges * math.prod(layer.positions) for layer in layers)


def mlp_widths(inputs: int, result: int, layers: int, target: int) -> tuple[int, ...]:
    """Widths of the MLP with as many layers, and at least one hidden layer, whose number of parameters is nearest to
    `target`. All hidden layers have the same width."""
    hidden = max(1, layers - 1)

    def widths(width: int) -> tuple[int, ...]:
        return (inputs, *itertools.repeat(width, hidden), result)

    low, high = 1, 2
    while mlp_parameters(widths(high)) < target:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if mlp_parameters(widths(middle)) < target else (low, middle)
    return min(widths(low), widths(high), key=lambda candidate: abs(mlp_parameters(candidate) - target))


def mlp_parameters(widths: Sequence[int]) -> int:
    """Weights and biases."""
    return sum((sources + 1) * destinations for sources, destinations in itertools.pairwise(widths))
