"""Sources that add nothing to any sum: their functions are not computed.

Pruning leaves masks of zeros behind, a row of them for an input that turned out not to matter. In the sums of the
serving graph such a source is not looked at; edge graphs tell of every edge, and keep it. What NaN in it does to a sum
remains: where its functions would make NaN of NaN, it goes only if every edge of it becomes NaN anyway.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis
from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform import UniformSpline
from kanexport.form.ir import BasisTerm, Layer, Term
from kanexport.lowering import simplify

Kept = npt.NDArray[np.intp]

WORTH = 1 / 8  # of the sources: to leave out fewer costs more than their functions


def without(layer: Layer) -> tuple[Layer, Kept | None]:
    """The terms alone, of the sources that are looked at, and which these are; the layer itself and None where that
    is all of them."""
    if not layer.terms or any(term.before for term in layer.terms):
        return layer, None
    kept = np.flatnonzero(~_idle(layer))
    if len(kept) > (1 - WORTH) * layer.sources or not len(kept):
        return layer, None
    terms = [_of(term, kept) for term in layer.terms]
    found = tuple(term for term in terms if term is not None)
    if len(found) < len(terms):
        return layer, None
    spreads = layer.nan_spreads[kept]
    part = dataclasses.replace(
        layer, terms=found, mask=layer.mask[kept], nan_spreads=spreads, symbolic=(), before=(), after=()
    )
    return part, kept


def _idle(layer: Layer) -> npt.NDArray[np.bool_]:
    """[I]: sources that add nothing, whatever they are."""
    idle = np.ones(layer.sources, dtype=bool)
    for term in layer.terms:
        for part in simplify.blocks(term):
            idle[part] &= ~simplify.coefficients(layer, term, part=part).any(axis=(1, 2))
    compact = all(isinstance(term, BasisTerm) and term.basis.compact for term in layer.terms)
    return idle & (compact | layer.nan_spreads.all(axis=1))


def _of(term: Term, kept: Kept) -> Term | None:
    """A term for these sources alone; None where its basis is made for all of them."""
    if not isinstance(term, BasisTerm):
        arrays = {name: getattr(term, name)[kept] for name in ("centre", "rate", "coef")}
        return dataclasses.replace(term, **arrays)
    basis = _basis(term.basis, kept)
    return None if basis is None else dataclasses.replace(term, basis=basis, coef=term.coef[kept])


def _basis(basis: Basis, kept: Kept) -> Basis | None:
    if basis.sources is None:
        return basis
    if isinstance(basis, BSpline):
        return dataclasses.replace(basis, extended=basis.extended[kept])
    if isinstance(basis, UniformSpline):
        return UniformSpline(dataclasses.replace(basis.spline, extended=basis.spline.extended[kept]))
    return None
