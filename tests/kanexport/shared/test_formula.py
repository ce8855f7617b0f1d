"""Closed forms: random symbolic networks compared with their arithmetic, and networks without a closed form."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC
from kanexport.functions.regularized import avoiding
from kanexport.shared import formula_printer
from kanexport.shared.formula import STEP_TEXTS, TEXTS, formulas, tokens
from kanexport.shared.formula_printer import EXACT, FormulaError, Text, applied
from kanexport.shared.manifest import BasisInfo, LayerInfo, NodeStep, SymbolicEdge
from tests.support.formula_parsers import columns, compute

SPLINE = BasisInfo(kind="bspline", functions=8, parameters={}, knots=())


def layer(n: int, m: int, *edges: SymbolicEdge, **settings: Any) -> LayerInfo:
    facts: dict[str, Any] = {
        "bases": (SPLINE,), "pre_steps": (), "post_steps": (), "mask": ((0.0,) * m,) * n, "bias": (),
        "active_edges": len(edges), "node_tensor": "", "edges_file": "", "edges_tensor": "",
    }  # fmt: skip
    return LayerInfo(sources=n, destinations=m, symbolic=edges, **(facts | settings))


def edge(
    i: int, j: int, name: str, a: float = 1, b: float = 0, c: float = 1, d: float = 0, **more: Any
) -> SymbolicEdge:
    return SymbolicEdge(source=i, destination=j, function=name, a=a, b=b, c=c, d=d, mask=more.pop("mask", 1.0), **more)


def text(*layers: LayerInfo, inputs: int = 2, digits: int = 6) -> list[str]:
    return [line.expression for line in formulas(tokens((), "x", inputs), layers, digits=digits)]


def test_formulas_read_like_formulas() -> None:
    first = layer(2, 1, edge(0, 0, "sin", math.pi, 0, 1, 0), edge(1, 0, "x^2", 1, 0, 1, 0))
    assert text(first, layer(1, 1, edge(0, 0, "exp")), digits=4) == ["exp(sin(3.142*x0) + x1**2)"]
    assert text(layer(1, 1, edge(0, 0, "x^3", -1, 0.5, -2, 0.25)), inputs=1) == ["-2*(-x0 + 0.5)**3 + 0.25"]
    assert text(layer(1, 1, edge(0, 0, "1/sqrt(x)", 2, 1, 1, -1)), inputs=1) == ["1/sqrt(2*x0 + 1) - 1"]
    assert text(layer(1, 1, edge(0, 0, "gaussian", 2)), inputs=1) == ["exp(-(2*x0)**2)"]


def test_straight_lines_run_into_their_sums() -> None:
    lines = layer(2, 2, edge(0, 0, "x", 2, 1, 3, 0.5), edge(1, 0, "x", 1, 0, -1), edge(0, 1, "0", 1, 0, 5, 2))
    assert text(lines) == ["6*x0 - x1 + 3.5", "2"]
    assert text(lines, layer(2, 1, edge(0, 0, "x", 0.5), edge(1, 0, "x", 1, 0, -4))) == ["3*x0 - 0.5*x1 - 6.25"]
    cancelled = layer(2, 1, edge(0, 0, "sin"), edge(1, 0, "x", 0, 0, 1, 0))
    assert text(cancelled) == ["sin(x0)"]


def test_steps_are_carried_out() -> None:
    steps = (
        NodeStep(kind="affine", scale=(2.0, 1.0, -1.0), bias=(0.5, 0.0, 0.0)),
        NodeStep(kind="product", indices=(1, 2)),
        NodeStep(kind="function", function="tanh"),
    )
    edges = (edge(0, 0, "sin"), edge(0, 1, "x"), edge(1, 1, "x"), edge(1, 2, "cos"))
    chosen = (NodeStep(kind="select", indices=(3, 1)),)
    assert text(layer(2, 3, *edges, pre_steps=chosen, post_steps=steps, bias=(0.0, 1.0, 0.0)), inputs=4) == [
        "tanh(2*sin(x3) + 0.5)",
        "tanh(-(x3 + x1 + 1)*cos(x1))",
    ]


def test_scalers_keep_their_offsets_apart() -> None:
    """Three digits of a year would make all years equal."""
    before = (NodeStep(kind="standardize", bias=(2017.25, -0.5), scale=(4.0, 2.0)),)
    after = (NodeStep(kind="affine", scale=(50.0, 1.0), bias=(123456.5, 0.0)),)
    edges = (edge(0, 0, "sin"), edge(1, 0, "x", 3), edge(1, 1, "x", 1, 2))
    assert text(layer(2, 2, *edges, pre_steps=before, post_steps=after), digits=3) == [
        "50*sin(0.25*(x0 - 2017.25)) + 75*(x1 + 0.5) + 123456",
        "0.5*(x1 + 0.5) + 2",
    ]
    selected = (*before, NodeStep(kind="select", indices=(1,)))
    assert text(layer(1, 1, edge(0, 0, "sin"), pre_steps=selected)) == ["sin(0.5*(x1 + 0.5))"]


def test_masks_and_empty_layers() -> None:
    assert text(layer(1, 2, edge(0, 0, "sin", mask=0.0), edge(0, 1, "sin", d=1, mask=0.5)), inputs=1) == [
        "0",
        "0.5*sin(x0) + 0.5",
    ]
    assert text(layer(2, 1, bases=(), mask=(), bias=(1.5,))) == ["1.5"]


def test_nodes_between_can_have_lines_of_their_own() -> None:
    layers = (layer(2, 2, edge(0, 0, "sin"), edge(1, 1, "exp")), layer(2, 1, edge(0, 0, "x^2"), edge(1, 0, "log")))
    result = formulas(("x0", "x1"), layers, digits=6, by_layer=True)
    assert [(line.name, line.expression) for line in result] == [
        ("h1_0", "sin(x0)"),
        ("h1_1", "exp(x1)"),
        ("y0", "h1_0**2 + log(h1_1)"),
    ]


TABLE = [(TEXTS[name], SYMBOLIC[name].evaluate, name) for name in SYMBOLIC]
TABLE += [(STEP_TEXTS[name], ACTIVATIONS[name].evaluate, name) for name in STEP_TEXTS]


def test_every_function_of_an_edge_or_a_step_has_its_text() -> None:
    x = np.concatenate([np.linspace(-0.9, 2, 30), np.linspace(-3, -1, 9)])
    for source, function, name in TABLE:
        with np.errstate(all="ignore"):
            expected = function(x)
            written = compute(applied(source, Text("x0", formula_printer.ATOM), EXACT).text, {"x0": x})
        result = np.broadcast_to(written, x.shape)
        if name == "0":
            expected = np.zeros(x.shape)
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-15, err_msg=name)


EXPRESSIONS = ["x*sin(x)", "-x**2 + 1", "x**2*cos(3*x) - 2/(1 + x**2)", "(x + 1)*(x - 1)", "2**-x", "-(x % pi)", "pi*x"]
EXPRESSIONS += [avoiding(name, 10.0).expression for name in ("1/x^3", "log", "tan", "sqrt", "exp", "arccos")]
SMOOTH = ["x", "x^2", "x^3", "sin", "cos", "tanh", "exp", "abs", "arctan", "gaussian", "sigmoid", "cosh", "1/x", "0"]
VALUES = st.floats(-2, 2).map(lambda v: round(v, 3))


@st.composite
def networks(draw: st.DrawFn) -> tuple[int, list[LayerInfo]]:
    widths = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    layers = []
    for n, m in itertools.pairwise(widths):
        groups = [draw(st.integers(1, 3)) for _ in range(m)]
        total = sum(groups)
        edges = []
        for i, j in np.ndindex(n, total):
            if draw(st.booleans()):
                own = draw(st.sampled_from(["", *EXPRESSIONS]))
                a, b, c, d = (draw(VALUES) for _ in range(4))
                mask = draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.5]))
                name = "own" if own else draw(st.sampled_from(SMOOTH))
                edges.append(edge(i, j, name, a, b, c, d, mask=mask, expression=own))
        scale, bias = (tuple(draw(VALUES) for _ in range(total)) for _ in range(2))
        after = (NodeStep(kind="affine", scale=scale, bias=bias), NodeStep(kind="product", indices=tuple(groups)))
        layers.append(layer(n, total, *edges, post_steps=after, bias=tuple(draw(VALUES) for _ in range(total))))
    return widths[0], layers


def evaluated(layers: list[LayerInfo], x: np.ndarray) -> np.ndarray:
    """The network's own arithmetic, with loops."""
    for info in layers:
        sums = np.tile(np.array(info.bias), (len(x), 1))
        for item in info.symbolic:
            u = item.a * x[:, item.source] + item.b
            value = compute(item.expression, {"x": u}) if item.expression else SYMBOLIC[item.function].evaluate(u)
            sums[:, item.destination] += item.mask * (item.c * value + item.d) if item.mask else 0.0
        affine, products = info.post_steps
        sums = sums * np.array(affine.scale) + np.array(affine.bias)
        ends = np.cumsum(products.indices)
        x = np.stack(
            [sums[:, end - count : end].prod(axis=1) for end, count in zip(ends, products.indices, strict=True)], 1
        )
    return x


@given(networks())
@settings(max_examples=settings.default.max_examples // 5)
def test_random_networks_compute_what_their_formulas_say(network: tuple[int, list[LayerInfo]]) -> None:
    inputs, layers = network
    x = np.random.default_rng(0).normal(size=(7, inputs))
    with np.errstate(all="ignore"):
        y = evaluated(layers, x)
        moved = np.stack([evaluated(layers, x * (1 + s * 1e-13)) for s in (-1, 1)])
    try:
        result = formulas(tokens((), "x", inputs), layers, digits=EXACT)
    except FormulaError as error:
        assume("characters" not in str(error))
        raise
    for at, line in enumerate(result):
        value = columns(line.expression, x)
        finite = np.isfinite(y[:, at]) & np.isfinite(moved[:, :, at]).all(axis=0) & (np.abs(y[:, at]) < 1e100)
        slack = 20 * np.abs(moved[:, finite, at] - y[finite, at]).max(axis=0)
        assert (np.abs(value[finite] - y[finite, at]) <= slack + 1e-9 * np.abs(y[finite, at]) + 1e-9).all(), line


def test_a_numeric_edge_is_named_and_no_layers_are_no_formula() -> None:
    mixed = layer(2, 2, edge(0, 0, "sin"), mask=((0.0, 0.0), (0.5, 0.0)))
    with pytest.raises(FormulaError, match=r"edge \(1,1,0\) is numeric \(bspline\)"):
        text(layer(2, 2, edge(0, 0, "sin")), mixed)
    with pytest.raises(FormulaError, match=r"edge \(0,0,0\) is numeric"):
        text(layer(2, 2, mask=()))
    with pytest.raises(FormulaError, match="no KAN layer"):
        text()


REFUSED = {
    "step 'layernorm' without a closed form": layer(
        1, 1, post_steps=(NodeStep(kind="layernorm", scale=(1.0,), bias=(0.0,)),)
    ),
    "step 'gelu'": layer(1, 1, post_steps=(NodeStep(kind="function", function="gelu"),)),
    "every position": layer(1, 1, positions=(4,)),
    "unknown function 'mystery'": layer(1, 1, edge(0, 0, "mystery")),
    "is not a valid expression": layer(1, 1, edge(0, 0, "own", expression="x +")),
    "formulas do not support": layer(1, 1, edge(0, 0, "own", expression="__import__('os')")),
    "expected at most 2000": layer(1, 1, edge(0, 0, "own", expression="x+" * 2000 + "x")),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_closed_form_is_said(reason: str) -> None:
    with pytest.raises(FormulaError, match=reason):
        text(REFUSED[reason], inputs=1)


def test_a_formula_does_not_outgrow_its_limit() -> None:
    deep = [layer(1, 1, edge(0, 0, "own", expression="x*sin(x) + x*cos(x)"))] * 40
    with pytest.raises(FormulaError, match="more than 100000 characters"):
        text(*deep, inputs=1)
    assert len(formulas(("x0",), deep, digits=6, by_layer=True)) == 40
