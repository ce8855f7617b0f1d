"""The border of a model: which rows have an input where its first layers were not made for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import Manifest
from kanserve.interpret import coverage
from kanserve.interpret.coverage import Bounds, Zone
from kanserve.models.coverage import bounds
from kanserve.nouns import Array
from kanserve.observe.series import Number


@dataclass(frozen=True, slots=True)
class Place:
    """A row with an input outside: which `feature`, flat in C order over all inputs; what the grid reads of it, and
    from where to where it should be."""

    row: int
    feature: int
    value: float
    first: float
    last: float


class Border:
    """Of a version whose export said that somebody is to know. `rows`: counts those outside. Raises NotPossible for a
    manifest that does not fit itself."""

    def __init__(self, manifest: Manifest, rows: Number) -> None:
        self.policy, self.rows = manifest.outside, rows
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

    def place(self, rows: Mapping[str, Array], row: int) -> Place:
        """Where the row, which is outside, is farthest so."""
        for name, first, limits in self._parts:
            nodes = rows[name][row : row + 1]
            vectors = nodes.reshape(-1, nodes.shape[-1]).astype(np.float64)
            found = coverage.measure(limits, vectors).joined(1)
            if (found.zones == Zone.OUTSIDE).any():
                at = int(np.where(found.zones[0] == Zone.OUTSIDE, found.cells[0], -1.0).argmax())
                position, node = divmod(at, nodes.shape[-1])
                return Place(row, first + at, *coverage.placed(limits, vectors[position], node))
        raise AssertionError("the row is not outside")
