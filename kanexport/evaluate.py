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
    """`y` [B, outputs]; the input vector of every layer, [B, width]; and per row the
    largest finite magnitude met on the way, [B]."""

    y: Array
    inputs: tuple[Array, ...]
    peak: Array


@dataclass(frozen=True, slots=True)
class Jitter:
    """The rounding that any implementation in a precision is free to do: nodes and
    weights off by up to two units of `size`, relative."""

    size: float
    seed: int

    def shake(self, x: Array) -> Array:
        # Random sizes, not only signs: equal ones cancel where shakes follow one another.
        return x * (1 + self.size * np.random.default_rng(self.seed).uniform(-2, 2, size=x.shape))


def evaluate(kan: Kan, x: Array, *, jitter: Jitter | None = None) -> Trace:
    """Run rows [B, n_inputs] through the network."""
    inputs, peaks = [], [_peak(x)]
    with np.errstate(all="ignore"):
        for layer in kan.layers:
            x = x if jitter is None else jitter.shake(x)
            inputs.append(x)
            z = np.zeros((len(x), layer.destinations))
            peak = np.zeros(len(x))
            for part, values, highest in edges(layer, x, jitter):
                z[part] = values.sum(axis=1) + layer.bias
                peak[part] = highest
            peaks += [peak, _peak(z)]
            for step in layer.after:
                z = step.evaluate(z)
                peaks.append(_peak(z))
            x = z
    return Trace(x, tuple(inputs), np.max(peaks, axis=0))


def edges(layer: Layer, x: Array, jitter: Jitter | None = None) -> Iterator[tuple[slice, Array, Array]]:
    """Edge values of a layer from its input vector, in pieces: which rows, the values
    [b, I, O], and per row the largest finite magnitude met, [b]."""
    coefs = [term.coef if jitter is None else jitter.shake(term.coef) for term in layer.terms]
    with np.errstate(all="ignore"):
        for step in layer.before:
            x = step.evaluate(x)
        rows = max(1, CHUNK_NUMBERS // layer.mask.size)
        for start in range(0, len(x), rows):
            part = slice(start, min(start + rows, len(x)))
            yield part, *_edges(layer, coefs, x[part], jitter)


def _edges(layer: Layer, coefs: list[Array], x: Array, jitter: Jitter | None) -> tuple[Array, Array]:
    total = np.zeros((len(x), layer.sources, layer.destinations))
    for term, coef in zip(layer.terms, coefs, strict=True):
        values = term.basis.evaluate(x)  # [B, K, I]
        for c in range(term.basis.functions):
            total += values[:, c, :, None] * coef[None, :, :, c]
    total *= layer.mask
    peak = _peak(total)
    for edge in layer.symbolic:
        i, j = edge.source, edge.destination
        product, shift = edge.a * x[:, i], np.full(len(x), edge.b)
        if jitter is not None:
            product, shift = jitter.shake(product), jitter.shake(shift[::-1])[::-1]
        value = edge.function.evaluate(product + shift)
        peak = np.maximum(peak, _peak(value[:, None]))
        total[:, i, j] += edge.mask * (edge.c * value + edge.d)
    total[~np.isfinite(x)[:, :, None] & layer.spread] = np.nan
    return total, np.maximum(peak, _peak(total))


def _peak(values: Array) -> Array:
    """[B, ...] -> [B]: the largest finite magnitude of each row."""
    magnitude = np.where(np.isfinite(values), np.abs(values), 0)
    highest: Array = magnitude.max(axis=tuple(range(1, values.ndim)), initial=0)
    return highest
