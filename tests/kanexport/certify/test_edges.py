"""Facts of edges hold for values and slopes on dense points, and are close to them."""

import dataclasses

import numpy as np
import pytest

from kanexport.bases.bspline import BSpline, Repeated
from kanexport.certify.edges import Edges
from kanexport.errors import InvalidKan
from kanexport.graph import precision
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.quantized_basis import Stepped
from kanexport.ir.steps import Affine
from tests.support.sample_networks import DESTINATIONS, SOURCES, spline_layer


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
