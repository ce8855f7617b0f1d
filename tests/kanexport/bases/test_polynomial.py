"""Polynomial, harmonic and sine bases in float32: exact where plain operators are not."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.bases import polynomial
from kanexport.bases.fourier import Fourier
from kanexport.bases.polynomial import Polynomial
from kanexport.bases.sine import Sine
from kanexport.functions.domain_maps import Range
from tests.support.conformance import Emitted
from tests.support.tiers import spread

RNG = np.random.default_rng(7)
ROWS = np.concatenate([RNG.uniform(-1, 1, (600, 3)) * size for size in (0.001, 1, 4, 12)]).astype(np.float32)


def emitted(basis: Polynomial | Fourier | Sine, x: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """Run the operators of a basis: [B, 3] -> [B, K, 3]."""
    shape = (basis.functions, 3)
    return Emitted(lambda g, value: g.reshape(basis.emit(g, value, 3), 0, *shape), 3, shape, dtype, exact=True)(x)


def error(basis: Polynomial | Fourier | Sine, x: np.ndarray = ROWS) -> float:
    """Largest error of any function, over its own largest value."""
    expected = basis.evaluate(x.astype(np.float64))
    scale = np.abs(expected).max(axis=(0, 2))[None, :, None]
    return float((np.abs(emitted(basis, x) - expected) / np.where(scale == 0, 1, scale)).max())


@pytest.mark.parametrize("degree", [3, 6, 12, 24])
def test_errors_grow_with_the_degree_and_not_with_its_square(degree: int) -> None:
    for basis in (
        polynomial.chebyshev(degree),
        polynomial.legendre(degree),
        polynomial.chebyshev2(degree),
        polynomial.gegenbauer(degree, 2.0),
        polynomial.jacobi(degree, 1.0, 1.0),
        polynomial.jacobi(degree, 0.5, 2.0),
    ):
        assert basis.from_ends
        largest = error(basis)
        assert largest <= 1.5e-7 * (degree + 2), basis
        # The recurrence as it stands does not do it: the ends are where it fails.
        if degree >= 12:
            assert error(dataclasses.replace(basis, from_ends=False)) > 2 * largest, basis


@pytest.mark.parametrize("degree", [3, 12])
def test_other_polynomials_do_without(degree: int) -> None:
    others = polynomial.hermite, polynomial.bessel, polynomial.fibonacci, polynomial.lucas
    for basis in (*(make(degree) for make in others), polynomial.laguerre(degree, 3.0)):
        assert error(basis) <= 3e-7 * (degree + 1), basis


@given(st.floats(-0.9, 4), st.floats(-0.9, 4), st.integers(1, 10))
@settings(max_examples=settings.default.max_examples // 10)
def test_both_emissions_of_jacobi_polynomials_agree(a: float, b: float, degree: int) -> None:
    basis = polynomial.jacobi(degree, a, b)
    x = ROWS[::12].astype(np.float64)
    plain = dataclasses.replace(basis, from_ends=False)
    scale = np.abs(basis.evaluate(x)).max()
    values = emitted(basis, x, "float64")
    np.testing.assert_allclose(values, emitted(plain, x, "float64"), atol=1e-12 * scale)
    np.testing.assert_allclose(values, basis.evaluate(x), atol=1e-12 * scale)


def test_chebyshev_is_what_its_name_says() -> None:
    x = ROWS[::3].astype(np.float64)
    angles = np.arccos(np.tanh(x))[:, None] * np.arange(9)[:, None]
    np.testing.assert_allclose(polynomial.chebyshev(8).evaluate(x), np.cos(angles), atol=1e-13)


def test_saturation_is_exact() -> None:
    """Where tanh is 1 or -1 in float32, so are the polynomials; infinities too."""
    x = np.array([[20.0, -20.0, np.inf], [-np.inf, 30.0, -1e30]], dtype=np.float32)
    signs = np.sign(x)[:, None, :] ** np.arange(8)[:, None]
    np.testing.assert_array_equal(emitted(polynomial.chebyshev(7), x), signs)


@spread("harmonics,reach", itertools.product([1, 8, 16, 17, 300], [3.0, 100.0, 4e4]), 6)
def test_harmonics_far_from_zero(harmonics: int, reach: float) -> None:
    """cos(q x) with q x rounded would be off by q |x| 6e-8: 0.7 in the last case."""
    x = RNG.uniform(-reach, reach, (500, 3)).astype(np.float32)
    assert error(Fourier(harmonics), x) <= (6e-7 if harmonics > 16 else 5e-6)


@pytest.mark.parametrize("reach", [3.0, 100.0, 3e3])
def test_sines_of_any_frequency_far_from_zero(reach: float) -> None:
    x = RNG.uniform(-reach, reach, (500, 3)).astype(np.float32)
    for frequencies in (np.arange(1.0, 9), np.arange(1.0, 9) / 9, RNG.normal(size=8) * 3):
        stored = frequencies.astype(np.float32).astype(np.float64)
        assert error(Sine(stored, RNG.uniform(0, 9, (8, 3))), x) <= 2e-6


def test_a_range_keeps_its_ends(state_error) -> None:
    """A range far from zero: u is exact at both ends, not at zero."""
    basis = polynomial.legendre(12, Range(1000.0, 1001.0))
    x = np.nextafter(np.array([[1000.0, 1001.0, 1000.5]] * 2, dtype=np.float32), np.float32([[0], [2000]]))
    x = np.concatenate([x, RNG.uniform(1000, 1001, (300, 3)).astype(np.float32)])
    result = error(basis, x)
    state_error("polynomials of a range far from zero", result, "legendre of degree 12")
    assert result <= 1e-6
    assert error(dataclasses.replace(basis, from_ends=False), x) > 2 * result
