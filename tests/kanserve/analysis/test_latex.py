"""LaTeX formulas, also partial ones: parsed and evaluated, they equal the networks; names are escaped."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kanexport.shared import formula, formula_printer
from kanexport.shared.formula import UnknownLine, formulas, tokens
from kanexport.shared.formula_printer import FormulaError, Text, TooLong, applied
from kanexport.shared.manifest import LayerInfo, NodeStep
from kanserve.analysis import latex
from kanserve.analysis.latex import escaped, symbol, symbols, written
from tests.kanexport.shared.test_formula import EXPRESSIONS, SPLINE, edge, layer, networks
from tests.support import formula_parsers

FEWER = settings(max_examples=settings.default.max_examples // 5)
X = np.random.default_rng(0).normal(size=(7, 3))
NAMES = {f"x{at}": X[:, at] for at in range(3)}
LOOKS = {f"x_{{{at}}}": X[:, at] for at in range(3)}


@given(st.text(max_size=20))
@FEWER
def test_a_name_is_read_as_it_is_and_does_nothing(name: str) -> None:
    seen = "".join(sign if sign.isprintable() and not sign.isspace() else " " for sign in name)
    assert formula_parsers.decoded(escaped(name)) == seen
    if name.strip():
        assert np.array_equal(formula_parsers.compute_latex(f"{symbol('x0', name)} + 1", {seen: X[:, 0]}), X[:, 0] + 1)


def test_names_of_people_and_of_nobody() -> None:
    assert symbol("x0", "petal_length (cm)") == r"\text{petal\_length\ (cm)}"
    assert symbol("x0", r"\input{/etc/passwd}") == r"\text{\textbackslash{}input\{/etc/passwd\}}"
    assert (symbol("x3"), symbol("h1_20"), symbol("length")) == ("x_{3}", "h_{1,20}", r"\text{length}")
    assert symbols(["x0", "x1"], ()) == {"x0": "x_{0}", "x1": "x_{1}"}
    assert symbols(["x0", "x1"], ("y0", "a--b")) == {"x0": r"\text{y0}", "x1": r"\text{a-{}-b}"}


@st.composite
def expressions(draw: st.DrawFn, depth: int = 4) -> str:
    """In Python's syntax, of x0 to x2, with parentheses around everything or nothing."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(["x0", "x1", "x2", "pi", "e", "2", "0.5", "1e-05", "3e+20", "1e-07"]))
    first, second = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    name = draw(st.sampled_from(sorted({*latex.CALLS, "sqrt", "abs"})))
    kinds = [f"{name}({first})", f"-{first}", f"({first})", f"({first} if {second} > x0 else x1)"]
    kinds += [f"{first} {sign} {second}" for sign in ("+", "-", "*", "/", "%")] + [f"({first}) ** 2", f"{first}**-x0"]
    return draw(st.sampled_from(kinds))


@given(expressions())
@FEWER
def test_what_is_written_has_the_value_of_what_is_meant(text: str) -> None:
    expected = np.broadcast_to(np.asarray(formula_parsers.compute(text, NAMES)), 7)
    result = np.broadcast_to(np.asarray(formula_parsers.compute_latex(written(text, {}), LOOKS)), 7)
    np.testing.assert_allclose(result, expected, rtol=1e-12, equal_nan=True)


@given(networks())
@FEWER
def test_random_networks_on_a_page(network: tuple[int, list[LayerInfo]]) -> None:
    inputs, layers = network
    try:
        lines = formulas(tokens((), "x", inputs), layers, digits=6)
    except FormulaError as error:
        assume("characters" not in str(error))
        raise
    for line in lines:
        expected = formula_parsers.columns(line.expression, X)
        result = np.broadcast_to(formula_parsers.compute_latex(written(line.expression, {}), LOOKS), 7)
        np.testing.assert_allclose(result, expected, rtol=1e-9, equal_nan=True)


def test_every_function_is_written_up_to_a_depth() -> None:
    assert {*latex.CALLS, "sqrt", "abs", "gaussian"} == formula_printer.FUNCTIONS
    for text in (*EXPRESSIONS, *(f"{name}(x)" for name in formula_printer.FUNCTIONS)):
        inner = applied(text, Text("x0", formula_printer.ATOM), 17).text
        result = formula_parsers.compute_latex(written(inner, {}), LOOKS)
        np.testing.assert_allclose(result, formula_parsers.compute(inner, NAMES), rtol=1e-12, equal_nan=True)
    with pytest.raises(FormulaError, match="nested too deep"):
        written("sin(" * 2000 + "x0" + ")" * 2000, {})


def test_a_formula_in_part_reads() -> None:
    both = layer(2, 2, edge(0, 0, "sin"), edge(1, 0, "exp"), mask=((0.0, 1.0), (1.0, 0.0)), bias=(0.5, 0.0))
    last = layer(2, 1, edge(0, 0, "x^2"), mask=((0.0,), (1.0,)))
    lines = formulas(("a", "b"), (both, last), digits=3, partial=True)
    # An edge with a numeric part is what the edge graphs give of it, its symbolic function included.
    assert lines[0].expression == "(sin(a) + phi_0_1_0(b) + 0.5)**2 + phi_1_1_0(phi_0_0_1(a))"
    assert formula.named(line.expression for line in lines) == [(0, 0, 1), (0, 1, 0), (1, 1, 0)]
    page = written(lines[0].expression, symbols(["a", "b"], ["a", "width [mm]"]))
    assert page == (
        r"\left(\sin\left(\text{a}\right) + \varphi_{0,1,0}\left(\text{width\ [mm]}\right) + 0.5\right)^{2}"
        r" + \varphi_{1,1,0}\left(\varphi_{0,0,1}\left(\text{a}\right)\right)"
    )


def test_an_edge_that_reads_the_whole_row_is_no_function_of_its_node() -> None:
    norm, softmax = (NodeStep(kind="layernorm"),), (NodeStep(kind="function", function="softmax"),)
    for facts in (
        {"pre_steps": norm},
        {"bases": (dataclasses.replace(SPLINE, pre_steps=norm),)},
        {"bases": (dataclasses.replace(SPLINE, pre_steps=softmax),)},
        {"edge_class": "B"},
    ):
        text = r"the numeric edges of layer 0 \(bspline\) depend on the whole"
        with pytest.raises(FormulaError, match=text) as caught:
            formulas(("a", "b"), (layer(2, 1, mask=(), **facts),), digits=3, partial=True)
        assert caught.value.code == "formula-edges-of-rows"


def test_a_numeric_edge_reads_its_node_as_its_curve_does() -> None:
    """The curve of a numeric edge includes the node's steps, but not the selection of the node."""
    before = (NodeStep(kind="select", indices=(2, 0)), NodeStep(kind="function", function="tanh"))
    entry = layer(2, 1, edge(0, 0, "sin"), mask=((0.0,), (1.0,)), pre_steps=before)
    (line,) = formulas(("a", "b", "c"), (entry,), digits=3, partial=True)
    assert line.expression == "sin(tanh(c)) + phi_0_1_0(a)"


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 2)), min_size=2, max_size=2))
@FEWER
def test_what_is_kept_between_two_ends_is_written(ends: list[tuple[float, float]]) -> None:
    low, high = (tuple(pair[0] + side * pair[1] for pair in ends) for side in (0, 1))
    kept = NodeStep(kind="clip", scale=low, bias=high, function="clip to something")
    entry = layer(2, 1, edge(0, 0, "sin"), edge(1, 0, "x^2"), pre_steps=(kept,))
    (line,) = formulas(("x0", "x1"), (entry,), digits=formula_printer.EXACT)
    x = np.clip(X[:, :2], low, high)
    expected = np.sin(x[:, 0]) + x[:, 1] ** 2
    np.testing.assert_allclose(formula_parsers.columns(line.expression, X), expected, rtol=1e-12)
    np.testing.assert_allclose(formula_parsers.compute_latex(written(line.expression, {}), LOOKS), expected, rtol=1e-12)


def test_numeric_edges_alone_need_no_text_of_the_steps_before_them() -> None:
    odd = NodeStep(kind="function", function="gelu")
    (line,) = formulas(("a",), (layer(1, 1, mask=(), pre_steps=(odd,)),), digits=3, partial=True)
    assert line.expression == "phi_0_0_0(a)"
    with pytest.raises(FormulaError, match="step 'gelu'"):
        formulas(("a",), (layer(1, 1, edge(0, 0, "sin"), mask=((1.0,),), pre_steps=(odd,)),), digits=3, partial=True)


@given(st.sets(st.integers(0, 3), min_size=1), st.booleans())
@FEWER
def test_only_what_is_asked_for_is_made_if_it_is_there(requested: set[int], by_layer: bool) -> None:
    after = (NodeStep(kind="product", indices=(2, 1, 1, 2)), NodeStep(kind="select", indices=(3, 1, 0, 2)))
    layers = [layer(2, 3, mask=()), layer(3, 6, mask=(), post_steps=after)]
    every = formulas(("a", "b"), layers, digits=3, partial=True, by_layer=by_layer)
    names = [f"y{at}" for at in sorted(requested)] + (["h1_2"] if by_layer else [])
    result = formulas(("a", "b"), layers, digits=3, partial=True, by_layer=by_layer, only=names)
    assert set(result) == {line for line in every if line.name in names}
    with pytest.raises(UnknownLine, match="unknown formula 'h1_0'") as caught:
        formulas(("a",), [layer(1, 1, mask=()), layer(1, 1, mask=())], digits=3, partial=True, only=["h1_0"])
    assert caught.value.known == ("y0",)


def test_a_wide_network_says_early_that_it_is_too_long() -> None:
    wide = layer(200, 200, mask=())
    inputs = tokens((), "x", 200)
    with pytest.raises(TooLong):
        formulas(inputs, [wide, wide, layer(200, 10, mask=())], digits=6, partial=True)
    (line,) = formulas(inputs, [wide, wide], digits=6, partial=True, by_layer=True, only=["h1_7"])
    assert line.expression.count("phi_0_") == 200
    with pytest.raises(TooLong):
        formulas(tokens((), "x", 8000), [layer(8000, 1, mask=())], digits=6, partial=True)
