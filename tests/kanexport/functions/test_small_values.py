"""Relative precision of activations near zero. A normalization can amplify small values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from kanexport.functions import elementwise
from tests.support.conformance import computed

TAILS: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "gelu": lambda x: x * math.erfc(-x * math.sqrt(0.5)) / 2,
    "gelu_tanh": lambda x: x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize(("name", "start", "tolerance"), [
    ("silu", -80, 5e-7),
    ("sigmoid", -80, 5e-7),
    ("gelu", -8, 5e-6),  # exp(-x^2 / 2) takes the rounding of its exponent
    ("gelu_tanh", -8, 3e-5),
])  # fmt: skip
def test_relative_errors_in_float32(name: str, start: float, tolerance: float) -> None:
    x = np.linspace(start, 10, 5000, dtype=np.float32)
    result = computed(elementwise.activation(name).emit, x)
    np.testing.assert_allclose(result, [TAILS[name](float(v)) for v in x], rtol=tolerance, atol=1e-35)
