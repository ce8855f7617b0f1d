"""Enclosures of derivatives hold: divided differences of a function are in them (mean value theorem)."""

from collections.abc import Callable

import numpy as np
import pytest

from kanexport.certify import taylor
from kanexport.certify.taylor import Taylor, UnboundedError

INTERVALS = 60
Function = Callable[..., object]

FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "exp": (np.exp, np.exp),
    "log": (lambda x: np.log(x * x + 1.3), lambda x: np.log(x * x + 1.3)),
    "sqrt": (lambda x: np.sqrt(x * x + 0.2), lambda x: np.sqrt(x * x + 0.2)),
    "sin": (lambda x: np.sin(3 * x), lambda x: np.sin(3 * x)),
    "sin of a curve": (lambda x: np.sin(x * x), lambda x: np.sin(x * x)),
    "cos": (lambda x: np.cos(3 * x + 1), lambda x: np.cos(3 * x + 1)),
    "tan": (lambda x: np.tan(x / 4), lambda x: np.tan(x / 4)),
    "tanh": (np.tanh, np.tanh),
    "arctan": (np.arctan, np.arctan),
    "arcsin": (lambda x: np.arcsin(x / 4), lambda x: np.arcsin(x / 4)),
    "arccos": (lambda x: np.arccos(x / 4), lambda x: np.arccos(x / 4)),
    "arctanh": (lambda x: np.arctanh(x / 4), lambda x: np.arctanh(x / 4)),
    "cosh": (np.cosh, np.cosh),
    "sigmoid": (taylor.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "softplus": (taylor.softplus, lambda x: np.log(1 + np.exp(x))),
    "quotient": (lambda x: (x + 1) / (2 + x * x), lambda x: (x + 1) / (2 + x * x)),
    "powers": (lambda x: x**5 - x**2 + (x**2 + 1) ** -1.5, lambda x: x**5 - x**2 + (x**2 + 1) ** np.longdouble(-1.5)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_divided_differences_are_enclosed(name: str) -> None:
    enclose, function = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    low = rng.uniform(-3, 2.5, INTERVALS)
    high = low + 10.0 ** rng.uniform(-1.5, -0.3, INTERVALS)
    with np.errstate(all="ignore"):
        bounds = enclose(Taylor.source(low, high))
    assert isinstance(bounds, Taylor)
    # Points that are apart, so that differences keep their digits.
    places = (np.arange(4) + rng.uniform(0, 0.5, (20, 4, INTERVALS)).transpose(0, 2, 1)).transpose(0, 2, 1) / 4
    x = (low + (high - low) * places).astype(np.longdouble)
    assert ((x >= low) & (x <= high)).all()
    table = np.asarray(function(x))
    for k, (least, most) in enumerate(bounds.coefs):
        noise = 1e-16 * (1 + np.abs(table).max()) * 20.0**k
        assert (table >= least - noise).all()
        assert (table <= most + noise).all()
        table = np.diff(table, axis=1) / (x[:, k + 1 :] - x[:, : x.shape[1] - k - 1])
    values = np.asarray(enclose(Taylor.source(x.astype(np.float64)[0, 0], x.astype(np.float64)[0, 0])).error)
    assert (values < 1e-11).all()


@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_ramps_have_bounds_where_they_begin(exponent: int) -> None:
    low, high = np.array([-2.0, -0.1, 0.0, 0.2]), np.array([-1.0, 0.3, 0.2, 0.4])
    bounds = taylor.relu_power(Taylor.source(low, high), exponent)
    for k, (least, most) in enumerate(bounds.coefs[:exponent]):
        exact = np.maximum([low, high], 0) ** (exponent - k) * [1, exponent, exponent * (exponent - 1) / 2][k]
        assert (least <= exact).all()
        assert (most >= exact).all()
        assert (most <= exact.max(axis=0) + 1e-12).all()
    unknown = bounds.coefs[-1][1][1]
    assert np.isinf(unknown) == (exponent < 3)


def test_other_operations_have_no_bound() -> None:
    for bad in (np.floor, np.cbrt, np.add.reduce, np.sort, lambda x: 2 + x % 2, lambda x: x**x):
        with pytest.raises(UnboundedError):
            bad(Taylor.source(np.zeros(2), np.ones(2)))


def test_conditions_without_an_output_have_no_slope() -> None:
    number = Taylor.source(np.array([-1.0, 1.0]), np.array([0.5, 2.0]))
    result = np.where(number > 0, number, -number)
    assert isinstance(result, Taylor)
    assert np.isinf(result.coefs[1][1][0])
    assert result.coefs[1][1][1] == 1
    assert result.coefs[0][0][0] <= -0.5
