"""Whose numbers statistics are of: what each layer is given, and the answers; and the cells in which they are counted.

A version whose export was given rows (`--reference`) has the cells of its baseline. For another one they are made here,
by the same rules: the knots of a node, or equal parts of what it is on rows that the export drew from the grid. They
are the same in every process that loads the version, which is what lets counts be added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.manifest import LayerInfo, Manifest
from kanexport.shared import cells as own
from kanexport.shared.baseline import NodeBaseline
from kanserve.errors import NotPossible
from kanserve.interpret import zones
from kanserve.interpret.window import Cells, split
from kanserve.interpret.zones import Origin, Span
from kanserve.nouns import DTYPES, Array
from kanserve.trials import proving

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
    """Of all layers and outputs. Raises NotPossible where there are too many, and what `run` does."""
    layers: list[tuple[int, str, LayerInfo | None]] = [
        (at, layer.node_tensor, layer) for at, layer in enumerate(manifest.layers)
    ]
    before = (*manifest.baseline.layers, *manifest.baseline.outputs)
    if before:
        named = [*layers, *((OUTPUT, one.name, None) for one in manifest.outputs)]
        return [_part(*one, part.cells, part) for one, part in zip(named, before, strict=True)]
    floats = [one for one in manifest.outputs if one.datatype in proving.FLOATS]
    return _of_drawn(manifest, run, [*layers, *((OUTPUT, one.name, None) for one in floats)])


def _of_drawn(manifest: Manifest, run: Run, named: Sequence[tuple[int, str, LayerInfo | None]]) -> list[Part]:
    rows = _drawn(manifest)
    tensors = list(dict.fromkeys(tensor for _, tensor, _ in named if tensor not in rows))
    values = dict(rows) | dict(zip(tensors, run(tensors, rows), strict=True))
    found = [_part(*one, tuple(_bounds(one[2], values[one[1]])), None) for one in named]
    if (size := sum(math.prod(part.fine.shape) for part in found)) > MOST:
        raise NotPossible(f"its nodes have {size} cells, and statistics are kept of {MOST} at most")
    return found


def _part(
    at: int, tensor: str, layer: LayerInfo | None, bounds: tuple[tuple[float, ...], ...], before: NodeBaseline | None
) -> Part:
    nodes = len(bounds) if before is None else len(before.counts)
    cores = tuple(None if layer is None else zones.core(layer, node) for node in range(nodes))
    otherwise = Origin.DRAWN if before is None else Origin.REFERENCE
    origins = tuple(otherwise if core is None else Origin.GRID for core in cores)
    if before is None and len(set(bounds)) == 1:
        bounds = bounds[:1]
    fine, times = _fine(bounds, nodes)
    return Part(at, tensor, bounds, Cells.of(bounds, nodes), fine, times, origins, cores, before)


def _fine(bounds: tuple[tuple[float, ...], ...], nodes: int) -> tuple[Cells, int]:
    """What values are counted in, and how many of these make a cell."""
    times = SPLIT if max(map(len, bounds)) <= FEW else 1
    return Cells.of([split(row, times) for row in bounds], nodes), times


def _drawn(manifest: Manifest) -> dict[str, Array]:
    """The rows that the export was proved with, or zeros where there are none."""
    if manifest.reference.inputs:
        return proving.feeds(manifest)
    return {one.name: np.zeros((1, *one.shape[1:]), DTYPES[one.datatype]) for one in manifest.inputs}


def _bounds(layer: LayerInfo | None, values: Array) -> Iterator[tuple[float, ...]]:
    """Of each node, which were `values` [B, ..., n]."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    for node in range(flat.shape[1]):
        grid = () if layer is None or zones.core(layer, node) is None else own.grid(layer, node)
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
    alone = len(manifest.outputs) == 1 and manifest.output.datatype in proving.FLOATS
    return width if alone and width > 1 else 0
