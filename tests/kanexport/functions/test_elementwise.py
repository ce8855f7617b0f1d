"""Elementwise functions: operators compared with numpy, including NaN and infinities."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kanexport.errors import UnknownFunction
from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC, Unary, activation, symbolic
from kanexport.graph.builder import Graph

FUNCTIONS = [*(("activation", f) for f in ACTIVATIONS.values()), *(("symbolic", f) for f in SYMBOLIC.values())]
DTYPES = ("float32", "float64")
FINITE = np.concatenate([np.linspace(-4, 4, 161), [0.5, -0.5, 1.0, -1.0, 1e-3, -1e-3, 0.999, -0.999]])
SPECIAL = np.array([0.0, np.nan, np.inf, -np.inf])


# Where a value rounds to, and how near operators come. Relative; the absolute part is for zeros.
TOLERANCES = {"float32": (3e-5, 2e-6), "float64": (2e-14, 2e-15)}
SMALL = 10.0 ** -np.arange(1, 31)
LARGE = np.array([20.0, 88.0, 300.0, 700.0, 709.9, 710.4, 1e5, 1e17, 1e155, 1e300])


def run(function: Unary, x: np.ndarray, dtype: str = "float32") -> np.ndarray:
    g = Graph("f", dtype)
    model = g.build({"f": (function.emit(g, g.input("x", 1)), (1,))})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["f"], {"x": x.astype(dtype)[:, None]})[0][:, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("table", "function"), FUNCTIONS, ids=lambda v: getattr(v, "name", v))
def test_operators_compute_the_function(table: str, function: Unary, dtype: str) -> None:
    x = FINITE.astype(dtype).astype(np.float64)
    with np.errstate(all="ignore"):
        expected = function.evaluate(x)
    result = run(function, x, dtype)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    finite = np.isfinite(expected)
    relative, absolute = TOLERANCES[dtype]
    np.testing.assert_allclose(result[finite], expected[finite], rtol=relative, atol=absolute)
    np.testing.assert_array_equal(result[~finite], expected[~finite])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("table", "function"), FUNCTIONS, ids=lambda v: getattr(v, "name", v))
def test_special_values_follow_the_same_arithmetic(table: str, function: Unary, dtype: str) -> None:
    with np.errstate(all="ignore"):
        expected = function.evaluate(SPECIAL)
    np.testing.assert_allclose(run(function, SPECIAL, dtype), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["tan", "arcsin", "arccos", "arctan", "arctanh", "cosh", "softplus", "gelu"])
def test_float64_is_exact_beside_zero_one_and_far_away(name: str) -> None:
    """If onnxruntime has a function in float32 only, the graph composes it in float64 from other operators."""
    function = SYMBOLIC.get(name) or ACTIVATIONS[name]
    x = np.concatenate([SMALL, 1 - SMALL[:16], LARGE])
    x = np.concatenate([x, -x])
    with np.errstate(all="ignore"):
        expected = function.evaluate(x)
    result = run(function, x, "float64")
    np.testing.assert_array_equal(np.isfinite(result), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(result[finite], expected[finite], rtol=3e-15, atol=1e-300)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownFunction, match="symbolic function 'xsinx'") as caught:
        symbolic("xsinx")
    assert "arctanh" in caught.value.hint
    with pytest.raises(UnknownFunction, match="base activation"):
        activation("swish")
