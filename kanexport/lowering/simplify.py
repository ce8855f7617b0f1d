"""What a graph need not compute: dead terms are dropped, masks folded into coefficients."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kanexport.form.ir import BasisTerm, Layer, SymbolicEdge, Term

Array = npt.NDArray[np.float64]


def live(layer: Layer) -> Layer:
    """The layer without the terms that every edge multiplies by zero: a network whose edges
    are all symbolic needs no basis. What such a term does remains: 0 * NaN is NaN."""
    idle = [term for term in layer.terms if _idle(layer, term)]
    spoils = not all(isinstance(term, BasisTerm) and term.basis.compact for term in idle)
    terms = tuple(term for term in layer.terms if term not in idle)
    return dataclasses.replace(layer, terms=terms, nan_spreads=layer.nan_spreads | spoils) if idle else layer


def _idle(layer: Layer, term: Term) -> bool:
    """Whether a term adds nothing to finite values, and to others nothing, or NaN on every edge."""
    if not isinstance(term, BasisTerm) or term.before or (term.coef * layer.mask[:, :, None]).any():
        return False
    if term.basis.compact or layer.nan_spreads.all():
        return True
    with np.errstate(all="ignore"):
        values = term.basis.evaluate(np.array([[np.nan], [np.inf], [-np.inf]]) * np.ones(layer.sources))
    return not np.isfinite(values).all(axis=1).any()


def coefficients(layer: Layer, term: Term, scale: float = 1.0) -> Array:
    """[I, O, K]: a term's coefficients with the layer's mask and a scale of the basis folded in."""
    with np.errstate(over="ignore"):  # the graph refuses what is not finite
        return np.asarray(term.coef * layer.mask[:, :, None] * scale)


def outer(edges: list[SymbolicEdge]) -> tuple[list[float], list[float]]:
    """Scale and bias outside each symbolic function, with the edge's mask folded in."""
    return [edge.mask * edge.c for edge in edges], [edge.mask * edge.d for edge in edges]
