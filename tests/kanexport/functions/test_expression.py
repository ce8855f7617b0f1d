"""Function expressions from users: allowed ones compute as in Python, others are rejected."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.detection import registry
from kanexport.errors import InvalidKan, OptionError, UnknownFunction
from kanexport.formats import checkpoint
from kanexport.functions.expression import MAX_TEXT_CHARACTERS, MAX_TEXT_DEPTH, function
from kanexport.options import KnownFacts, Options
from tests.support.conformance import check_each, computed, edge_values
from tests.support.small_checkpoints import exported, refused
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


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=full("combination"))])
def test_a_function_of_add_symbolic_is_given_with_the_export(pykan: Any, tmp_path: Path, dtype: str) -> None:
    manifest = exported(model(pykan).write(tmp_path), functions=("xsinx = x*sin(x)",), dtype=dtype)
    (edge,) = manifest.layers[1].symbolic
    assert (edge.function, edge.expression) == ("xsinx", "x*sin(x)")
    assert manifest.source.options_given == {"function xsinx": "x*sin(x)"}
    loaded = checkpoint.load(tmp_path / "toy")
    kan = registry.readers()["pykan"].read(loaded, Options(KnownFacts.parse((), functions=("xsinx=x*sin(x)",))))
    x = np.random.default_rng(0).normal(size=(20, 4))
    u = 1.25 * x[:, 3] + 0.5
    np.testing.assert_allclose(edge_values(kan.layers[1], x)[:, 3, 0], -0.5 * u * np.sin(u) + 0.25, rtol=0, atol=1e-14)
    # A masked edge of such a function spreads NaN.
    loaded = checkpoint.load(model(pykan, "own", mask=0.0).write(tmp_path))
    kan = registry.readers()["pykan"].read(loaded, Options(KnownFacts.parse((), functions=("own=log(x)",))))
    assert np.isnan(edge_values(kan.layers[1], np.array([[0, 0, 0, -9.0]]))[0, 3, 0])


def test_functions_of_one_name_are_told_apart_by_their_edges(pykan: Any, tmp_path: Path) -> None:
    """pykan calls every function that was fixed as an object 'anonymous'."""
    toy = model(pykan, "anonymous")
    toy.symbolic(1, 0, 0, "anonymous", (1, 0, 1, 0))
    functions = "anonymous=x**2*cos(x)", "bump=gaussian(x)*x"
    manifest = exported(toy.write(tmp_path), functions=functions, symbolic=("1,0,0=bump",))
    assert [(edge.source, edge.function) for edge in manifest.layers[1].symbolic] == [(0, "bump"), (3, "anonymous")]
    path = model(pykan, "sin").write(tmp_path)
    refused(path, symbolic=("1,3,0=cos",), said="edge (1,3,0) is 'sin' in the file")


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
    path = model(pykan).write(tmp_path)
    for functions, text in WRONG.items():
        refused(path, functions=functions, kind=OptionError, said=text)
    # A function of one's own has no variant without singularities.
    own = ("xsinx=x*sin(x)",)
    refused(path, "singularity=avoid", functions=own, kind=InvalidKan, said="edge (1,3,0)")
    unknown = "edge (1,3,0) uses the symbolic function 'xsinx', which is not in the table of pykan"
    error = refused(path, kind=UnknownFunction, said=unknown, hint="define it with --function xsinx=...")
    assert error.code == "function-unknown"


def test_a_base_function_can_be_ones_own(pykan: Any, tmp_path: Path) -> None:
    path = pykan([2, 2]).write(tmp_path)
    manifest = exported(path, "base_fun=mine", functions=("mine=x*tanh(exp(x))",))
    (basis,) = [basis for basis in manifest.layers[0].bases if basis.kind == "mine"]
    assert basis.parameters == {"expression": "x*tanh(exp(x))"}
    taken = "a base function already has that name"
    refused(path, "base_fun=SiLU", functions=("SiLU=x",), kind=OptionError, said=taken)
    refused(path, "base_fun=mine", kind=UnknownFunction, said="base activation 'mine'")
