"""The float64 meaning of a Kan: what every exported graph is held against.

Plain numpy on whole arrays, with no thought of speed, and no code shared with
the emission side of bases and steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.ir import Kan, Layer, NonFinite

Array = npt.NDArray[np.float64]

CHUNK_NUMBERS = 4_000_000  # edge values held at a time


@dataclass(frozen=True, slots=True)
class Trace:
    """`y` [B, outputs], and the input vector of every layer, [B, width]."""

    y: Array
    inputs: tuple[Array, ...]


def evaluate(kan: Kan, x: Array, *, jitter: float = 0.0) -> Trace:
    """Run rows [B, n_inputs] through the network.

    `jitter` multiplies each layer's input by 1 +- jitter, with fixed alternating
    signs: the effect of rounding the nodes, which is what any implementation in
    that precision is free to do.
    """
    inputs = []
    with np.errstate(all="ignore"):
        for layer in kan.layers:
            signs = np.where(np.arange(x.size).reshape(x.shape) % 3 == 0, -1.0, 1.0)
            x = x * (1 + jitter * signs) if jitter else x
            inputs.append(x)
            x = _layer(layer, x)
    return Trace(x, tuple(inputs))


def edges(layer: Layer, x: Array) -> Iterator[tuple[slice, Array]]:
    """Edge values of a layer from its input vector: pieces of (rows, [b, I, O])."""
    with np.errstate(all="ignore"):
        for step in layer.before:
            x = step.evaluate(x)
        rows = max(1, CHUNK_NUMBERS // layer.mask.size)
        for start in range(0, len(x), rows):
            part = slice(start, min(start + rows, len(x)))
            yield part, _edges(layer, x[part])


def _edges(layer: Layer, x: Array) -> Array:
    total = np.zeros((len(x), layer.sources, layer.destinations))
    for term in layer.terms:
        values = term.basis.evaluate(x)  # [B, K, I]
        for c in range(term.basis.functions):
            total += values[:, c, :, None] * term.coef[None, :, :, c]
    total *= layer.mask
    for edge in layer.symbolic:
        i, j = edge.source, edge.destination
        inner = edge.function.evaluate(edge.a * x[:, i] + edge.b)
        total[:, i, j] += edge.mask * (edge.c * inner + edge.d)
    if layer.nonfinite is NonFinite.SPREAD:
        total += (x - x)[:, :, None]
    return total


def _layer(layer: Layer, x: Array) -> Array:
    z = np.zeros((len(x), layer.destinations))
    for part, values in edges(layer, x):
        z[part] = values.sum(axis=1) + layer.bias
    for step in layer.after:
        z = step.evaluate(z)
    return z
