"""Symbolic edges as matrix products: the same sums, and infinities only where edges are infinite."""

import dataclasses

import numpy as np
import pytest

from kanexport.functions.elementwise import SYMBOLIC
from kanexport.ir.model import Kan, Layer, SymbolicEdge
from kanexport.lowering import lower, symbolic_sums
from kanexport.verify import float64_reference, verify
from tests.kanexport.lowering.test_spline_forms import operators, responses


def symbolic(names: tuple[str, ...], shape: tuple[int, int] = (3, 4), *, spreads: bool = True) -> Layer:
    rng = np.random.default_rng(0)
    edges = tuple(
        SymbolicEdge(i, o, SYMBOLIC[names[(i + o) % len(names)]], *rng.uniform(0.2, 1, size=4).tolist(), mask=0.5)
        for i, o in np.ndindex(shape)
    )
    return Layer((), np.zeros(shape), rng.normal(size=shape[1]), np.full(shape, spreads), symbolic=edges)


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        (symbolic_sums.BOUNDED, "float32"),
        (symbolic_sums.GROWING, "float64"),
        (("sin", "cos", "exp", "x^2", "log"), "float32"),
    ],
)
def test_the_sums_are_those_of_the_edges(names: tuple[str, ...], dtype: str) -> None:
    kan = Kan(3, (symbolic(names), symbolic(names[::-1], (4, 2))))
    created = lower.lower(kan, dtype)
    verify.verify(kan, created, dtype)
    kinds = operators(created.model)
    assert kinds.count("Gemm") >= 2
    assert ("Gather" in kinds) == ("log" in names)


def test_an_overflow_reaches_its_destinations_only() -> None:
    layer = symbolic(("sin", "exp", "abs", "tanh"))
    kan = Kan(3, (layer,))
    x = np.array([[900.0, 0.1, 0.2], [0.3, 0.1, 0.2], [np.inf, 0, 0], [0, np.nan, 0]], dtype=np.float32)
    actual = responses(lower.lower(kan, "float32").model, x)[0]
    grown = {e.destination for e in layer.symbolic if e.source == 0 and e.function.name == "exp"}
    overflows = np.isin(np.arange(4), list(grown))
    assert np.isposinf(actual[0]).tolist() == overflows.tolist()
    expected = float64_reference.evaluate(kan, x.astype(np.float64)).y
    np.testing.assert_allclose(actual[0][~overflows], expected[0][~overflows], rtol=1e-5)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-5)
    assert np.isnan(actual[2:]).all()


def test_infinities_of_both_signs_are_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    power, exp = SYMBOLIC["x^3"], SYMBOLIC["exp"]
    edges = (
        *(SymbolicEdge(at, at, power, 1, 0, 1, 0, 1) for at in range(2)),
        SymbolicEdge(1, 0, exp, 1, 0, -1, 0, 1),
        SymbolicEdge(0, 2, exp, 1, 0, 0, 0, 1),
    )
    layer = dataclasses.replace(symbolic(("sin",), (2, 3)), symbolic=edges, bias=np.zeros(3))
    monkeypatch.setattr(symbolic_sums, "MANY", 1)
    x = np.array([[1e20, 1], [-1e20, 1], [1e20, 800], [0, -1e20]], dtype=np.float32)
    actual = responses(lower.lower(Kan(2, (layer,)), "float32").model, x)[0]
    inf, nan = np.inf, np.nan
    expected = [[inf, 1, nan], [-inf, 1, 0], [nan, 800.0**3, nan], [0, -inf, 0]]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_other_functions_and_layers_that_keep_nan_apart_are_gathered() -> None:
    assert symbolic_sums.split(symbolic(("sin",), spreads=False))[1] == ()
    assert symbolic_sums.split(symbolic(("log", "1/x", "sqrt", "tan")))[1] == ()
    assert symbolic_sums.split(symbolic(("sin",), (64, 64)))[1] == ()  # large matrices
    assert symbolic_sums.split(symbolic(("exp",)))[1] == ()  # few edges, and a test of their overflow
    rest, chosen = symbolic_sums.split(symbolic(("sin", "log")))
    assert {edge.function.name for edge in rest.symbolic} == {"log"}
    assert {edge.function.name for edge in chosen} == {"sin"}
    renamed = dataclasses.replace(SYMBOLIC["log"], name="sin")
    odd = dataclasses.replace(symbolic(("sin",)), symbolic=(SymbolicEdge(0, 0, renamed, 1, 0, 1, 0, 1),))
    assert symbolic_sums.split(odd)[1] == ()
