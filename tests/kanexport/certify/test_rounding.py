"""Bounds of float32 errors: of steps, and of networks without a bound. Whole graphs are in test_certificate.py."""

import numpy as np
import pytest

from kanexport.bases.bspline import BSpline
from kanexport.certify import rounding
from kanexport.certify.edges import Edges, Table
from kanexport.errors import InvalidKan
from kanexport.ir.model import BasisTerm, Layer
from kanexport.ir.scaling import Standardize
from kanexport.ir.steps import Affine
from tests.support.conformance import Emitted


def test_errors_of_steps() -> None:
    rng = np.random.default_rng(0)
    scale, shift = rng.uniform(0.1, 5, 4), 1000 * rng.normal(size=4)
    x = rng.normal(scale=300, size=(2000, 4)).astype(np.float32)
    exact = x.astype(np.float64)
    affine = Affine(scale, shift)
    error = np.abs(Emitted(affine.emit, 4, (4,), "float32", exact=False)(x) - affine.evaluate(exact))
    assert (error <= rounding.of_affine(scale, shift, np.abs(exact).max(axis=0))).all()
    scaler = Standardize(shift, scale)
    error = np.abs(Emitted(scaler.emit, 4, (4,), "float32", exact=False)(x) - scaler.evaluate(exact))
    assert (error <= rounding.of_scaler(shift, scale, exact.min(axis=0), exact.max(axis=0))).all()


def test_layers_without_a_bound() -> None:
    for knots, coefficient, message in (
        ([0.0, 1, 2, 2 + 1e-7, 3, 4, 5, 6], 1.0, "float32 does not separate them"),
        (np.arange(8.0), 1e30, "may exceed float32"),
    ):
        term = BasisTerm(BSpline(np.array([knots], dtype=np.float64), 3), np.full((1, 1, 4), coefficient))
        layer = Layer((term,), np.ones((1, 1)), np.zeros(1), np.ones((1, 1), dtype=bool))
        with pytest.raises(InvalidKan, match=message):
            rounding.of_sums(Table.of(Edges.of(layer), np.zeros(1), np.ones(1)), np.zeros(1), np.ones(1))
