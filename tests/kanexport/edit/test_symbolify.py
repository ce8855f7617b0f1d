"""Replacement of edges by functions: known forms are recovered, and no error exceeds the tolerance."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.edit import circuit, symbolify
from kanexport.edit.symbolify import Symbolified
from kanexport.errors import InvalidKan, OptionError
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.steps import RowRange
from kanexport.verify import float64_reference
from tests.support.golden_cases import network
from tests.support.tiers import full

Array = npt.NDArray[np.float64]
X = np.random.default_rng(4).uniform(-1, 1, (400, 2))


@pytest.fixture(scope="module")
def hello() -> Kan:
    return network("pykan-hello-pruned")


@pytest.fixture(scope="module")
def found(hello: Kan) -> Symbolified:
    return symbolify.symbolify(hello, X, 1e-2)


def splines(curves: list[Callable[[Array], Array]], low: float, high: float) -> Kan:
    """A layer of cubic splines that interpolate curves, one per source, summed to one output."""
    knots = np.linspace(low - 0.3 * (high - low), high + 0.3 * (high - low), 17)
    basis = BSpline(np.tile(knots, (len(curves), 1)), 3)
    x = np.linspace(low, high, 200)
    values = basis.evaluate(np.tile(x[:, None], (1, len(curves))))
    coef = np.stack([np.linalg.lstsq(values[:, :, i], curve(x), rcond=None)[0] for i, curve in enumerate(curves)])
    shape = (len(curves), 1)
    layer = Layer((BasisTerm(basis, coef[:, None]),), np.ones(shape), np.zeros(1), np.zeros(shape, bool))
    return Kan(len(curves), (layer,))


def test_the_form_of_a_trained_network_is_recovered_and_holds_on_other_rows(hello: Kan, found: Symbolified) -> None:
    """exp(sin(pi a) + b^2), from the outputs of the network only."""
    forms = [(form.candidate.name, form.a, form.b, form.c, form.d) for _, form in sorted(found.forms().items())]
    assert forms == [("sin", math.pi, 0, 1, 0), ("x^2", 1, 0, 1, 0), ("exp", 1, 0, 1, 0)]
    assert found.left == ()
    rows = np.random.default_rng(5).uniform(-1, 1, (2000, 2))
    before, after = (float64_reference.evaluate(kan, rows).y for kan in (hello, found.kan))
    error = float(np.sqrt(((after - before) ** 2).mean()) / before.std())
    assert error < 1e-2
    assert found.error == pytest.approx(error, rel=0.5)
    assert found.held_out < 1e-2


@full("combination")
def test_targets_make_the_form_exact(hello: Kan) -> None:
    targets = np.exp(np.sin(np.pi * X[:, :1]) + X[:, 1:] ** 2)
    exact = symbolify.symbolify(hello, X, 1e-2, targets=targets)
    assert exact.base > 1e-4
    assert exact.error < 1e-12


@full("rare")
def test_it_is_deterministic(hello: Kan, found: Symbolified) -> None:
    again = symbolify.symbolify(hello, X, 1e-2)
    assert again.forms() == found.forms()
    assert again.error == found.error


def test_edges_without_effect_become_constants() -> None:
    kan = splines([np.sin, lambda x: 1e-5 * np.cos(9 * x)], -1, 1)
    result = symbolify.symbolify(kan, X, 1e-2)
    assert result.forms()[0, 1, 0].candidate.name == "0"
    assert result.forms()[0, 0, 0].candidate.name == "sin"
    assert circuit.network(kan, result.forms()).layers[0].mask.tolist() == [[0], [0]]


def test_a_function_that_is_undefined_on_a_part_of_the_grid_is_reported() -> None:
    """The rows are above 0, the grid is not."""
    kan = splines([lambda x: np.log(np.maximum(x + 0.1, 0.05))], -0.2, 2)
    x = np.random.default_rng(6).uniform(0.5, 1.9, (300, 1))
    result = symbolify.symbolify(kan, x, 2e-2, names=("log",))
    assert [form.candidate.name for form in result.forms().values()] == ["log"]
    ((at, low, high),) = result.undefined
    assert (at, low, high) == ((0, 0, 0), pytest.approx(-0.2), pytest.approx(2))
    assert np.isfinite(float64_reference.evaluate(result.kan, x).y).all()


def test_a_function_that_is_undefined_between_rows_is_no_candidate() -> None:
    kan = splines([lambda x: x**2], -2, 2)
    x = np.concatenate([np.linspace(-2, -1, 40), np.linspace(1, 2, 40)])[:, None]
    result = symbolify.symbolify(kan, x, 0.5, names=("1/x", "log", "sqrt"))
    for at, form in result.forms().items():
        assert form.defined(-2, 2), at


def test_tolerances_rows_and_networks_that_are_not_valid(hello: Kan, found: Symbolified) -> None:
    for tolerance in (0.0, -1e-3, math.nan, math.inf):
        with pytest.raises(OptionError, match="expected a positive number") as caught:
            symbolify.symbolify(hello, X, tolerance)
        assert caught.value.code == "tolerance-out-of-range"
    for rows, targets, message in (
        (X[:5], None, r"the rows have shape \[5, 2\]"),
        (np.ones((50, 3)), None, r"the rows have shape \[50, 3\]"),
        (np.full((50, 2), np.nan), None, "the rows have values that are not finite"),
        (X, np.ones((400, 2)), r"the targets have shape \[400, 2\]"),
        (X[:50], np.ones((51, 1)), "there are 51 targets for 50 rows"),
        (X[:50], np.full((50, 1), np.inf), "the targets have values that are not finite"),
    ):
        with pytest.raises(OptionError, match=message):
            symbolify.symbolify(hello, rows, 1e-2, targets=targets)
    rows = np.concatenate([X, [[1.0, 1e200]]])
    with pytest.raises(OptionError, match="not finite for 1 of 401 rows"):
        symbolify.symbolify(found.kan, rows, 1e-2)
    layer = dataclasses.replace(hello.layers[0], pre_steps=(RowRange(),))
    kan = dataclasses.replace(hello, layers=(layer, *hello.layers[1:]))
    with pytest.raises(InvalidKan, match="class B"):
        symbolify.symbolify(kan, X, 1e-2)
    shape = (600, 1)
    term = BasisTerm(Activation(elementwise.activation("silu")), np.ones((*shape, 1)))
    kan = Kan(600, (Layer((term,), np.ones(shape), np.zeros(1), np.zeros(shape, bool)),))
    with pytest.raises(InvalidKan, match="600 edges, expected at most 512"):
        symbolify.symbolify(kan, np.ones((20, 600)), 1e-2)
