"""Fitted curves: within their bounds, monotone, and nearest to the target curve."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline, Repeated
from kanexport.bases.gaussian import Gaussian
from kanexport.bases.piecewise_linear import Hats
from kanexport.bases.polynomial import chebyshev
from kanexport.edit import refit
from kanexport.edit.edge import Edge
from kanexport.errors import ExportError
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer


def edge(basis: object, seed: int = 0, *, base: bool = True) -> Edge:
    """An edge of a layer of 3 sources and 2 destinations, with random coefficients."""
    rng = np.random.default_rng(seed)
    terms = [BasisTerm(basis, rng.normal(size=(3, 2, basis.functions)))]
    if base:
        terms.append(BasisTerm(Activation(elementwise.activation("silu")), rng.normal(size=(3, 2, 1))))
    mask = np.full((3, 2), 0.5)
    return Edge(Layer(tuple(terms), mask, np.zeros(2), np.zeros((3, 2), bool)), (0, 2, 1))


def knots(seed: int, count: int = 14) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).uniform(0.1, 1, size=(3, count)), axis=1)


UNIFORM = BSpline(np.tile(np.linspace(-2, 2, 12), (3, 1)), 3)
SPLINES = [*(BSpline(knots(degree), degree) for degree in (1, 2, 3, 4, 5)), UNIFORM]


@pytest.mark.parametrize("basis", [*SPLINES, Hats(8, 4.0)])
def test_a_limited_curve_is_within_its_bounds_on_the_grid_and_a_monotone_one_monotone(basis: object) -> None:
    before = edge(basis)
    fitted = refit.clamp(before, -0.3, 0.4)
    x = np.linspace(*before.grid(), 5001)
    values = Edge(fitted.layer, before.at).values(x)
    assert values.min() >= -0.3 - 1e-12
    assert values.max() <= 0.4 + 1e-12
    assert np.abs(np.clip(before.values(x), -0.3, 0.4) - values).max() == pytest.approx(fitted.error_max, rel=0.02)
    for up, sign in ((True, 1), (False, -1)):
        fitted = refit.monotone(before, up=up)
        values = Edge(fitted.layer, before.at).values(x)
        assert (np.diff(values) * sign >= -1e-12).all()
        assert np.ptp(values) > 0


def test_the_monotone_curve_is_the_nearest_with_monotone_coefficients() -> None:
    """scipy minimizes the same distance over the coefficients, with its general solver."""
    before = edge(SPLINES[2], seed=3)
    fitted = refit.monotone(before, up=True)
    x, weights = refit.grid_points(before)
    design, target = before.design(before.layer.terms[0], x), before.values(x)

    def distance(values: np.ndarray) -> float:
        return float(np.sum(weights * (values - target) ** 2))

    k, least = design.shape[1], refit.RISE * np.ptp(before.values(np.linspace(*before.grid(), refit.CHECKED)))
    found = optimize.minimize(
        lambda c: distance(design @ c),
        np.linspace(-1, 1, k),
        constraints=[{"type": "ineq", "fun": lambda c: np.diff(c) - least}],
        options={"ftol": 1e-14, "maxiter": 2000},
    )
    assert distance(Edge(fitted.layer, before.at).values(x)) == pytest.approx(found.fun, rel=1e-5)


def test_a_curve_that_meets_the_condition_stays() -> None:
    spline = edge(SPLINES[2], base=False)
    coef = spline.layer.terms[0].coef.copy()
    coef[2, 1] = np.sort(coef[2, 1])
    layer = dataclasses.replace(spline.layer, terms=(dataclasses.replace(spline.layer.terms[0], coef=coef),))
    assert refit.monotone(Edge(layer, spline.at), up=True).error_max < 1e-12
    assert refit.clamp(Edge(layer, spline.at), -100, 100).error_max < 1e-12


def test_points_move_the_curve_and_what_they_leave_free_stays() -> None:
    before = edge(UNIFORM)
    x = np.array([-0.8, -0.7])
    fitted = refit.points(before, x, np.array([3.0, -1.0]))
    after = Edge(fitted.layer, before.at)
    assert fitted.error_max < 1e-12
    assert after.values(x) == pytest.approx([3, -1])
    high = before.grid()[1]
    assert after.values(np.array([high])) == pytest.approx(before.values(np.array([high])))
    far = np.array([50.0])
    assert after.values(far) == pytest.approx(before.values(far))  # the base branch


def test_more_points_than_coefficients_have_a_residual() -> None:
    before = edge(SPLINES[0])
    x = np.linspace(*before.grid(), 200)
    fitted = refit.points(before, x, np.sign(x - 2))
    values = Edge(fitted.layer, before.at).values(x)
    assert fitted.error_max == pytest.approx(np.abs(values - np.sign(x - 2)).max())
    assert fitted.error_max > 0.1
    assert fitted.error_rms < fitted.error_max


@pytest.mark.parametrize("basis", [SPLINES[2], Gaussian(np.linspace(-2, 2, 9), 0.5), chebyshev(6), Hats(8, 4.0)])
def test_a_curve_is_fitted_in_its_basis(basis: object) -> None:
    before = edge(basis)
    x, weights = refit.grid_points(before)
    target = before.values(x) + before.design(before.layer.terms[0], x) @ np.linspace(0, 1, basis.functions)
    assert refit.nearest(before, target, x, weights).error_max < 1e-9


def test_a_basis_without_bounds_and_a_point_outside_the_grid_are_rejected() -> None:
    repeated = BSpline(np.tile([0.0, 1, 2, 3, 3, 4, 5, 6, 7], (3, 1)), 2, Repeated.TERM)
    for basis in (Gaussian(np.linspace(-2, 2, 9), 0.5), chebyshev(6), repeated):
        for fit in (lambda own: refit.clamp(own, 0, 1), lambda own: refit.monotone(own, up=True)):
            with pytest.raises(ExportError, match="do not bound its curve") as error:
                fit(edge(basis))
            assert error.value.code == "edit-not-supported"
    with pytest.raises(ExportError, match=r"the point x = 9 is outside the grid"):
        refit.points(edge(UNIFORM), np.array([0.0, 9.0]), np.zeros(2))
