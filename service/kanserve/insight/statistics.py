"""Statistics of a model's nodes over some rows, compared with the baseline of its export, if there is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import grids as own
from kanexport.shared.manifest import LayerInfo, Manifest, TensorSpec
from kanexport.shared.sections import NodeBaseline
from kanserve.analysis import drift
from kanserve.analysis.drift import Drift, Origin, Span
from kanserve.analysis.histogram import Cells, Counts, Window, split
from kanserve.errors import FailedPrecondition
from kanserve.runtime.base import Session
from kanserve.sandbox import verify
from kanserve.scheduling import batching
from kanserve.types import DTYPES, Array, TensorInfo


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Statistics of the nodes of a part."""

    part: Part  # layer or output
    window: Window  # counts of the values
    drift: Drift | None  # distance from the baseline; None without one

    @property
    def layer(self) -> int:
        """Index of the layer; OUTPUT for the outputs of the model."""
        return self.part.layer

    @property
    def zones(self) -> Counts:
        """Values per zone [n, 3], as in `drift.zones`."""
        return drift.zones(self.window, self.part.cores)


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """Counts over some rows."""

    rows: int  # number of rows
    windows: tuple[Window, ...]  # counts of each part
    classes: Counts  # how often each class was the largest output [C]; empty if the output has no classes

    def plus(self, other: NodeCounts) -> NodeCounts:
        """The sum of two counts."""
        both = (window.plus(another) for window, another in zip(self.windows, other.windows, strict=True))
        return NodeCounts(self.rows + other.rows, tuple(both), self.classes + other.classes)


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """Statistics over some rows: those of a request, or of a version's traffic."""

    nodes: tuple[NodeStatistics, ...]  # statistics of each layer and output
    tally: NodeCounts  # counts that the statistics come from
    rows_seen: int = 0  # rows of all requests in that time, about; 0 for the rows of a request, as the other fields
    seconds: float = 0.0  # time in which the server responded to these
    since: float = 0.0  # begin of the counts, in seconds since the epoch
    processes: int = 0  # number of workers that counted


class Nodes:
    """Counter of the values of a model's nodes. Raises the errors of `parts`."""

    def __init__(self, manifest: Manifest, run: Run) -> None:
        self.parts = parts(manifest, run)
        self._names = [part.tensor for part in self.parts]
        self._wanted = list(dict.fromkeys(self._names))
        self._classes, self._before = classes(manifest), manifest.baseline.rows
        self._compared = sum(len(part.baseline.counts) for part in self.parts if part.baseline is not None)
        self.names = manifest.names.classes[: self._classes]  # of classes

    def empty(self) -> NodeCounts:
        """The counts of no rows."""
        return NodeCounts(0, tuple(Window(part.fine) for part in self.parts), np.zeros(self._classes, np.int64))

    def count(self, run: Run, rows: Mapping[str, Array]) -> NodeCounts:
        """The counts for rows [B, ...] by input. Raises the errors of `run`."""
        missing = [name for name in self._wanted if name not in rows]
        values = dict(rows) | dict(zip(missing, run(missing, rows), strict=True))
        tally = self.empty()
        for window, name in zip(tally.windows, self._names, strict=True):
            window.add(_flat(values[name]))
        if self._classes:
            tally = NodeCounts(0, tally.windows, largest(_flat(values[self._names[-1]])))
        return NodeCounts(len(next(iter(rows.values()))), tally.windows, tally.classes)

    def compared(self, tally: NodeCounts) -> tuple[NodeStatistics, ...]:
        """The statistics of some counts, compared with the baseline if there is one."""
        pairs = zip(self.parts, tally.windows, strict=True)
        statistics = []
        for part, window in pairs:
            folded, distance = window.folded(part.cells, part.times), None
            if part.baseline is not None:
                distance = drift.compare(part.baseline, self._before, folded, tally.rows, self._compared)
            statistics.append(NodeStatistics(part, folded, distance))
        return tuple(statistics)


def _flat(values: Array) -> NDArray[np.float64]:
    """[B, ..., n] -> [N, n]."""
    return values.reshape(-1, values.shape[-1]).astype(np.float64)


def largest(outputs: NDArray[np.float64]) -> Counts:
    """The number of rows [C] in which each output is the largest, for outputs [N, C]. The first of equal outputs
    counts; a row with NaN does not count."""
    finite = outputs[~np.isnan(outputs).any(axis=1)]
    return np.bincount(finite.argmax(axis=1), minlength=outputs.shape[1])


class Recent:
    """Counts of the latest rows, in two windows: one that is full, with `size` rows, and one that fills. A caller adds
    at most `room` rows at a time, or the full window has more."""

    def __init__(self, nodes: Nodes, size: int) -> None:
        self._nodes, self._size = nodes, size
        self._full, self._filling = nodes.empty(), nodes.empty()

    @property
    def room(self) -> int:
        """The number of rows until the window is full, at least 1."""
        return self._size - self._filling.rows

    def add(self, tally: NodeCounts) -> None:
        """Add the counts of some more rows."""
        self._filling = self._filling.plus(tally)
        if self._filling.rows >= self._size:
            self._full, self._filling = self._filling, self._nodes.empty()

    def both(self) -> NodeCounts:
        """The counts of both windows."""
        return self._full.plus(self._filling)


def compute(
    session: Session, manifest: Manifest, rows: Mapping[str, Array], *, step: int
) -> Iterator[RowStatistics | None]:
    """The statistics of all layers and outputs over `rows` [B, ...] by input. Yields None after each step of `step`
    rows, and the result at the end."""
    nodes, count = Nodes(manifest, session.run), len(next(iter(rows.values())))
    tally = nodes.empty()
    for start in range(0, count, max(1, step)):
        tally = tally.plus(nodes.count(session.run, batching.select_rows(rows, start, start + max(1, step))))
        yield None
    yield RowStatistics(nodes.compared(tally), tally)


OUTPUT = -1  # as a layer: the outputs of the model
MOST = 2**18  # histogram bins of a version, of 24 bytes each
SPLIT, FEW = 3, 40  # number of bins per grid interval, and the most bounds of a node for which intervals are divided
FINE = 16  # parts of a range, by which its ends are rounded outwards: runs on other threads differ in their last digits

Run = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Nodes of one layer, or one output."""

    layer: int  # index of the layer; OUTPUT for an output
    tensor: str  # name of the tensor [B, ..., n]
    bounds: tuple[tuple[float, ...], ...]  # bounds of the intervals: one row per node, or one for all nodes
    cells: Cells  # intervals between the bounds
    fine: Cells  # parts of these intervals, in which the values are counted
    times: int  # parts of each interval
    origins: tuple[Origin, ...]  # origin of the bounds of each node
    cores: tuple[Span | None, ...]  # ends of the grid of each node; None without a grid
    baseline: NodeBaseline | None = None  # baseline of the export, if there is one


def parts(manifest: Manifest, run: Run) -> list[Part]:
    """The parts of all layers and outputs. Raises FailedPrecondition for too many bins, and the errors of `run`."""
    layers: list[tuple[int, str, LayerInfo | None]] = [
        (at, layer.node_tensor, layer) for at, layer in enumerate(manifest.layers)
    ]
    before = (*manifest.baseline.layers, *manifest.baseline.outputs)
    if before:
        named = [*layers, *((OUTPUT, tensor.name, None) for tensor in manifest.outputs)]
        return [_part(*entry, part.cells, part) for entry, part in zip(named, before, strict=True)]
    floats = [tensor for tensor in manifest.outputs if tensor.datatype in verify.FLOATS]
    layers += [(OUTPUT, tensor.name, None) for tensor in floats]
    # The bounds are from the values on the reference rows of the export, or on zeros if there are none.
    rows = {tensor.name: np.zeros((1, *tensor.shape[1:]), DTYPES[tensor.datatype]) for tensor in manifest.inputs}
    if manifest.reference.inputs:
        rows = verify.feeds(manifest)
    tensors = list(dict.fromkeys(tensor for _, tensor, _ in layers if tensor not in rows))
    values = dict(rows) | dict(zip(tensors, run(tensors, rows), strict=True))
    result = [_part(*entry, tuple(_bounds(entry[2], values[entry[1]])), None) for entry in layers]
    if (size := sum(math.prod(part.fine.shape) for part in result)) > MOST:
        raise FailedPrecondition(
            f"its nodes have {size} histogram bins, expected at most {MOST}",
            code="statistics-too-large",
            hint="serve the model without statistics, or export it with fewer nodes",
        )
    return result


def _part(
    at: int, tensor: str, layer: LayerInfo | None, bounds: tuple[tuple[float, ...], ...], before: NodeBaseline | None
) -> Part:
    nodes = len(bounds) if before is None else len(before.counts)
    knots = {} if layer is None else own.knots_by_node(layer)
    cores = tuple(drift.span(knots.get(node)) for node in range(nodes))
    otherwise = Origin.DRAWN if before is None else Origin.REFERENCE
    origins = tuple(otherwise if core is None else Origin.GRID for core in cores)
    if before is None and len(set(bounds)) == 1:
        bounds = bounds[:1]
    times = SPLIT if max(map(len, bounds)) <= FEW else 1
    fine = Cells.from_bounds([split(row, times) for row in bounds], nodes)
    return Part(at, tensor, bounds, Cells.from_bounds(bounds, nodes), fine, times, origins, cores, before)


def _bounds(layer: LayerInfo | None, values: Array) -> Iterator[tuple[float, ...]]:
    """The bounds of each node, from its values [B, ..., n]."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    knots = {} if layer is None else own.knots_by_node(layer)
    for node in range(flat.shape[1]):
        entry = knots.get(node)
        grid = () if entry is None or drift.span(entry) is None else own.distinct(entry[1])
        finite = flat[:, node][np.isfinite(flat[:, node])]
        if grid or not len(finite):
            yield grid or own.equal(-1.0, 1.0)
            continue
        # A range twice as wide as that of the finite values, because later values may be outside of it.
        low, high = float(finite.min()), float(finite.max())
        low, high = 1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low
        step = 2.0 ** math.floor(math.log2(max(high - low, abs(high) / 2**10, 2**-100))) / FINE
        yield own.equal(math.floor(low / step) * step, math.ceil(high / step) * step)


def classes(manifest: Manifest) -> int:
    """The number of classes of the output; 0 for several outputs, or for a single number."""
    return manifest.output.shape[-1] if has_classes(manifest.outputs) else 0


def has_classes(outputs: Sequence[TensorSpec | TensorInfo]) -> bool:
    """True if the largest number of the output is a class: one output, a vector of several floating-point numbers."""
    shape = outputs[0].shape
    return len(outputs) == 1 and outputs[0].datatype in verify.FLOATS and len(shape) > 1 and shape[-1] > 1
