"""Tests of `ir/norms.py`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.errors import InvalidKan
from kanexport.ir import norms
from kanexport.ir.norms import FourierFeatures, LayerNorm, NormOfGroups
from kanexport.verify import float64_reference
from tests.support.command_line import checkpoint
from tests.support.conformance import DTYPES, check_step
from tests.support.small_checkpoints import normal, read


@settings(max_examples=settings.default.max_examples // 10)
@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_what_a_clamped_network_means(tmp_path_factory: pytest.TempPathFactory, seed: int, row: list[float]) -> None:
    folder = tmp_path_factory.mktemp("means")
    kan, _ = read(checkpoint(folder / "m.safetensors", (3, 4, 2), seed=seed))
    low, high = norms.limits(kan.layers[0])
    assert low.tolist() == pytest.approx([-1] * 3, abs=1e-6)
    assert high.tolist() == pytest.approx([1] * 3, abs=1e-6)
    x = np.array([row])
    result = float64_reference.evaluate(norms.clamped(kan), x).y
    np.testing.assert_array_equal(result, float64_reference.evaluate(kan, np.clip(x, low, high)).y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_of_whole_rows(dtype: str) -> None:
    # Frequencies whose products are exact: those of 1e10 have no digit left otherwise.
    check_step(FourierFeatures(0.5 * np.eye(3), np.zeros(3), normal(3, 6, 3), normal(4, 3)), 3, dtype)
    check_step(NormOfGroups(LayerNorm(np.array([2.0]), np.array([0.5]), 1e-5), 3), 3, dtype)
    with pytest.raises(InvalidKan):
        FourierFeatures(normal(1, 3, 4), normal(2, 4), normal(3, 4, 3), normal(4, 3))
