"""Where a model's nodes are for rows: the graph once more, for what is inside, and what each layer holds it against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kanexport.contract.manifest import Manifest
from kanexport.contract.sections import CLAMP
from kanserve.analysis import coverage
from kanserve.analysis.coverage import Bounds, Coverage, Floats, Zone, Zones
from kanserve.errors import FailedPrecondition
from kanserve.observability.series import Number
from kanserve.runtime.base import Session
from kanserve.scheduling import batching
from kanserve.types import Array


@dataclass(frozen=True, slots=True)
class LayerCoverage:
    """Of the nodes that a layer is given: `zones` [B, *positions, n]; `counts` [B, 3], `worst` [B] and `cells` [B], as
    `Coverage` has them, of all positions in C order. `definition`: what they were held against."""

    definition: str
    zones: Zones
    counts: Array
    worst: Array
    cells: Floats


@dataclass(slots=True)
class Known:
    """What coverages of a version have in common, once somebody has asked. Used by the thread of its queries alone."""

    bounds: dict[int, Bounds] = field(default_factory=dict)

    def of(self, manifest: Manifest, at: int, width: int) -> Bounds:
        """What the `width` nodes of a layer are held against. Raises FailedPrecondition."""
        if at not in self.bounds:
            self.bounds[at] = bounds(manifest, at, width)
        return self.bounds[at]


def bounds(manifest: Manifest, at: int, width: int) -> Bounds:
    """What the `width` nodes that layer `at` is given are held against. Raises FailedPrecondition."""
    layer, baseline = manifest.layers[at], manifest.baseline
    clamped = at == 0 and manifest.out_of_range == CLAMP
    try:
        return coverage.bounds(layer, width, baseline.layers[at] if baseline.rows else None, clamped=clamped)
    except coverage.Unfit as error:
        raise FailedPrecondition(
            f"the manifest's steps before layer {at} do not fit the {width} nodes that it is given; export again"
        ) from error


def compute(
    session: Session, manifest: Manifest, known: Known, rows: Mapping[str, Array], *, step: int
) -> Iterator[tuple[LayerCoverage, ...] | None]:
    """Of each layer, for `rows` [B, ...] by input: None after each step of so many rows, and at last the answer. Raises
    FailedPrecondition."""
    names = [layer.node_tensor for layer in manifest.layers]
    wanted = [name for name in dict.fromkeys(names) if name not in rows]
    found: list[list[LayerCoverage]] = [[] for _ in names]
    for start in range(0, len(next(iter(rows.values()))), max(1, step)):
        part = batching.select_rows(rows, start, start + max(1, step))
        values = dict(part) | (dict(zip(wanted, session.run(wanted, part), strict=True)) if wanted else {})
        for at, name in enumerate(names):
            limits = known.of(manifest, at, values[name].shape[-1])
            found[at].append(_of(limits, values[name]))
        yield None
    yield tuple(map(_joined, found))


def _of(limits: Bounds, nodes: Array) -> LayerCoverage:
    """Nodes [B, *positions, n]."""
    found = coverage.measure(limits, nodes.reshape(-1, nodes.shape[-1]).astype(np.float64))
    rows: Coverage = found.joined(len(nodes))
    return LayerCoverage(limits.definition, found.zones.reshape(nodes.shape), rows.counts, rows.worst, rows.excess)


def _joined(parts: Sequence[LayerCoverage]) -> LayerCoverage:
    """Consecutive rows as one."""
    arrays = [[getattr(part, name) for part in parts] for name in ("zones", "counts", "worst", "cells")]
    return LayerCoverage(parts[0].definition, *map(np.concatenate, arrays))


@dataclass(frozen=True, slots=True)
class OutOfRangeInput:
    """A row with an input outside: which `feature`, flat in C order over all inputs; what the grid reads of it, and
    from where to where it should be."""

    row: int
    feature: int
    value: float
    first: float
    last: float


class InputRangeGuard:
    """Of a version whose export said that somebody is to know. `rows`: counts those outside. Raises FailedPrecondition
    for a manifest that does not fit itself."""

    def __init__(self, manifest: Manifest, rows: Number) -> None:
        self.policy, self.rows = manifest.out_of_range, rows
        self._parts: list[tuple[str, int, Bounds]] = []
        starts, start = {}, 0
        for tensor in manifest.inputs:
            starts[tensor.name] = (start, tensor.shape[-1])
            start += math.prod(tensor.shape[1:])
        for at, layer in enumerate(manifest.layers):
            if layer.node_tensor in starts:
                first, width = starts[layer.node_tensor]
                self._parts.append((layer.node_tensor, first, bounds(manifest, at, width)))

    def outside(self, rows: Mapping[str, Array]) -> NDArray[np.bool_]:
        """[B]: of `rows` [B, ...] by input."""
        found = np.zeros(len(next(iter(rows.values()))), np.bool_)
        for name, _, limits in self._parts:
            vectors = rows[name].reshape(-1, rows[name].shape[-1]).astype(np.float64)
            found |= coverage.outside(limits, vectors).reshape(len(found), -1).any(axis=1)
        return found

    def place(self, rows: Mapping[str, Array], row: int) -> OutOfRangeInput:
        """Where the row, which is outside, is farthest so."""
        for name, first, limits in self._parts:
            nodes = rows[name][row : row + 1]
            vectors = nodes.reshape(-1, nodes.shape[-1]).astype(np.float64)
            found = coverage.measure(limits, vectors).joined(1)
            if (found.zones == Zone.OUTSIDE).any():
                at = int(np.where(found.zones[0] == Zone.OUTSIDE, found.cells[0], -1.0).argmax())
                position, node = divmod(at, nodes.shape[-1])
                return OutOfRangeInput(row, first + at, *coverage.placed(limits, vectors[position], node))
        raise AssertionError("the row is not outside")
