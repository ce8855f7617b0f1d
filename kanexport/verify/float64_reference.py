"""Float64 reference evaluation of a Kan, with which every exported graph is compared.

Plain numpy on whole arrays, with no thought of speed: `evaluate` of bases and steps,
and nothing of what emits operators. The formula is that of `ir/model.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis
from kanexport.bases.polynomial import Polynomial
from kanexport.bases.recurrence import Recurrence
from kanexport.functions.domain_maps import Squash
from kanexport.ir import scaling
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer, SymbolicEdge
from kanexport.ir.steps import Step

Array = npt.NDArray[np.float64]

CANCEL = ("gelu", "gelu_tanh")  # activations of the form x (1 + f(x)); f has an error of 1.5e-7 in torch
CHUNK_NUMBERS = 4_000_000  # edge values held at a time, and coefficients that are changed for a run


@dataclass(frozen=True, slots=True)
class Trace:
    """Trace of one evaluation in float64.

    y       [B, outputs]; of a module [B, ...]
    inputs  the input vector of every layer, [B, width]; of a module [B, *positions, width]
    peak    [B], the largest finite magnitude that each row met on the way: where that is beyond
            float32, a float32 graph may overflow
    """

    y: Array
    inputs: tuple[Array, ...]
    peak: Array


@dataclass(frozen=True, slots=True)
class Jitter:
    """Rounding that an implementation in a precision may have: nodes and weights are off by up to two units of
    `size`, relative. `functions`: the values of a basis are off, too, by as much of the largest value of their
    source, because implementations compute them in other ways. The rows then stay unchanged, unless a layer
    normalizes them first."""

    size: float
    seed: int
    functions: bool = False

    def shake(self, x: Array, block: int = 0) -> Array:
        """Each number changed by a random part of the rounding; the same for the same seed and shape. `block`: the
        number of a part of an array."""
        # Random sizes, not only signs: equal ones cancel where shakes follow one another.
        seed = (self.seed, block) if block else self.seed
        change = np.random.default_rng(seed).uniform(-2, 2, size=x.shape)
        change *= self.size
        change += 1
        change *= x
        return change

    def shake_argument(self, basis: Basis) -> Basis:
        """The basis with another rounding of what its polynomials are taken of, between -1 and 1. It is that of a
        library that computes T_n(u) as cos(n acos(u)), or tanh in another way; -1 and 1 themselves are exact."""
        if not isinstance(basis, Polynomial | Recurrence) or basis.squash.open:
            return basis
        return dataclasses.replace(basis, squash=cast(Squash, _Shaken(basis.squash, self)))

    def shake_functions(self, basis: Basis, values: Array, x: Array) -> Array:
        """Values of a basis [B, K, I], changed by parts of the largest value of their source x [B, I]. Values that are
        zero because a compact basis ends stay zero. The rounding of x times a sum that cancels is a part of x."""
        largest = np.where(np.isfinite(values), np.abs(values), 0).max(axis=1, keepdims=True)
        if basis.kind in CANCEL:
            largest = np.where(np.isfinite(x), np.abs(x), 0)[:, None]
        change = np.random.default_rng((self.seed, 1)).uniform(-2, 2, size=values.shape) * self.size * largest
        return np.where(values == 0, values, values + change) if basis.compact else values + change


@dataclass(frozen=True, slots=True)
class _Shaken:
    """A domain map with the rounding of an implementation."""

    squash: Squash
    jitter: Jitter
    open = False

    def evaluate(self, x: Array) -> Array:
        u, end = self.squash.evaluate(x), 1 - getattr(self.squash, "short", 0.0)
        change = np.random.default_rng((self.jitter.seed, 2)).uniform(-2, 2, size=u.shape) * self.jitter.size
        return np.where(np.abs(u) < end, u + change, u)


def evaluate(kan: Kan, x: Array, *, jitter: Jitter | None = None) -> Trace:
    """Run rows [B, n_inputs] through the network. `jitter`: with the rounding of an implementation."""
    inputs, peaks = [], [peak(x)]
    with np.errstate(all="ignore"):
        for at, layer in enumerate(kan.layers):
            if jitter is not None and (at > 0 or layer.mixes or not jitter.functions):
                x = shaken_nodes(layer, x, jitter)
            inputs.append(x)
            x, most = _sums(layer, x, jitter)
            peaks += [most, peak(x)]
            for step in layer.post_steps:
                if step.mixes:  # a normalisation squares
                    peaks.append(peak(x) ** 2)
                x = _stepped(step, x, jitter)
                peaks.append(peak(x))
    return Trace(x, tuple(inputs), np.max(peaks, axis=0))


def _stepped(step: Step, x: Array, jitter: Jitter | None) -> Array:
    """A step of nodes [B, n]. torch computes a norm as x / s - m / s: its rounding is that of the largest x."""
    y = step.evaluate(x)
    if jitter is None or not jitter.functions or not step.mixes:
        return y
    slope = np.ptp(y, axis=1) / np.ptp(x, axis=1)
    change = np.random.default_rng((jitter.seed, 3)).uniform(-2, 2, size=y.shape) * jitter.size
    largest = np.nan_to_num(slope * peak(x), posinf=0.0)
    return np.asarray(y + change * largest[:, None])


def shaken_nodes(layer: Layer, x: Array, jitter: Jitter) -> Array:
    """Nodes [B, n] of a layer with the rounding of an implementation. Rounding of inputs with a scaler is relative to
    their distance from its offset, because the graph subtracts the offset first, without a loss of digits."""
    first = scaling.standardize(layer)
    return jitter.shake(x) if first is None else first.offset + jitter.shake(x - first.offset)


def edges(layer: Layer, x: Array, jitter: Jitter | None = None) -> Iterator[tuple[slice, Array, Array]]:
    """Edge values of a layer from its input vector, in chunks: the rows, the values [b, I, O], and the largest
    finite magnitude of each row, [b]."""
    with np.errstate(all="ignore"):
        for step in layer.pre_steps:
            x = step.evaluate(x)
        rows = max(1, CHUNK_NUMBERS // layer.mask.size)
        for start in range(0, len(x), rows):
            part = slice(start, min(start + rows, len(x)))
            yield part, *_edges(layer, x[part], jitter)


def _sums(layer: Layer, x: Array, jitter: Jitter | None) -> tuple[Array, Array]:
    """[B, O]: the sums of the edges, plus the bias, without storing the edges; and per row a bound of the
    magnitudes, [B]."""
    for step in layer.pre_steps:
        x = _stepped(step, x, jitter)
    total = np.zeros((len(x), layer.destinations), x.dtype)
    bound = np.zeros(len(x)) if scaling.standardize(layer) is None else peak(x)
    for term in layer.terms:
        if isinstance(term, EdgeTerm):
            for part, values in _edge_term(term, x, jitter):
                values = values * layer.mask
                total[part] += values.sum(axis=1)
                bound[part] = np.maximum(bound[part], peak(values))
            continue
        basis = _basis(term, x, jitter).transpose(2, 0, 1)  # [I, B, K]
        largest = 0.0
        masked = not (layer.mask == 1).all()
        for part, coef in _blocks(term, jitter):
            weights = coef * layer.mask[part, :, None] if masked else coef
            total += (basis[part] @ weights.transpose(0, 2, 1)).sum(axis=0)
            largest = max(largest, -weights.min(initial=0), weights.max(initial=0))
        bound = np.maximum(bound, peak(basis.transpose(1, 0, 2)) * largest)
    for edge, inner, value in _symbolic(layer, x, jitter):
        total[:, edge.destination] += value
        bound = np.maximum(bound, peak(np.stack([inner, value], axis=1)))
    # Counted, since NaN times zero would reach destinations that have no such edge.
    total[(~np.isfinite(x)).astype(float) @ layer.nan_spreads > 0] = np.nan
    return total + layer.bias, np.maximum(bound, peak(total))


def _edges(layer: Layer, x: Array, jitter: Jitter | None) -> tuple[Array, Array]:
    total = np.zeros((len(x), layer.sources, layer.destinations))
    for term in layer.terms:
        if isinstance(term, EdgeTerm):
            for part, values in _edge_term(term, x, jitter):
                total[part] += values
            continue
        basis = _basis(term, x, jitter).transpose(2, 0, 1)  # [I, B, K]
        for sources, coef in _blocks(term, jitter):
            total[:, sources] += (basis[sources] @ coef.transpose(0, 2, 1)).transpose(1, 0, 2)
    total *= layer.mask
    most = peak(total)
    for edge, inner, value in _symbolic(layer, x, jitter):
        total[:, edge.source, edge.destination] += value
        most = np.maximum(most, peak(inner[:, None]))
    total[~np.isfinite(x)[:, :, None] & layer.nan_spreads] = np.nan
    return total, np.maximum(most, peak(total))


def _basis(term: BasisTerm, x: Array, jitter: Jitter | None) -> Array:
    """[B, I] -> [B, K, I]"""
    for step in term.pre_steps:
        x = _stepped(step, x, jitter)
    if jitter is not None and jitter.functions and term.pre_steps:
        x = jitter.shake(x)
    basis = jitter.shake_argument(term.basis) if jitter is not None and jitter.functions else term.basis
    values = basis.evaluate(x).astype(x.dtype, copy=False)
    if jitter is not None and jitter.functions:
        values = jitter.shake_functions(term.basis, values, x)
    return values


def _edge_term(term: EdgeTerm, x: Array, jitter: Jitter | None) -> Iterator[tuple[slice, Array]]:
    """Blocks of rows, with their values [b, I, O], before the mask."""
    centre, rate, coef = term.centre, term.rate, term.coef
    if jitter is not None:
        centre, rate, coef = map(jitter.shake, (centre, rate, coef))
    rows = max(1, CHUNK_NUMBERS // coef.size)
    for step in term.pre_steps:
        x = step.evaluate(x)
    for start in range(0, len(x), rows):
        part = slice(start, min(start + rows, len(x)))
        inner = (x[part, :, None, None] - centre) * rate
        yield part, (term.function.evaluate(inner) * coef).sum(axis=3)


def _blocks(term: BasisTerm, jitter: Jitter | None) -> Iterator[tuple[slice, Array]]:
    """Blocks of sources, with their coefficients [i, O, K], without a copy of all coefficients of a large layer."""
    step = max(1, CHUNK_NUMBERS // term.coef[0].size)
    for block, start in enumerate(range(0, len(term.coef), step)):
        part = slice(start, start + step)
        yield part, term.coef[part] if jitter is None else jitter.shake(term.coef[part], block)


def _symbolic(layer: Layer, x: Array, jitter: Jitter | None) -> Iterator[tuple[SymbolicEdge, Array, Array]]:
    """Each symbolic edge, the value of its function and its own value, [B] both."""
    for edge in layer.symbolic:
        product, shift = edge.a * x[:, edge.source], np.full(len(x), edge.b)
        if jitter is not None:
            product, shift = jitter.shake(product), jitter.shake(shift[::-1])[::-1]
        inner = edge.function.evaluate(product + shift)
        yield edge, inner, edge.mask * (edge.c * inner + edge.d)


def peak(values: Array) -> Array:
    """[B, ...] -> [B]: the largest finite magnitude of each row."""
    magnitude = np.where(np.isfinite(values), np.abs(values), 0)
    highest: Array = magnitude.max(axis=tuple(range(1, values.ndim)), initial=0)
    return highest
