"""Symbolic edges of expressions: the form, the values, and expressions that have no value on the grid."""

import numpy as np
import pytest

from kanexport.edit import forms
from kanexport.errors import ExportError
from kanexport.functions import elementwise, expression
from kanexport.ir.model import SymbolicEdge

X = np.linspace(-0.9, 1.4, 201)


def value(edge: SymbolicEdge, x: np.ndarray = X) -> np.ndarray:
    return edge.mask * (edge.c * edge.function.evaluate(edge.a * x + edge.b) + edge.d)


def test_a_text_in_the_form_of_the_table() -> None:
    for text, name, abcd in (
        ("1.2*sin(x)", "sin", (1, 0, 1.2, 0)),
        ("3 - sin(2*x + 1)/4", "sin", (2, 1, -0.25, 3)),
        ("-(x-1)**2", "x^2", (1, -1, -1, 0)),
        ("2*x + pi", "x", (1, 0, 2, np.pi)),
        ("x", "x", (1, 0, 1, 0)),
        ("1/(x+3)", "1/x", (1, 3, 1, 0)),
        ("(x+3)**-2", "1/x^2", (1, 3, 1, 0)),
        ("sqrt(x+2)", "sqrt", (1, 2, 1, 0)),
        ("2*(x+2)**0.5 - 1", "sqrt", (1, 2, 2, -1)),
        ("exp(-x)*2", "exp", (-1, 0, 2, 0)),
        ("0.5", "0", (1, 0, 0, 0.5)),
        ("-2*e", "0", (1, 0, 0, -2 * np.e)),
    ):
        edge = forms.symbolic(text, 1, 2, what="--to")
        assert edge.function is elementwise.SYMBOLIC[name]
        assert (edge.a, edge.b, edge.c, edge.d) == pytest.approx(abcd)
        expected = eval(text, {**vars(np), "x": X})
        np.testing.assert_allclose(value(edge), np.broadcast_to(expected, X.shape), rtol=1e-12, atol=1e-15)


def test_another_text_is_a_function_by_itself_named_after_it() -> None:
    texts = "x*sin(x)", "sin(x)+cos(x)", "sin(x)*cos(2*x)", "sin(sin(x))", "2/(x+3)", "2**x", "x**2+x", "1/sin(x+2)"
    for text in texts:
        edge = forms.symbolic(text, 0, 0, what="--to")
        assert edge.function.name not in elementwise.SYMBOLIC
        assert edge.function.expression == text
        np.testing.assert_allclose(value(edge), eval(text, {**vars(np), "x": X}), rtol=1e-12)
    names = [forms.symbolic(text, 0, 0, what="--to").function.name for text in (*texts, texts[0])]
    assert names[0] == names[-1]
    assert len(set(names)) == len(texts)


def test_a_text_outside_the_grammar_and_limits_that_are_no_limits_are_rejected() -> None:
    for text in ("sin(y)", "x+", "__import__('os')", "x^2", "", "1/0", "9" * 600, "lambda: x", "1e308*x*10"):
        with pytest.raises(ExportError, match=r"^edge 0:0:0: --to"):
            forms.symbolic(text, 0, 0, what=f"edge 0:0:0: --to {text[:20]}")
    for numbers in ((1, 0, 1, 0, 2, 1), (1, 0, np.inf, 0, 0, 1), (1, 0, 1, 0, np.nan, 1)):
        with pytest.raises(ValueError, match="a function is limited to"):
            elementwise.limited(elementwise.SYMBOLIC["sin"], *numbers)


def test_a_limited_edge_is_within_its_bounds() -> None:
    texts = "sin(x)", "1/(x+3)", "x*sin(x)", "sqrt(x+2)", "x**2+x", "(x+2)**-3", "x**3", "exp(x)"
    for text in (*texts, "gaussian(2*x)", "1/sqrt(x+1)"):
        edge = forms.symbolic(f"1.5*({text})-0.1", 0, 0, what="--to")
        limited = forms.clamped(edge, -0.25, 0.3)
        expected = np.clip(value(edge), -0.25, 0.3)
        np.testing.assert_array_equal(value(limited), expected)
        shown = expression.function("shown", limited.function.expression)
        np.testing.assert_allclose(shown.evaluate(X), expected, atol=1e-14)
    again = forms.clamped(limited, -0.1, 2)
    np.testing.assert_allclose(value(again), np.clip(value(limited), -0.1, 2), atol=1e-14)
    assert again.function.name != limited.function.name
    edge = forms.symbolic("+".join(["x*sin(x)"] * 30), 0, 0, what="--to")
    limited = forms.clamped(edge, -1, 1)
    assert limited.function.expression == ""  # too long
    np.testing.assert_array_equal(value(limited), np.clip(value(edge), -1, 1))


def test_a_curve_without_a_value_on_the_grid_is_found_and_a_steep_one_passes() -> None:
    for text, low, high in (
        ("1/x", -1, 1),
        ("log(x)", 0, 1),
        ("sqrt(x)", -1e-3, 1),
        ("1/(x-0.3217)", -1, 1),
        ("1/(x-0.3217)**2", -1, 1),
        ("tan(4*x)", -1, 1),
        ("log(abs(x-0.123))", 0.123, 1),
        ("arctanh(x)", -1, 0.5),
    ):
        with np.errstate(all="ignore"), pytest.raises(ExportError, match="finite values on the grid") as error:
            check(text, low, high)
        assert error.value.code == "expression-undefined"
    for text, low, high in (("1/x", 0.01, 1), ("log(x)", 1e-6, 1), ("exp(9*x)", -1, 1), ("0", -1, 1)):
        check(text, low, high)


def check(text: str, low: float, high: float) -> None:
    edge = forms.symbolic(text, 0, 0, what="--to")
    forms.check(lambda x: value(edge, x), low, high, what=f"--to {text}")
