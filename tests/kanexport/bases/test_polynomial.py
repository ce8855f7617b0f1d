"""Polynomial, harmonic and sine bases in float32: exact where plain operators are not."""

import dataclasses
import itertools

import numpy as np
import pytest

from kanexport.bases import polynomial
from kanexport.bases.fourier import Fourier
from kanexport.bases.polynomial import Polynomial
from kanexport.bases.sine import Sine
from kanexport.functions.domain_maps import Range
from tests.support.conformance import emitted_basis
from tests.support.tiers import spread

RNG = np.random.default_rng(7)
ROWS = np.concatenate([RNG.uniform(-1, 1, (600, 3)) * size for size in (0.001, 1, 4, 12)]).astype(np.float32)


def error(basis: Polynomial | Fourier | Sine, x: np.ndarray = ROWS) -> float:
    """Largest error of any function, over its own largest value."""
    expected = basis.evaluate(x.astype(np.float64))
    scale = np.abs(expected).max(axis=(0, 2))[None, :, None]
    return float((np.abs(emitted_basis(basis, "float32")(x) - expected) / np.where(scale == 0, 1, scale)).max())


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
