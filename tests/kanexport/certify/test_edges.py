"""Facts of edges hold for values and slopes on dense points, and are close to them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kanexport.bases.bspline import BSpline, Repeated
from kanexport.certify.edges import Edges, Table
from kanexport.errors import InvalidKan
from kanexport.graph import precision
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.quantized_basis import Stepped
from kanexport.ir.steps import Affine
from tests.support.sample_networks import DESTINATIONS, SOURCES, spline_layer


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_the_facts_hold_and_are_close(degree: int) -> None:
    """The box reaches beyond the knots on both sides."""
    edges = Edges.of(spline_layer(degree))
    low, high = np.full(SOURCES, -4.0), np.full(SOURCES, 6.0)
    x = np.sort(np.random.default_rng(1).uniform(low, high, (8_000, SOURCES)), axis=0)
    values = edges.values(x)
    slopes = np.diff(values, axis=0) / np.diff(x, axis=0)[:, :, None]
    lowest, highest, least, most = Table.of(edges, low, high).facts()
    assert (lowest <= values.min(axis=0)).all()
    assert (highest >= values.max(axis=0)).all()
    noise = 1e-6 * np.abs(slopes).max()
    assert (least <= slopes.min(axis=0) + noise).all()
    assert (most >= slopes.max(axis=0) - noise).all()
    assert (highest - lowest <= 1.02 * np.ptp(values, axis=0) + 1e-9).all()
    assert (most - least <= 1.1 * np.ptp(slopes, axis=0) + 1e-6).all()


def test_other_functions_are_refused() -> None:
    known = spline_layer(3)
    repeated = BSpline(np.tile([0.0, 1, 2, 2, 2, 3, 4, 5], (SOURCES, 1)), 2, Repeated.TERM)
    steps = BasisTerm(repeated, np.ones((SOURCES, DESTINATIONS, 5)))
    spline = known.terms[0]
    assert isinstance(spline, BasisTerm)
    own = dataclasses.replace(spline, pre_steps=(Affine(np.ones(SOURCES), np.ones(SOURCES)),))
    half = dataclasses.replace(spline, stored=precision.HALF)
    bytes_basis = BasisTerm(Stepped(spline.basis, 0.01), spline.coef)
    for term, message in (
        (steps, "repeated or decreasing knots"),
        (own, "the term bspline has separate steps"),
        (half, "the coefficients of bspline are stored as half"),
        (bytes_basis, "the basis bspline has no known bounds"),
    ):
        changed = Layer((term,), known.mask, known.bias, known.nan_spreads)
        with pytest.raises(InvalidKan, match=message) as caught:
            Edges.of(changed)
        assert caught.value.code == "certificate-not-supported"
