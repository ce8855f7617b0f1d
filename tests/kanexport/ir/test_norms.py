"""Tests of `ir/norms.py`."""

import numpy as np
import pytest

from kanexport.errors import InvalidKan
from kanexport.ir.norms import LayerNorm, NormOfGroups
from kanexport.ir.steps import FourierFeatures
from tests.support.conformance import DTYPES, check_step
from tests.support.small_checkpoints import normal


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_of_whole_rows(dtype: str) -> None:
    # Frequencies whose products are exact: those of 1e10 have no digit left otherwise.
    check_step(FourierFeatures(0.5 * np.eye(3), np.zeros(3), normal(3, 6, 3), normal(4, 3)), 3, dtype)
    check_step(NormOfGroups(LayerNorm(np.array([2.0]), np.array([0.5]), 1e-5), 3), 3, dtype)
    with pytest.raises(InvalidKan):
        FourierFeatures(normal(1, 3, 4), normal(2, 4), normal(3, 4, 3), normal(4, 3))
