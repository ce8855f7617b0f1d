"""Ranges and float32 errors of emitted operators hold for the graph that the same code builds."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kanexport.certify.operators import Bounds
from kanexport.certify.taylor import UnboundedError
from tests.support.conformance import Emitted

CASES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[np.ndarray], np.ndarray]]] = {
    "clip": (lambda g, x: g.clip(g.mul(x, g.const(1 / 3)), -0.3, 0.7), lambda x: np.clip(x / 3, -0.3, 0.7)),
    "ramp": (lambda g, x: g.hard_sigmoid(x, alpha=0.3, beta=0.1), lambda x: np.clip(0.3 * x + 0.1, 0, 1)),
    "power": (lambda g, x: g.pow(x, 3.0), lambda x: x**3),
    "difference": (lambda g, x: g.sub(x, g.mul(g.mul(x, x), x)), lambda x: x - x**3),
    "cube": (lambda g, x: g.cube(x), lambda x: x**3),
    "condition": (
        lambda g, x: g.op("Where", g.op("Less", x, g.const(0.1)), g.op("Neg", x), g.mul(x, g.const(0.7))),
        lambda x: np.where(x < 0.1, -x, 0.7 * x),
    ),
    "result of a comparison": (lambda g, x: g.cast(g.op("Greater", x, g.const(0.0))), lambda x: (x > 0).astype(float)),
    "erf": (lambda g, x: g.op("Exp", g.op("Erf", x)), lambda x: np.exp(np.vectorize(math.erf)(x))),
    "reciprocal": (lambda g, x: g.op("Reciprocal", g.add(g.mul(x, x), g.const(0.3))), lambda x: 1 / (x * x + 0.3)),
    "columns": (lambda g, x: g.gather(x, [2, 0, 1], axis=1), lambda x: x[:, [2, 0, 1]]),
    "slice": (
        lambda g, x: g.op("Concat", g.slice(x, 1, 3, axis=1), g.slice(x, 0, 1, axis=1), axis=1),
        lambda x: x[:, [1, 2, 0]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_ranges_and_errors_hold(name: str) -> None:
    emit, function = CASES[name]
    ends = np.linspace(-2, 2, 41)
    low, high = np.repeat(ends[:-1, None], 3, axis=1), np.repeat(ends[1:, None], 3, axis=1)
    bounds = emit(Bounds(small_values=False), Bounds.source(low, high))
    graph = Emitted(emit, 3, (3,), "float32", exact=False)
    rng = np.random.default_rng(0)
    for _ in range(30):
        x = np.clip(rng.uniform(low, high).astype(np.float32).astype(np.float64), low, high)
        x = x.astype(np.float32).astype(np.float64)
        exact, found = function(x), graph(x)
        assert (exact >= bounds.coefs[0][0] - 1e-6).all()
        assert (exact <= bounds.coefs[0][1] + 1e-6).all()
        assert (np.abs(found - exact) <= bounds.error + 1e-12).all()


def test_other_operators_have_no_bound() -> None:
    g = Bounds(small_values=False)
    with pytest.raises(UnboundedError, match="the operator Round"):
        g.op("Round", g.const(1.5))
