"""Fits of one function to a curve: known constants, domains, and functions that cannot fit."""

import numpy as np
import pytest

from kanexport.edit import curve_fit, library
from kanexport.edit.curve_fit import Form
from tests.support.conformance import check_each

X = np.random.default_rng(1).uniform(0.3, 2.5, 300)
FORMS = [
    ("x", 1.0, 0.0, -2.0, 0.5), ("x^2", 1.0, -1.0, 3.0, 0.2), ("1/x", 1.0, 0.1, -1.5, 2.0),
    ("sqrt", 1.0, -0.2, 2.0, 0.0), ("exp", -1.3, 0.0, 0.7, 1.0), ("log", 1.0, 0.0, 2.0, -1.0),
    ("sin", 2.5, 0.4, 1.5, 0.3), ("tanh", 2.0, -3.0, 1.0, 0.0), ("gaussian", 1.5, -2.0, -1.0, 0.1),
    ("arctan", 3.0, -3.0, 2.0, 1.0), ("arcsin", 0.35, 0.0, 1.0, 0.0), ("arctanh", 0.37, 0.0, 0.5, 0.0),
    ("tan", 0.5, 0.0, 1.0, 0.0), ("1/x^2", 1.0, 0.2, 1.0, 0.0),
]  # fmt: skip


def check_found(item: tuple[str, float, float, float, float]) -> None:
    candidate = library.ALL[item[0]]
    y = Form(candidate, *item[1:]).values(X)
    found = curve_fit.fit(candidate, X, y)
    assert found is not None
    assert np.abs(found.values(X) - y).max() < 1e-4 * y.std()
    assert found.defined(X.min(), X.max())


def test_a_curve_of_the_function_is_found() -> None:
    check_each(check_found, FORMS)
    found = curve_fit.fit(library.ALL["0"], X, X)
    assert found is not None
    assert found.values(X) == pytest.approx(np.full(X.shape, X.mean()))
    assert curve_fit.fit(library.ALL["sin"], np.ones(40), np.ones(40)) is None


def test_a_bend_far_from_the_rows_is_rejected() -> None:
    x = np.linspace(0, 1, 100)
    assert Form(library.ALL["sin"], 1e-3, np.pi / 2, 1e6, -1e6).cancels(x)
    assert not Form(library.ALL["sin"], 1.0, 0.0, 1.0, 0.0).cancels(x)
