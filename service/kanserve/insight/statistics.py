"""What a model's numbers are over rows, beside what they were on the rows that its export was given, if it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.contract import grids as own
from kanexport.contract.manifest import LayerInfo, Manifest
from kanexport.contract.sections import NodeBaseline
from kanserve.analysis import drift
from kanserve.analysis import drift as drift_analysis
from kanserve.analysis.drift import Drift, Origin, Span
from kanserve.analysis.histogram import Cells, Counts, Window, split
from kanserve.errors import FailedPrecondition
from kanserve.runtime.base import Session
from kanserve.sandbox import verify
from kanserve.scheduling import batching
from kanserve.types import DTYPES, Array


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Of the nodes of a part: what they were, and how far that is from the baseline, where there is one."""

    part: Part
    window: Window
    drift: Drift | None

    @property
    def layer(self) -> int:
        """OUTPUT: the answers."""
        return self.part.layer

    @property
    def zones(self) -> Counts:
        """[n, 3]: as of `drift.zones`."""
        return drift_analysis.zones(self.window, self.part.cores)


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """What was counted over so many `rows`: a window for each part, and `classes` [C], how often which number of an
    answer was the largest; empty where that says nothing."""

    rows: int
    windows: tuple[Window, ...]
    classes: Counts

    def plus(self, other: NodeCounts) -> NodeCounts:
        """What both were."""
        both = (one.plus(another) for one, another in zip(self.windows, other.windows, strict=True))
        return NodeCounts(self.rows + other.rows, tuple(both), self.classes + other.classes)


class Nodes:
    """Whose numbers are counted. Raises what `parts` does."""

    def __init__(self, manifest: Manifest, run: Run) -> None:
        self.parts = parts(manifest, run)
        self._names = [part.tensor for part in self.parts]
        self._wanted = list(dict.fromkeys(self._names))
        self._classes, self._before = classes(manifest), manifest.baseline.rows
        self.names = manifest.names.classes[: self._classes]  # of classes

    def empty(self) -> NodeCounts:
        """Of no rows."""
        return NodeCounts(0, tuple(Window(part.fine) for part in self.parts), np.zeros(self._classes, np.int64))

    def count(self, run: Run, rows: Mapping[str, Array]) -> NodeCounts:
        """What the nodes are for rows [B, ...] by input. Raises what `run` does."""
        wanted = [name for name in self._wanted if name not in rows]
        values = dict(rows) | dict(zip(wanted, run(wanted, rows), strict=True))
        tally = self.empty()
        for window, name in zip(tally.windows, self._names, strict=True):
            window.add(_flat(values[name]))
        if self._classes:
            tally = NodeCounts(0, tally.windows, largest(_flat(values[self._names[-1]])))
        return NodeCounts(len(next(iter(rows.values()))), tally.windows, tally.classes)

    def compared(self, tally: NodeCounts) -> tuple[NodeStatistics, ...]:
        """Beside the baseline, where there is one."""
        pairs = zip(self.parts, tally.windows, strict=True)
        folded = [window.folded(part.cells, part.times) for part, window in pairs]
        return tuple(
            NodeStatistics(part, window, self._drift(part, window, tally.rows))
            for part, window in zip(self.parts, folded, strict=True)
        )

    def _drift(self, part: Part, window: Window, rows: int) -> Drift | None:
        return None if part.baseline is None else drift_analysis.compare(part.baseline, self._before, window, rows)


def _flat(values: Array) -> NDArray[np.float64]:
    """[B, ..., n] -> [N, n]."""
    return values.reshape(-1, values.shape[-1]).astype(np.float64)


def largest(answers: NDArray[np.float64]) -> Counts:
    """[N, C] -> [C]: in how many answers each number is the largest, the first of several; NaN in one: in none."""
    own = answers[~np.isnan(answers).any(axis=1)]
    return np.bincount(own.argmax(axis=1), minlength=answers.shape[1])


class Recent:
    """The latest rows: two tallies, one that is full, with `size` rows or a few more, and one that fills."""

    def __init__(self, nodes: Nodes, size: int) -> None:
        self._nodes, self._size = nodes, size
        self._full, self._filling = nodes.empty(), nodes.empty()

    def add(self, tally: NodeCounts) -> None:
        """Of some more rows."""
        self._filling = self._filling.plus(tally)
        if self._filling.rows >= self._size:
            self._full, self._filling = self._filling, self._nodes.empty()

    def both(self) -> NodeCounts:
        """All of them."""
        return self._full.plus(self._filling)


def compute(
    session: Session, manifest: Manifest, rows: Mapping[str, Array], *, step: int
) -> Iterator[tuple[Sequence[NodeStatistics], Counts] | None]:
    """Of the nodes that each layer is given, and of the outputs, over `rows` [B, ...] by input, and which number of an
    answer was the largest how often: None after each step of so many rows, and at last the answer."""
    nodes, count = Nodes(manifest, session.run), len(next(iter(rows.values())))
    tally = nodes.empty()
    for start in range(0, count, max(1, step)):
        tally = tally.plus(nodes.count(session.run, batching.select_rows(rows, start, start + max(1, step))))
        yield None
    yield nodes.compared(tally), tally.classes


OUTPUT = -1  # as a layer: the answers
MOST = 2**18  # cells of a version, of 24 bytes each
SPLIT, FEW = 3, 40  # what a cell is counted in, where a node has so many bounds at most
FINE = 16  # parts of a range, by which its ends are rounded outwards: runs on other threads differ in their last digits

Run = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The nodes that `layer` is given, or an output (OUTPUT), in `tensor` [B, ..., n]: their `bounds`, a row each or
    one for all, and `cells` of these; `fine`: each split in so many `times`, in which they are counted; where each
    node's come from, and the ends of its grid, if it has one."""

    layer: int
    tensor: str
    bounds: tuple[tuple[float, ...], ...]
    cells: Cells
    fine: Cells
    times: int
    origins: tuple[Origin, ...]
    cores: tuple[Span | None, ...]
    baseline: NodeBaseline | None = None


def parts(manifest: Manifest, run: Run) -> list[Part]:
    """Of all layers and outputs. Raises FailedPrecondition where there are too many, and what `run` does."""
    layers: list[tuple[int, str, LayerInfo | None]] = [
        (at, layer.node_tensor, layer) for at, layer in enumerate(manifest.layers)
    ]
    before = (*manifest.baseline.layers, *manifest.baseline.outputs)
    if before:
        named = [*layers, *((OUTPUT, one.name, None) for one in manifest.outputs)]
        return [_part(*one, part.cells, part) for one, part in zip(named, before, strict=True)]
    floats = [one for one in manifest.outputs if one.datatype in verify.FLOATS]
    return _of_drawn(manifest, run, [*layers, *((OUTPUT, one.name, None) for one in floats)])


def _of_drawn(manifest: Manifest, run: Run, named: Sequence[tuple[int, str, LayerInfo | None]]) -> list[Part]:
    rows = _drawn(manifest)
    tensors = list(dict.fromkeys(tensor for _, tensor, _ in named if tensor not in rows))
    values = dict(rows) | dict(zip(tensors, run(tensors, rows), strict=True))
    found = [_part(*one, tuple(_bounds(one[2], values[one[1]])), None) for one in named]
    if (size := sum(math.prod(part.fine.shape) for part in found)) > MOST:
        raise FailedPrecondition(f"its nodes have {size} cells, and statistics are kept of {MOST} at most")
    return found


def _part(
    at: int, tensor: str, layer: LayerInfo | None, bounds: tuple[tuple[float, ...], ...], before: NodeBaseline | None
) -> Part:
    nodes = len(bounds) if before is None else len(before.counts)
    cores = tuple(None if layer is None else drift.core(layer, node) for node in range(nodes))
    otherwise = Origin.DRAWN if before is None else Origin.REFERENCE
    origins = tuple(otherwise if core is None else Origin.GRID for core in cores)
    if before is None and len(set(bounds)) == 1:
        bounds = bounds[:1]
    fine, times = _fine(bounds, nodes)
    return Part(at, tensor, bounds, Cells.from_bounds(bounds, nodes), fine, times, origins, cores, before)


def _fine(bounds: tuple[tuple[float, ...], ...], nodes: int) -> tuple[Cells, int]:
    """What values are counted in, and how many of these make a cell."""
    times = SPLIT if max(map(len, bounds)) <= FEW else 1
    return Cells.from_bounds([split(row, times) for row in bounds], nodes), times


def _drawn(manifest: Manifest) -> dict[str, Array]:
    """The rows that the export was proved with, or zeros where there are none."""
    if manifest.reference.inputs:
        return verify.feeds(manifest)
    return {one.name: np.zeros((1, *one.shape[1:]), DTYPES[one.datatype]) for one in manifest.inputs}


def _bounds(layer: LayerInfo | None, values: Array) -> Iterator[tuple[float, ...]]:
    """Of each node, which were `values` [B, ..., n]."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    for node in range(flat.shape[1]):
        grid = () if layer is None or drift.core(layer, node) is None else own.grid(layer, node)
        yield grid or own.equal(*_range(flat[:, node]))


def _range(values: Array) -> tuple[float, float]:
    """Of the finite ones, twice as wide: data may well go further."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return -1.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    low, high = 1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low
    step = 2.0 ** math.floor(math.log2(max(high - low, abs(high) / 2**10, 2**-100))) / FINE
    return math.floor(low / step) * step, math.ceil(high / step) * step


def classes(manifest: Manifest) -> int:
    """How many numbers an answer has of which one is the largest; 0 where that says nothing: several outputs, or one
    number."""
    width = manifest.output.shape[-1] if len(manifest.output.shape) > 1 else 0
    alone = len(manifest.outputs) == 1 and manifest.output.datatype in verify.FLOATS
    return width if alone and width > 1 else 0
