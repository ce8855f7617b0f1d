"""Function expressions from users: allowed ones compute as in Python, others are rejected."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.detection import registry
from kanexport.errors import ExportError, InvalidKan, OptionError, UnknownFunction
from kanexport.formats import checkpoint
from kanexport.functions.elementwise import SYMBOLIC
from kanexport.functions.expression import FUNCTIONS, MAX_PRODUCT_POWER, MAX_TEXT_CHARACTERS, MAX_TEXT_DEPTH, function
from kanexport.options import Options
from kanexport.pipeline import Request, Result, export
from tests.support.conformance import check_each, computed, edge_values
from tests.support.tiers import full

DTYPES = ("float32", "float64")
X = np.concatenate([np.linspace(-3, 3, 121), [1e-3, -1e-3, 20.0, -20.0]])

# Texts, and the same in numpy.
TEXTS = {
    "x*sin(x)": lambda x: x * np.sin(x),
    "sin(x)": np.sin,
    "-x**2": lambda x: -(x**2),
    "2**x": lambda x: 2.0**x,
    "x**0.5": lambda x: x**0.5,
    "x**-3": lambda x: x**-3.0,
    "x**16 - x**17/1e3": lambda x: x**16 - x**17 / 1e3,
    "(x - 1)*(x + +1)": lambda x: (x - 1) * (x + 1),
    "exp(-x**2/2)/(2*pi)**0.5": lambda x: np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
    "x/(1 + abs(x)) + e - 1e-3": lambda x: x / (1 + np.abs(x)) + math.e - 1e-3,
    "log(x)": np.log,
    "1/x + sgn(x)*arctan(gaussian(x))": lambda x: 1 / x + np.sign(x) * np.arctan(np.exp(-(x**2))),
    "0*x + 3": lambda x: 0 * x + 3,
    "x**0": lambda x: x**0,
    "cosh(tanh(sigmoid(x)))": lambda x: np.cosh(np.tanh(1 / (1 + np.exp(-x)))),
    "tan(arcsin(x/3)) + arccos(x/3)*arctanh(x/4) + sqrt(abs(x))": lambda x: (
        np.tan(np.arcsin(x / 3)) + np.arccos(x / 3) * np.arctanh(x / 4) + np.sqrt(np.abs(x))
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", TEXTS)
def test_texts_compute_what_they_say(text: str, dtype: str) -> None:
    made = function("own", f"  {text} ")
    assert (made.name, made.expression) == ("own", text)
    x = X.astype(dtype).astype(np.float64)
    with np.errstate(all="ignore"):
        expected = TEXTS[text](x)
        np.testing.assert_allclose(made.evaluate(x), expected, rtol=1e-13, atol=1e-13)
        moved = np.abs(made.evaluate(x * (1 + 2 * np.finfo(dtype).eps)) - expected)
    actual = computed(made.emit, x, dtype)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    keep = (np.abs(expected) < 1e30) & np.isfinite(moved)  # not at an end of a domain
    assert keep.sum() > 50
    error, size = np.abs(actual[keep] - expected[keep]), np.maximum(1, np.abs(expected[keep]))
    assert (error <= 4 * moved[keep] + 30 * np.finfo(dtype).eps * size).all()


def trees(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    calls = st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner).map(lambda t: f"{t[0]}({t[1]})")
    exponents = st.integers(-MAX_PRODUCT_POWER - 2, MAX_PRODUCT_POWER + 2)
    powers = st.tuples(inner, exponents).map(lambda t: f"({t[0]})**{t[1]}")
    return st.one_of(pairs, calls, powers, inner.map(lambda t: f"-{t}"))


LEAVES = st.one_of(st.just("x"), st.sampled_from(["pi", "e", "2", "0.5", "1e-2"]), st.floats(0, 9).map(repr))
NUMPY = {name: made.evaluate for name, made in SYMBOLIC.items() if name in FUNCTIONS}
NUMPY |= {"pi": np.float64(math.pi), "e": np.float64(math.e), "number": np.float64}


class _Numbers(ast.NodeTransformer):
    """Numbers become numpy's: Python's own raise an error where numpy is infinite."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Call(ast.Name("number", ast.Load()), [node], [])


@given(st.recursive(LEAVES, trees, max_leaves=10))
def test_random_expressions_compute_what_python_computes(text: str) -> None:
    x = np.linspace(-2, 2, 9)
    tree = ast.fix_missing_locations(_Numbers().visit(ast.parse(text, mode="eval")))
    with np.errstate(all="ignore"):
        value = eval(compile(tree, "text", "eval"), {"__builtins__": {}}, {**NUMPY, "x": x})
        expected = np.broadcast_to(value, x.shape)
    try:
        made = function("own", text)
    except OptionError as error:
        assert re.search("does not depend|a part of it is", error.message)  # noqa: PT017 - one of two ends
        return
    with np.errstate(all="ignore"):
        actual = made.evaluate(x)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-300)


# The letter of \uff58 is one that Python reads as x.
HOSTILE = [
    "__import__('os').system('true')", "().__class__.__bases__", "x.real", "x[0]", "[x for x in (1, 2)]", "lambda x: x",
    "x if x > 0 else 0", "x > 0", "x and 1", "x @ x", "x // 2", "x % 2", "x ^ 2", "~x", "'text'", "True*x", "1j*x",
    "x = 1", "x; x", "print(x)", "sin", "sin()", "sin(x, x)", "sin(x=x)", "sin(*x)", "x(x)", "2(x)", "y", "x^2(x)",
    "f'{x}'", "(x := 2)", "", " ", "x +", "(x", "\x00", "\uff58", "x\n+1", "\x1b[31mx", "# x", "1/0 + x", "log(-1)*x",
    "9**9**9**9*x", "1e999*x", "3", "pi*e", "9" * 400 + "*x", "-" * 400 + "x", "[" + "-" * 400 + "x]",
    "(" * 150 + "x" + ")" * 150 + "+" * 100, "sin(" * (MAX_TEXT_DEPTH + 1) + "x" + ")" * (MAX_TEXT_DEPTH + 1),
    "x+" * MAX_TEXT_CHARACTERS + "x",
]  # fmt: skip


def check_refused(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        function("own", text)
    assert caught.value.hint
    assert len(caught.value.message) < 400


def test_everything_else_is_refused() -> None:
    check_each(check_refused, HOSTILE)
    with pytest.raises(OptionError) as caught:
        function("own", "x^2 + 1")  # as in pykan's names
    assert "**" in caught.value.hint


@given(st.text(max_size=60))
@settings(max_examples=settings.default.max_examples // 5)
def test_any_text_is_a_function_or_a_typed_error(text: str) -> None:
    try:
        made = function("own", text)
    except OptionError:
        return
    with np.errstate(all="ignore"):
        assert made.evaluate(X).shape == X.shape


def model(pykan: Any, name: Any = "xsinx", mask: float = 1.0) -> Any:
    toy = pykan([2, 4, 1], seed=2)
    toy.symbolic(1, 3, 0, name, (1.25, 0.5, -0.5, 0.25), mask)
    toy.tensors["act_fun.1.mask"][3, 0] = 0
    return toy


def exported(folder: Path, toy: Any, *functions: str, **settings: Any) -> Result:
    return export(Request(path=toy.write(folder), repository=folder / "models", functions=functions, **settings))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=full("combination"))])
def test_a_function_of_add_symbolic_is_given_with_the_export(pykan: Any, tmp_path: Path, dtype: str) -> None:
    result = exported(tmp_path, model(pykan), "xsinx = x*sin(x)", dtype=dtype)
    (edge,) = result.manifest.layers[1].symbolic
    assert (edge.function, edge.expression) == ("xsinx", "x*sin(x)")
    assert result.manifest.source.options_given == {"function xsinx": "x*sin(x)"}
    loaded = checkpoint.load(tmp_path / "toy")
    kan = registry.readers()["pykan"].read(loaded, Options.parse((), functions=("xsinx=x*sin(x)",)))
    x = np.random.default_rng(0).normal(size=(20, 4))
    u = 1.25 * x[:, 3] + 0.5
    np.testing.assert_allclose(edge_values(kan.layers[1], x)[:, 3, 0], -0.5 * u * np.sin(u) + 0.25, rtol=0, atol=1e-14)


def refuse(folder: Path, toy: Any, *functions: str, **settings: Any) -> ExportError:
    with pytest.raises(ExportError) as caught:
        exported(folder, toy, *functions, **settings)
    assert not (folder / "models").exists()
    return caught.value


def test_the_error_names_the_edge_and_the_option(pykan: Any, tmp_path: Path) -> None:
    error = refuse(tmp_path, model(pykan, "foo"))
    assert isinstance(error, UnknownFunction)
    assert error.message.endswith("edge (1,3,0) uses the symbolic function 'foo', which is not in the table of pykan")
    assert error.code == "function-unknown"
    assert error.hint.startswith("define it with --function foo=...")


def test_functions_of_one_name_are_told_apart_by_their_edges(pykan: Any, tmp_path: Path) -> None:
    """pykan calls every function that was fixed as an object 'anonymous'."""
    toy = model(pykan, "anonymous")
    toy.symbolic(1, 0, 0, "anonymous", (1, 0, 1, 0))
    result = exported(tmp_path, toy, "anonymous=x**2*cos(x)", "bump=gaussian(x)*x", symbolic=("1,0,0=bump",))
    edges = [(edge.source, edge.function) for edge in result.manifest.layers[1].symbolic]
    assert edges == [(0, "bump"), (3, "anonymous")]
    error = refuse(tmp_path / "..", model(pykan, "sin"), symbolic=("1,3,0=cos",))
    assert "edge (1,3,0) is 'sin' in the file" in error.message


def test_a_masked_edge_of_a_given_function_still_poisons(pykan: Any, tmp_path: Path) -> None:
    loaded = checkpoint.load(model(pykan, "own", mask=0.0).write(tmp_path))
    kan = registry.readers()["pykan"].read(loaded, Options.parse((), functions=("own=log(x)",)))
    assert [edge.mask for edge in kan.layers[1].symbolic] == [0.0]
    assert np.isnan(edge_values(kan.layers[1], np.array([[0, 0, 0, -9.0]]))[0, 3, 0])


WRONG = {
    ("xsinx=x*sin(x)", "xsinx=x"): "twice",
    ("xsinx",): "invalid --function",
    ("=x",): "invalid --function",
    ("xsinx=",): "invalid --function",
    ("xsinx=x*sinn(x)",): "unknown function 'sinn'",
    ("xsinx=x", "other=x"): "no symbolic edge of the model uses",
    ("xsinx=x", "sin=x"): "the table of pykan already has that name",
}


def test_functions_that_do_not_fit_are_refused(pykan: Any, tmp_path: Path) -> None:
    for functions, text in WRONG.items():
        error = refuse(tmp_path, model(pykan), *functions)
        assert isinstance(error, OptionError)
        assert text in error.message
    # A function of one's own has no variant without singularities.
    error = refuse(tmp_path, model(pykan), "xsinx=x*sin(x)", options=("singularity=avoid",))
    assert isinstance(error, InvalidKan)
    assert "edge (1,3,0)" in error.message


def test_a_base_function_can_be_ones_own(pykan: Any, tmp_path: Path) -> None:
    result = exported(tmp_path, pykan([2, 2]), "mine=x*tanh(exp(x))", options=("base_fun=mine",))
    (basis,) = [basis for basis in result.manifest.layers[0].bases if basis.kind == "mine"]
    assert basis.parameters == {"expression": "x*tanh(exp(x))"}
    with pytest.raises(OptionError, match="a base function already has that name"):
        exported(tmp_path, pykan([2, 2]), "SiLU=x", options=("base_fun=SiLU",), name="other")
    with pytest.raises(UnknownFunction, match="base activation 'mine'"):
        exported(tmp_path, pykan([2, 2]), options=("base_fun=mine",), name="other")
