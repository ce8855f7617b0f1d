"""Tests of `ir/clamping.py`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.ir import clamping
from kanexport.verify import float64_reference
from tests.support.command_line import checkpoint
from tests.support.small_checkpoints import read


@settings(max_examples=settings.default.max_examples // 10)
@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_what_a_clamped_network_means(tmp_path_factory: pytest.TempPathFactory, seed: int, row: list[float]) -> None:
    folder = tmp_path_factory.mktemp("means")
    kan, _ = read(checkpoint(folder / "m.safetensors", (3, 4, 2), seed=seed))
    low, high = clamping.limits(kan.layers[0])
    assert low.tolist() == pytest.approx([-1] * 3, abs=1e-6)
    assert high.tolist() == pytest.approx([1] * 3, abs=1e-6)
    x = np.array([row])
    result = float64_reference.evaluate(clamping.clamped(kan), x).y
    np.testing.assert_array_equal(result, float64_reference.evaluate(kan, np.clip(x, low, high)).y)
