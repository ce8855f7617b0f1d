"""pykan's singularity-avoiding functions: formulas, operators, and whole models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import InvalidKan, OptionError
from kanexport.functions.elementwise import SYMBOLIC
from kanexport.functions.regularized import BROKEN, avoiding
from tests.support.conformance import check_each, computed, edge_values
from tests.support.small_checkpoints import beside_forward, exported, reading, refused
from tests.support.tiers import full, spread

NAMES = [name for name in SYMBOLIC if name not in (BROKEN, "sigmoid", "cosh")]
SAME = {"x", "x^2", "x^3", "x^4", "x^5", "abs", "sin", "cos", "tanh", "sgn", "arctan", "0", "gaussian"}
LIMITS = [1.0, 2.5, 10.0, 1000.0]


def upstream(name: str, x: float, limit: float) -> float:
    """kan/utils.py by cases, for finite x."""
    size, sign = abs(x), (x > 0) - (x < 0)
    if name.startswith("1/x") and name != "1/x^0.5":
        n = int(name[4:] or 1)
        h = 1 / limit ** (1 / n)
        return (limit / h * x if n % 2 else limit) if size < h else 1 / x**n
    if name in ("sqrt", "x^0.5"):
        h = 1 / limit**2
        return h / limit * x if size < h else math.sqrt(size) * sign
    if name in ("1/sqrt(x)", "1/x^0.5"):
        return limit if size < 1 / limit**2 else 1 / math.sqrt(size)
    if name == "log":
        return -limit if size < math.exp(-limit) else math.log(size)
    if name == "tan":
        delta, clip = math.pi / 2 - math.atan(limit), x % math.pi
        return -limit / delta * (clip - math.pi / 2) if abs(clip - math.pi / 2) < delta else math.tan(clip)
    if name == "arctanh":
        return limit * sign if size > math.tanh(limit) - 1e-4 else math.atanh(x)
    if name in ("arcsin", "arccos"):
        return getattr(math, name.replace("arc", "a"))(min(1.0, max(-1.0, x)))
    if name == "exp":
        return limit if x > math.log(limit) else math.exp(x)
    raise AssertionError(name)


@pytest.mark.parametrize("limit", LIMITS)
def test_evaluation_follows_pykan(limit: float) -> None:
    small = 10.0 ** -np.arange(1, 9)
    x = np.concatenate([np.linspace(-6, 6, 601), small, 1 - small[:4], [80.0, 1e4]])
    x = np.concatenate([x, -x])
    x = x[(x < 700) & (x != 0)]  # pykan's log is minus the largest number at zero, where e^-T is 0

    def check(name: str) -> None:
        function = avoiding(name, limit)
        expected = np.array([upstream(name, v, limit) for v in x.tolist()])
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(function.evaluate(x), expected, rtol=1e-13, atol=1e-13)
        assert function.name == name

    check_each(check, [name for name in NAMES if name not in SAME])
    assert all(avoiding(name, limit) is SYMBOLIC[name] for name in SAME)


def test_inverse_functions_and_powers_are_zero_at_nan() -> None:
    """As in pykan, where torch's sign of NaN is zero. test_conformance.py compares the graphs with `evaluate` there."""
    with np.errstate(all="ignore"):
        zeros = {name for name in NAMES if avoiding(name, 10.0).evaluate(np.array([np.nan]))[0] == 0}
    assert zeros == {"1/x^2", "1/x^4", "1/sqrt(x)", "1/x^0.5", "log", "arctanh", "arcsin", "arccos", "sgn"}


def test_exp_is_nan_where_it_would_overflow() -> None:
    x = np.array([2.0, 3.0, 700.0, 709.7, 709.8, 1e4])
    with np.errstate(all="ignore"):
        expected = avoiding("exp", 10.0).evaluate(x)
    assert expected[1:4].tolist() == [10.0] * 3
    assert np.isnan(expected[4:]).all()
    np.testing.assert_array_equal(np.isnan(computed(avoiding("exp", 10.0).emit, x)), [False] * 4 + [True] * 2)


def check_text(name: str) -> None:
    """The text a client reads, run by Python itself."""
    function = avoiding(name, 10.0)
    names = {"pi": math.pi, "sqrt": math.sqrt, "log": math.log, "tan": math.tan, "exp": math.exp, "abs": abs}
    names |= {"sgn": lambda v: (v > 0) - (v < 0), "arctanh": math.atanh, "arcsin": math.asin, "arccos": math.acos}
    x = np.linspace(-5, 5, 301)
    with np.errstate(all="ignore"):
        expected = function.evaluate(x)
    code = compile(function.expression, "expression", "eval")
    actual = [eval(code, {"__builtins__": {}}, names | {"x": v}) for v in x.tolist()]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_expression_is_the_function() -> None:
    check_each(check_text, [name for name in NAMES if name not in SAME])


def model(pykan: Any, name: str, mask: float = 1.0) -> Any:
    toy = pykan([2, 2, 1], seed=4)
    toy.symbolic(0, 1, 0, name, (1.5, 0.1, -0.7, 0.3), mask)
    toy.tensors["act_fun.0.mask"][1, 0] = 0
    return toy


EXPORTED = ["1/x^3", "1/x^4", "sqrt", "1/sqrt(x)", "log", "arctanh", "arcsin", "exp", "tan"]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=full("combination"))])
@spread("name", EXPORTED, 2)
def test_models_export_and_the_proof_holds(pykan: Any, tmp_path: Path, name: str, dtype: str) -> None:
    path = model(pykan, name).write(tmp_path)
    manifest = exported(path, "singularity=avoid", dtype=dtype)
    source = manifest.source
    assert (source.options_given, beside_forward(source)) == ({"singularity": "avoid"}, {"y_th": "10"})
    (edge,) = manifest.layers[0].symbolic
    assert (edge.function, edge.expression) == (name, avoiding(name, 10.0).expression)
    assert any("pykan cannot compute" in note for note in manifest.notes) == (name == "tan")
    kan = reading(path, "singularity=avoid", "y_th=2.5").kan
    x = np.random.default_rng(0).uniform(-2, 2, size=(40, 2))
    values = edge_values(kan.layers[0], x)[:, 1, 0]
    expected = [-0.7 * upstream(name, 1.5 * u + float(np.float32(0.1)), 2.5) + 0.3 for u in x[:, 1].tolist()]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_the_variant_that_is_broken_in_pykan_is_refused_by_its_edge(pykan: Any, tmp_path: Path) -> None:
    path = model(pykan, BROKEN).write(tmp_path)
    refused(path, "singularity=avoid", kind=InvalidKan, said="edge (0,1,0) uses x^1.5")
    assert reading(path, "singularity=plain").kan.layers[0].symbolic
    manifest = exported(model(pykan, BROKEN, mask=0.0).write(tmp_path), "singularity=avoid")
    assert "edge (0,1,0): its masked symbolic function 'x^1.5' is not exported" in manifest.notes


def test_options_that_do_not_fit_are_refused(pykan: Any, tmp_path: Path) -> None:
    path = model(pykan, "log").write(tmp_path)
    for options, text in (
        (("singularity=maybe",), "maybe"),
        (("y_th=10",), "y_th needs"),
        (("singularity=plain", "y_th=10"), "y_th needs"),
        (("singularity=avoid", "y_th=0"), "y_th"),
        (("singularity=avoid", "y_th=1e12"), "y_th"),
        (("singularity=avoid", "y_th=ten"), "y_th"),
    ):
        refused(path, *options, kind=OptionError, said=text)
