"""Tests of `graph/precision.py`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.errors import InvalidKan
from kanexport.graph import precision


@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([1e-30, 1.0, 3e4])
)
def test_rounding_what_was_rounded_changes_nothing(i: int, o: int, k: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.clip(rng.normal(size=(i, o, k)), -2, 2) * size * rng.integers(0, 2, (i, o, k))
    for how in (precision.HALF, precision.BYTES):
        once = precision.rounded(values, how)
        np.testing.assert_array_equal(precision.rounded(once, how), once)
    unit = precision.scales(values)
    assert np.abs(precision.codes(values, unit).astype(int)).max(initial=0) <= precision.LARGEST
    half_a_unit = unit[:, None] * (0.5 + 1e-4)
    assert (np.abs(precision.rounded(values, precision.BYTES) - values) <= half_a_unit)[..., :].all()


def test_what_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidKan, match=r"a weight of 7e\+04 is too large for float16"):
        precision.half(np.array([7e4]))
