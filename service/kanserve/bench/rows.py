"""The rows of a run: a user's own, or drawn inside the grids; and the rows of a manifest with known answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import LayerInfo, Manifest
from kanserve.interpret import zones
from kanserve.nouns import DTYPES, Array
from kanserve.trials import proving

Feeds = Mapping[str, Array]
Floats = NDArray[np.float64]
SOME = 1.0  # from minus this to this, where nothing tells what an input is


def repeated(feeds: Feeds, rows: int, start: int = 0) -> dict[str, Array]:
    """So many rows, from `start` on, again and again from the first."""
    return {name: array[(np.arange(rows) + start) % len(array)] for name, array in feeds.items()}


def drawn(manifest: Manifest, rows: int, seed: int = 0) -> dict[str, Array]:
    """By input, each number evenly: inside its grid where the first layer reads it as it is, else between the least and
    the largest that it is in the manifest's reference rows."""
    rng = np.random.default_rng(seed)
    known = proving.feeds(manifest) if manifest.reference.inputs else {}
    found = {}
    for tensor in proving.tensors(manifest.inputs):
        size = tensor.shape[1:]
        low, high = _seen(known.get(tensor.name), size)
        if len(size) == 1:
            for layer in manifest.layers:
                if layer.node_tensor == tensor.name:
                    _narrow(layer, low, high)
        values = rng.uniform(low, high, (rows, *size))
        kind = DTYPES[tensor.datatype]
        found[tensor.name] = (values.round() if kind.kind in "iu" else values).astype(kind)
    return found


def _seen(known: Array | None, size: tuple[int, ...]) -> tuple[Floats, Floats]:
    """From where to where, [*size] each."""
    if known is None:
        return np.full(size, -SOME), np.full(size, SOME)
    values = known.astype(np.float64)
    finite = np.isfinite(values)
    low, high = np.where(finite, values, np.inf).min(axis=0), np.where(finite, values, -np.inf).max(axis=0)
    nothing = low > high
    return np.where(nothing, -SOME, low), np.where(nothing, SOME, high)


def _narrow(layer: LayerInfo, low: Floats, high: Floats) -> None:
    """To the grids of the nodes that the layer reads as they are."""
    for node in range(len(low)):
        span = zones.core(layer, node)
        if span is not None:
            low[node], high[node] = span
