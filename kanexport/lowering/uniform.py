"""Layers whose knots stand at equal distances, but for rounding: which they are, and what is lowered in their place.

A closed form takes a third of the operators of the recursion on stored knots (`bases/uniform.py`). How far it is off
depends on the network behind it as well, so whoever asks for it has to prove the graph; the pipeline does, and falls
back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform import DEGREES, NEAR, UniformSpline, departure
from kanexport.form.ir import BasisTerm, Kan, Term
from kanexport.lowering import cost
from kanexport.lowering.simplify import FittedTerm


def layers(kan: Kan, dtype: str) -> dict[int, float]:
    """The numbers of the layers that may be taken for uniform and have no closed form without, and how far their knots
    are from it, in cells."""
    if np.dtype(dtype) != np.float32:
        return {}
    # Layers of few sources are faster in another form, which has the stored knots.
    wide = {
        at: layer for at, layer in enumerate(kan.layers) if layer.sources > cost.FEW_SOURCES or not cost.narrow(layer)
    }
    splines = {at: [one for term in layer.terms if (one := _near(term))] for at, layer in wide.items()}
    return {at: max(map(departure, found)) for at, found in splines.items() if found}


def taken(kan: Kan, chosen: Collection[int]) -> Kan:
    """The network with the splines of these layers in closed form."""
    if not chosen:
        return kan
    changed = [
        dataclasses.replace(layer, terms=tuple(map(_changed, layer.terms))) if at in chosen else layer
        for at, layer in enumerate(kan.layers)
    ]
    return dataclasses.replace(kan, layers=tuple(changed))


def _near(term: Term) -> BSpline | None:
    """The splines of a term, if they may be taken for uniform and have no closed form without."""
    basis = term.basis if isinstance(term, BasisTerm) else None
    if not isinstance(basis, BSpline) or basis.degree not in DEGREES or basis.closed_form(np.float32):
        return None
    return basis if departure(basis) <= NEAR else None


def _changed(term: Term) -> Term:
    spline = _near(term)
    if spline is None or not isinstance(term, BasisTerm):
        return term
    basis = UniformSpline(spline)
    return FittedTerm(basis, term.coef, term.before, fit=basis.fit)


def choices(away: Mapping[int, float]) -> list[tuple[int, ...]]:
    """Which of the layers that `layers` finds to try together, the most first, none of them last. Errors of the
    first layer go through all others."""
    every = tuple(away)
    return list(dict.fromkeys([every, every[1:], ()]))
