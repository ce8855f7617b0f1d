"""Simplification passes: they drop dead terms, and fold masks and scales into weights.

The one place for it; the rest of lowering asks here and emits what remains. The rule: what
every edge multiplies by zero goes, and what multiplies a weight is multiplied into it, as long
as NaN and infinities reach the same destinations as before.

Example: coef [[[2, 4]]] under mask [[0.5]] becomes the constant [[[1, 2]]]; under mask [[0]] the
whole basis goes, and if its library computes 0 * NaN there, the edge is marked to become NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform_bspline import UniformSpline
from kanexport.ir.model import BasisTerm, Layer, SymbolicEdge, Term
from kanexport.ir.steps import Affine

Array = npt.NDArray[np.float64]

SILU = "silu"
BLOCK_NUMBERS = 8_000_000  # coefficients that are worked on at a time


@dataclass(frozen=True, slots=True, eq=False)
class FittedTerm(BasisTerm):
    """Term with a basis that is emitted as another, similar one. `fit` [K, K] maps the coefficients of a source to
    those of the emitted basis; None: the same."""

    fit: Array | None = None


def live(layer: Layer) -> Layer:
    """The layer without the terms that every edge multiplies by zero: a network with only symbolic edges needs no
    basis. The effect of such a term on NaN remains, in `nan_spreads`."""
    idle = [term for term in layer.terms if _idle(layer, term)]
    spoils = not all(isinstance(term, BasisTerm) and term.basis.compact for term in idle)
    terms = tuple(term for term in layer.terms if term not in idle)
    return dataclasses.replace(layer, terms=terms, nan_spreads=layer.nan_spreads | spoils) if idle else layer


def _idle(layer: Layer, term: Term) -> bool:
    """Whether a term adds nothing to finite values and, to other values, nothing or NaN on every edge."""
    if not isinstance(term, BasisTerm) or term.pre_steps:
        return False
    if any(coefficients(layer, term, part=part).any() for part in blocks(term)):
        return False
    if term.basis.compact or layer.nan_spreads.all():
        return True
    with np.errstate(all="ignore"):
        values = term.basis.evaluate(np.array([[np.nan], [np.inf], [-np.inf]]) * np.ones(layer.sources))
    return not np.isfinite(values).all(axis=1).any()


def blocks(term: Term) -> Iterator[slice]:
    """The sources of a term, block by block, so that a large layer needs no second copy."""
    step = max(1, BLOCK_NUMBERS // term.coef[0].size)
    return (slice(start, min(start + step, len(term.coef))) for start in range(0, len(term.coef), step))


def coefficients(layer: Layer, term: Term, scale: float = 1.0, *, part: slice = slice(None)) -> Array:
    """[I, O, K]: the coefficients of a term with the mask of the layer and a scale of the basis folded in; for
    `part` of the sources."""
    with np.errstate(over="ignore"):  # the graph refuses what is not finite
        folded = term.coef[part] * layer.mask[part, :, None] * scale
        if isinstance(term, FittedTerm) and term.fit is not None:
            folded = folded @ term.fit.T
        return np.asarray(folded)


def outer(edges: list[SymbolicEdge]) -> tuple[list[float], list[float]]:
    """Scale and bias outside the symbolic function of each edge, with its mask folded in: mask * (c * f + d) is (mask *
    c) * f + mask * d."""
    return [edge.mask * edge.c for edge in edges], [edge.mask * edge.d for edge in edges]


def carries_nan(before: Layer, layer: Layer) -> bool:
    """Whether a NaN of the layer `before` reaches all destinations of a layer in its base branch, and no other number
    that is not finite occurs. Then the sum needs no other term for NaN.

    Splines and SiLU map finite numbers to finite numbers. `before` returns NaN for all others."""
    plain = all(isinstance(step, Affine) for step in (*before.post_steps, *layer.pre_steps))
    spread = before.nan_spreads.all() and layer.nan_spreads.all()
    if not (plain and spread and _spline_layer(before) and _spline_layer(layer)):
        return False
    bases = [term.basis for term in live(layer).terms if isinstance(term, BasisTerm)]
    return any(isinstance(basis, Activation) and basis.kind == SILU for basis in bases)


def _spline_layer(layer: Layer) -> bool:
    """Whether all edges are splines and SiLU."""
    kinds = (
        isinstance(term, BasisTerm) and (term.basis.compact or term.basis.kind == SILU) and not term.pre_steps
        for term in layer.terms
    )
    return all(kinds) and not layer.symbolic


SourceIndices = npt.NDArray[np.intp]

WORTH = 1 / 8  # of the sources: to leave out fewer costs more than their functions
BLOCK_WORTH = 3 / 4  # of the edges: a block of more of them is not much faster than all


def drop_idle_sources(layer: Layer) -> tuple[Layer, SourceIndices | None]:
    """The terms for the sources that contribute, and these sources; the layer itself and None if all sources
    contribute."""
    if not layer.terms or any(term.pre_steps for term in layer.terms):
        return layer, None
    idle = np.ones(layer.sources, dtype=bool)  # sources that contribute nothing, for any value
    for term in layer.terms:
        for part in blocks(term):
            idle[part] &= ~coefficients(layer, term, part=part).any(axis=(1, 2))
    compact = all(isinstance(term, BasisTerm) and term.basis.compact for term in layer.terms)
    kept = np.flatnonzero(~(idle & (compact | layer.nan_spreads.all(axis=1))))
    if len(kept) > (1 - WORTH) * layer.sources or not len(kept):
        return layer, None
    terms = [_select_sources(term, kept) for term in layer.terms]
    live_terms = tuple(term for term in terms if term is not None)
    if len(live_terms) < len(terms):
        return layer, None
    spreads = layer.nan_spreads[kept]
    bare = dataclasses.replace(
        layer, terms=live_terms, mask=layer.mask[kept], nan_spreads=spreads, symbolic=(), pre_steps=(), post_steps=()
    )
    return bare, kept


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A term that acts on some edges: a layer that has only this term, and the ranges of its `sources` and
    `destinations` in the whole layer."""

    layer: Layer
    sources: slice
    destinations: slice


def separate(layer: Layer) -> tuple[Layer, list[Block]]:
    """The terms that act on most edges, and a block for each of the others. The sums and, if `nan_spreads` or NaN in
    all destinations for a source that is not finite are added, NaN are the same."""
    blocks_of = {term: block for term in layer.terms if (block := _block(layer, term)) is not None}
    rest = tuple(term for term in layer.terms if term not in blocks_of)
    return dataclasses.replace(layer, terms=rest) if blocks_of else layer, list(blocks_of.values())


def spoils(term: Term) -> bool:
    """Whether each function of a term is NaN for each value that is not finite, so that a sum over sources is."""
    if isinstance(term, BasisTerm) or term.pre_steps:
        return False
    with np.errstate(all="ignore"):
        return bool(np.isnan(term.function.evaluate(np.array([np.nan, np.inf, -np.inf]))).all())


def _block(layer: Layer, term: Term) -> Block | None:
    """The block of a term, if it is much smaller than the layer, and if all else of the term is zero or NaN."""
    compact = isinstance(term, BasisTerm) and term.basis.compact
    if term.pre_steps or not (compact or spoils(term)):  # values that are not finite have other effects on some edges
        return None
    active = np.concatenate([coefficients(layer, term, part=part).any(axis=2) for part in blocks(term)])
    # The range from the first active entry to the last; empty if there is none.
    places = (np.flatnonzero(active.any(axis=axis)) for axis in (1, 0))
    ranges = [
        (int(at.min(initial=size)), int(at.max(initial=-1)) + 1) for at, size in zip(places, active.shape, strict=True)
    ]
    sources, destinations = (slice(*ends) for ends in ranges)
    if not 0 < active[sources, destinations].size <= BLOCK_WORTH * active.size:
        return None
    part = _select_sources(term, np.arange(layer.sources)[sources])
    if part is None:
        return None
    arrays = ("coef",) if isinstance(part, BasisTerm) else ("centre", "rate", "coef")
    small = dataclasses.replace(
        layer,
        terms=(dataclasses.replace(part, **{name: getattr(part, name)[:, destinations] for name in arrays}),),
        mask=layer.mask[sources, destinations],
        bias=layer.bias[destinations],
        nan_spreads=layer.nan_spreads[sources, destinations],
        symbolic=(),
        pre_steps=(),
        post_steps=(),
    )
    return Block(small, sources, destinations)


def _select_sources(term: Term, kept: SourceIndices) -> Term | None:
    """A term for these sources only; None if its basis needs all of them."""
    if not isinstance(term, BasisTerm):
        arrays = {name: getattr(term, name)[kept] for name in ("centre", "rate", "coef")}
        return dataclasses.replace(term, **arrays)
    basis = term.basis
    if isinstance(basis, BSpline) and basis.sources is not None:
        basis = dataclasses.replace(basis, extended=basis.extended[kept])
    elif isinstance(basis, UniformSpline) and basis.sources is not None:
        basis = UniformSpline(dataclasses.replace(basis.spline, extended=basis.spline.extended[kept]))
    elif basis.sources is not None:
        return None
    return dataclasses.replace(term, basis=basis, coef=term.coef[kept])
