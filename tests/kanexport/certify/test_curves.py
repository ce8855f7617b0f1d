"""Bounds of smooth functions hold for differences between close points."""

import itertools

import numpy as np
import pytest

from kanexport.certify import curves


@pytest.mark.parametrize("name", [*curves.BASE, *curves.EDGE])
def test_bounds_of_smooth_functions(name: str) -> None:
    curve = {**curves.EDGE, **curves.BASE}[name]
    ends = np.linspace(-12, 12, 97)
    for low, high in itertools.pairwise(ends):
        x = np.linspace(low, high, 401)
        step = np.diff(x)
        slope = curve.slope(x)
        second = np.diff(slope) / step
        third = np.diff(second) / step[1:]
        scale = np.abs(curve.value(x)).max() + 1
        difference = np.diff(curve.value(x)) / step - (slope[1:] + slope[:-1]) / 2
        assert np.abs(difference).max() <= 1e-3 * scale
        a, b = np.array([low]), np.array([high])
        assert np.abs(slope).max() <= curve.slope_limit(a, b)[0] * (1 + 1e-12)
        assert np.abs(second).max() <= curve.second(a, b)[0] + 1e-9 * scale
        assert np.abs(third).max() <= curve.third(a, b)[0] + 1e-6 * scale
