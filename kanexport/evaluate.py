"""The float64 meaning of a Kan: what every exported graph is held against.

Plain numpy on whole arrays, with no thought of speed, and no code shared with
the emission side of bases and steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.ir import Kan, Layer

Array = npt.NDArray[np.float64]

CHUNK_NUMBERS = 4_000_000  # edge values held at a time


@dataclass(frozen=True, slots=True)
class Trace:
    """`y` [B, outputs], and the input vector of every layer, [B, width]."""

    y: Array
    inputs: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Jitter:
    """The rounding that any implementation in a precision is free to do: every node,
    and every affine of a symbolic edge, off by up to `size`, with signs of `seed`."""

    size: float
    seed: int

    def shake(self, x: Array) -> Array:
        signs = np.random.default_rng(self.seed).choice([-1.0, 1.0], size=x.shape)
        return x * (1 + self.size * signs)


def evaluate(kan: Kan, x: Array, *, jitter: Jitter | None = None) -> Trace:
    """Run rows [B, n_inputs] through the network."""
    inputs = []
    with np.errstate(all="ignore"):
        for layer in kan.layers:
            x = x if jitter is None else jitter.shake(x)
            inputs.append(x)
            x = _layer(layer, x, jitter)
    return Trace(x, tuple(inputs))


def edges(layer: Layer, x: Array, jitter: Jitter | None = None) -> Iterator[tuple[slice, Array]]:
    """Edge values of a layer from its input vector: pieces of (rows, [b, I, O])."""
    with np.errstate(all="ignore"):
        for step in layer.before:
            x = step.evaluate(x)
        rows = max(1, CHUNK_NUMBERS // layer.mask.size)
        for start in range(0, len(x), rows):
            part = slice(start, min(start + rows, len(x)))
            yield part, _edges(layer, x[part], jitter)


def _edges(layer: Layer, x: Array, jitter: Jitter | None) -> Array:
    total = np.zeros((len(x), layer.sources, layer.destinations))
    for term in layer.terms:
        values = term.basis.evaluate(x)  # [B, K, I]
        for c in range(term.basis.functions):
            total += values[:, c, :, None] * term.coef[None, :, :, c]
    total *= layer.mask
    for edge in layer.symbolic:
        i, j = edge.source, edge.destination
        product, shift = edge.a * x[:, i], np.full(len(x), edge.b)
        if jitter is not None:
            product, shift = jitter.shake(product), jitter.shake(shift[::-1])[::-1]
        total[:, i, j] += edge.mask * (edge.c * edge.function.evaluate(product + shift) + edge.d)
    total[~np.isfinite(x)[:, :, None] & layer.spread] = np.nan
    return total


def _layer(layer: Layer, x: Array, jitter: Jitter | None) -> Array:
    z = np.zeros((len(x), layer.destinations))
    for part, values in edges(layer, x, jitter):
        z[part] = values.sum(axis=1) + layer.bias
    for step in layer.after:
        z = step.evaluate(z)
    return z
