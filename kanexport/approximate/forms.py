"""A network with some of its branches in fewer bits: what is served, and whose curves are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from kanexport.form.ir import BasisTerm, Kan, Layer, Term
from kanexport.form.stepped import Stepped, stepped
from kanexport.lowering import simplify
from kanexport.operators import stored
from kanexport.shared.approximation import AS_IS, BYTES, HALVES, SUMS

STORED = {SUMS: stored.BYTES, BYTES: stored.BYTES, HALVES: stored.HALF}
Forms = Mapping[tuple[int, int], str]  # by layer and term; AS_IS where there is none


def possible(layer: Layer, term: Term, asked: str) -> tuple[str, ...]:
    """The forms that a branch may have where so many bits are asked for, fewest first."""
    if term not in simplify.live(layer).terms or not isinstance(term, BasisTerm):
        return (AS_IS,)  # functions that every edge shifts for itself are numbers of three kinds; they stay
    if asked == HALVES:
        return (HALVES, AS_IS)
    fits = layer.sources * term.functions <= stored.DEPTH
    sums = (SUMS,) if fits and stepped(term.basis, layer.sources, _room(layer, term)) else ()
    halves = (HALVES,) if np.abs(simplify.coefficients(layer, term)).max() <= stored.LARGEST_HALF else ()
    return (*sums, BYTES, *halves, AS_IS)


def served(kan: Kan, forms: Forms) -> Kan:
    """What the graph means: coefficients rounded, and bases in steps where sums are of bytes."""
    layers = []
    for at, layer in enumerate(kan.layers):
        terms = [_term(layer, term, forms.get((at, index), AS_IS)) for index, term in enumerate(layer.terms)]
        layers.append(dataclasses.replace(layer, terms=tuple(terms)))
    return dataclasses.replace(kan, layers=tuple(layers))


def curves(served: Kan) -> Kan:
    """The same coefficients with the bases as they are: the functions whose values at the edges are told."""
    layers = [dataclasses.replace(layer, terms=tuple(map(_plain, layer.terms))) for layer in served.layers]
    return dataclasses.replace(served, layers=tuple(layers))


def _plain(term: Term) -> Term:
    if isinstance(term, BasisTerm) and isinstance(term.basis, Stepped):
        return dataclasses.replace(term, basis=term.basis.basis)
    return term


def _term(layer: Layer, term: Term, form: str) -> Term:
    if form == AS_IS or not isinstance(term, BasisTerm):
        return term
    how = STORED[form]
    mask = layer.mask[:, :, None]
    found = stored.rounded(simplify.coefficients(layer, term), how)
    with np.errstate(divide="ignore", invalid="ignore"):
        coef = np.where(mask == 0, term.coef, found / mask)
    basis = stepped(term.basis, layer.sources, _room(layer, term)) if form == SUMS else None
    return dataclasses.replace(term, coef=coef, stored=how, basis=basis or term.basis)


def _room(layer: Layer, term: BasisTerm) -> int:
    """For a table: half of what the coefficients take, a byte each; of small layers a page."""
    return max(term.functions * layer.mask.size // 2, 32768)
