"""Where a model's nodes are for rows: the graph once more, for what is inside, and what each layer holds it against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kanexport.manifest import Manifest
from kanexport.shared.outside import CLAMP
from kanserve.backends import Session
from kanserve.errors import NotPossible
from kanserve.interpret import coverage
from kanserve.interpret.coverage import Bounds, Coverage, Floats, Zones
from kanserve.nouns import Array
from kanserve.scheduling import merge


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
        """What the `width` nodes of a layer are held against. Raises NotPossible."""
        if at not in self.bounds:
            self.bounds[at] = bounds(manifest, at, width)
        return self.bounds[at]


def bounds(manifest: Manifest, at: int, width: int) -> Bounds:
    """What the `width` nodes that layer `at` is given are held against. Raises NotPossible."""
    layer, baseline = manifest.layers[at], manifest.baseline
    clamped = at == 0 and manifest.outside == CLAMP
    try:
        return coverage.bounds(layer, width, baseline.layers[at] if baseline.rows else None, clamped=clamped)
    except coverage.Unfit as error:
        raise NotPossible(
            f"the manifest's steps before layer {at} do not fit the {width} nodes that it is given; export again"
        ) from error


def compute(
    session: Session, manifest: Manifest, known: Known, rows: Mapping[str, Array], *, step: int
) -> Iterator[tuple[LayerCoverage, ...] | None]:
    """Of each layer, for `rows` [B, ...] by input: None after each step of so many rows, and at last the answer. Raises
    NotPossible."""
    names = [layer.node_tensor for layer in manifest.layers]
    wanted = [name for name in dict.fromkeys(names) if name not in rows]
    found: list[list[LayerCoverage]] = [[] for _ in names]
    for start in range(0, len(next(iter(rows.values()))), max(1, step)):
        part = merge.part(rows, start, start + max(1, step))
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
