"""Facts of edges hold for values and slopes on dense points, and are close to them."""

from __future__ import annotations

import numpy as np
import pytest

from kanexport.bases.bspline import BSpline, Repeated
from kanexport.bases.gaussian import Gaussian
from kanexport.certify.edges import Edges, Table
from kanexport.errors import InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from tests.support.spline_networks import DESTINATIONS, SOURCES, spline_layer


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_the_facts_hold_and_are_close(degree: int) -> None:
    """The box reaches beyond the knots on both sides."""
    edges = Edges.of(spline_layer(degree))
    low, high = np.full(SOURCES, -4.0), np.full(SOURCES, 6.0)
    x = np.sort(np.random.default_rng(1).uniform(low, high, (40_000, SOURCES)), axis=0)
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
    other = BasisTerm(Gaussian(np.linspace(-2, 2, 5), 1.0), np.ones((SOURCES, DESTINATIONS, 5)))
    repeated = BSpline(np.tile([0.0, 1, 2, 2, 2, 3, 4, 5], (SOURCES, 1)), 2, Repeated.TERM)
    steps = BasisTerm(repeated, np.ones((SOURCES, DESTINATIONS, 5)))
    for term, message in ((other, "the basis gaussian has no known bounds"), (steps, "repeated or decreasing knots")):
        changed = Layer((term,), known.mask, known.bias, known.nan_spreads)
        with pytest.raises(InvalidKan, match=message) as caught:
            Edges.of(changed)
        assert caught.value.code == "certificate-not-supported"
