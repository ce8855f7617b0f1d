"""Which edges a query means, how large the answer is, and picking them out.

Shapes: B rows, S sources, D destinations; s and d the selected ones; k edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanserve.errors import BadRequest

VALUE_BYTES = 4  # sent as float32
INDEX_BYTES = 5  # at most, packed
LAYER_BYTES = 64  # names and lengths around one layer

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What is asked of one layer. `top_k` 0 keeps all selected edges."""

    layer: int
    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    top_k: int

    def values(self, rows: int) -> int:
        """How many values the answer holds."""
        return rows * (self.top_k or len(self.sources) * len(self.destinations))

    def response_bytes(self, rows: int) -> int:
        """An upper bound of the bytes on the wire, known before anything is computed."""
        indices = 2 * self.top_k or len(self.sources) + len(self.destinations)
        return self.values(rows) * VALUE_BYTES + indices * INDEX_BYTES + LAYER_BYTES


def plan(
    shapes: Sequence[tuple[int, int]],
    *,
    layers: Sequence[int],
    sources: Sequence[int],
    destinations: Sequence[int],
    top_k: int,
) -> tuple[LayerPlan, ...]:
    """Resolve a selection against layers of the given (S, D); an empty list means all.

    Raises BadRequest for an index that does not exist in a selected layer or is
    named twice. `top_k` beyond the selected edges keeps them all.
    """
    chosen = _resolve(layers, len(shapes), "layer", "the model")
    plans = []
    for layer in chosen:
        wide, deep = shapes[layer]
        rows = _resolve(sources, wide, "source", f"layer {layer}")
        columns = _resolve(destinations, deep, "destination", f"layer {layer}")
        plans.append(LayerPlan(layer, rows, columns, min(top_k, len(rows) * len(columns))))
    return tuple(plans)


def pick(values: Floats, layer: LayerPlan) -> Floats:
    """[B, S, D] -> [B, s, d], in the order that was asked for."""
    if len(layer.sources) != values.shape[1] or layer.sources != tuple(range(values.shape[1])):
        values = values[:, list(layer.sources), :]
    if len(layer.destinations) != values.shape[2] or layer.destinations != tuple(range(values.shape[2])):
        values = values[:, :, list(layer.destinations)]
    return values


def strengths(values: Floats) -> Floats:
    """The largest magnitude of each edge over the rows: [B, s, d] -> [s, d]; 0 without rows.

    NaN counts as infinite: an edge that broke is what a reader must see first.
    """
    if values.shape[0] == 0:
        return np.zeros(values.shape[1:], values.dtype)
    largest: Floats = np.abs(values).max(axis=0)
    return np.where(np.isnan(largest), np.inf, largest)


def strongest(strength: Floats, k: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the k strongest in [s, d], strongest first; ties by position."""
    order = np.argsort(-strength, axis=None, kind="stable")[:k]
    rows, columns = np.unravel_index(order, strength.shape)
    return rows, columns


def _resolve(wanted: Sequence[int], size: int, what: str, where: str) -> tuple[int, ...]:
    if not wanted:
        return tuple(range(size))
    for index in wanted:
        if not 0 <= index < size:
            raise BadRequest(f"{what} {index} does not exist: {where} has {size} {what}s, numbered 0 to {size - 1}")
    if len(set(wanted)) != len(wanted):
        twice = next(index for at, index in enumerate(wanted) if index in wanted[:at])
        raise BadRequest(f"{what} {twice} is named twice; name each {what} once")
    return tuple(wanted)
