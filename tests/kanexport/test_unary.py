"""Every function of the tables: operators against numpy, NaN and infinities included."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kanexport.errors import UnknownFunction
from kanexport.graph import Graph
from kanexport.unary import ACTIVATIONS, SYMBOLIC, Unary, activation, symbolic

FUNCTIONS = [*(("activation", f) for f in ACTIVATIONS.values()), *(("symbolic", f) for f in SYMBOLIC.values())]
FINITE = np.concatenate([np.linspace(-4, 4, 161), [0.5, -0.5, 1.0, -1.0, 1e-3, -1e-3, 0.999, -0.999]])
SPECIAL = np.array([0.0, np.nan, np.inf, -np.inf])


def run(function: Unary, x: np.ndarray) -> np.ndarray:
    g = Graph("f", "float32")
    model = g.build({"f": (function.emit(g, g.input("x", 1)), (1,))})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["f"], {"x": x.astype(np.float32)[:, None]})[0][:, 0]


@pytest.mark.parametrize(("table", "function"), FUNCTIONS, ids=lambda v: getattr(v, "name", v))
def test_operators_compute_the_function(table: str, function: Unary) -> None:
    x = FINITE.astype(np.float32).astype(np.float64)
    with np.errstate(all="ignore"):
        expected = function.evaluate(x)
    found = run(function, x)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=3e-5, atol=2e-6)
    np.testing.assert_array_equal(found[~finite], expected[~finite])


@pytest.mark.parametrize(("table", "function"), FUNCTIONS, ids=lambda v: getattr(v, "name", v))
def test_special_values_follow_the_same_arithmetic(table: str, function: Unary) -> None:
    with np.errstate(all="ignore"):
        expected = function.evaluate(SPECIAL)
    np.testing.assert_allclose(run(function, SPECIAL), expected, rtol=1e-5, atol=2e-6)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownFunction, match="symbolic function 'xsinx'") as caught:
        symbolic("xsinx")
    assert "arctanh" in caught.value.hint
    with pytest.raises(UnknownFunction, match="base activation"):
        activation("swish")
