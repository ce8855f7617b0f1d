"""Elementwise functions: operators compared with numpy, including NaN and infinities."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kanexport.errors import UnknownFunction
from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC, Unary, activation, symbolic
from tests.support.conformance import check_each, check_function, computed
from tests.support.tiers import spread

# Where a value rounds to, and how near operators come. Relative; the absolute part is for zeros.
TOLERANCES = {"float32": (3e-5, 2e-6), "float64": (2e-14, 2e-15)}
WAYS = [("float32", True), ("float32", False), ("float64", False), ("float64", True)]


@pytest.mark.parametrize("table", [ACTIVATIONS, SYMBOLIC], ids=["activations", "symbolic"])
@spread("dtype,exact", WAYS, 2)
def test_operators_compute_the_function(table: dict[str, Unary], dtype: str, exact: bool) -> None:
    relative, absolute = TOLERANCES[dtype]
    check_each(check_function, table.values(), dtype, exact=exact, rtol=relative, atol=absolute)


@pytest.mark.parametrize("name", ["tan", "arcsin", "arccos", "arctan", "arctanh", "cosh", "softplus", "gelu"])
def test_float64_is_exact_beside_zero_one_and_far_away(name: str) -> None:
    """If onnxruntime has a function in float32 only, the graph composes it in float64 from other operators."""
    function = SYMBOLIC.get(name) or ACTIVATIONS[name]
    small, large = 10.0 ** -np.arange(1, 31), [20.0, 88.0, 300.0, 700.0, 709.9, 710.4, 1e5, 1e17, 1e155, 1e300]
    x = np.concatenate([small, 1 - small[:16], large])
    x = np.concatenate([x, -x])
    with np.errstate(all="ignore"):
        expected = function.evaluate(x)
    result = computed(function.emit, x, "float64")
    np.testing.assert_array_equal(np.isfinite(result), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(result[finite], expected[finite], rtol=3e-15, atol=1e-300)


# All inputs of a row can be below -5, and a normalization can amplify small values. gelu's exp(-x^2 / 2) takes the
# rounding of its exponent. Torch too computes 1 + erf for gelu.
TAILS: dict[str, tuple[Callable[[float], float], float, float]] = {
    "silu": (lambda x: x / (1 + math.exp(-x)), -80, 5e-7),
    "sigmoid": (lambda x: 1 / (1 + math.exp(-x)), -80, 5e-7),
    "softplus": (lambda x: math.log1p(math.exp(x)), -80, 5e-7),
    "gelu": (lambda x: x * math.erfc(-x * math.sqrt(0.5)) / 2, -8, 5e-6),
    "gelu_tanh": (lambda x: x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), -8, 3e-5),
}


@pytest.mark.parametrize("name", TAILS)
def test_small_values_have_small_relative_errors_in_float32(name: str) -> None:
    function, start, tolerance = TAILS[name]
    x = np.linspace(start, 10, 5000, dtype=np.float32)
    for exact in (True, False)[: 1 if name == "gelu" else 2]:
        result = computed(activation(name).emit, x, exact=exact)
        np.testing.assert_allclose(result, [function(float(v)) for v in x], rtol=tolerance, atol=1e-35)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    for lookup, name, text in (
        (symbolic, "xsinx", "symbolic function 'xsinx'"),
        (symbolic, ["sin"], "symbolic function"),
        (activation, "swish", "base activation"),
    ):
        with pytest.raises(UnknownFunction, match=text) as caught:
            lookup(name)
        assert "sin" in caught.value.hint


def test_lists_of_activations_in_pages_and_in_the_web_ui_are_complete() -> None:
    root = Path(__file__).parents[3]
    for file, pattern in (
        ("docs/reference/export-options.md", r"Activations are ([\w, ]+)\."),
        ("docs/reference/architecture-file.md", r"Name of an activation: ([\w, ]+);"),
        ("service/kanserve/ui/static/charts/edge.js", r"BASES = new Set\(\[([^\]]+)  'prelu'"),
    ):
        (listed,) = re.findall(pattern, (root / file).read_text())
        assert re.findall(r"\w+", listed.replace(" and ", " ")) == list(ACTIVATIONS), file
