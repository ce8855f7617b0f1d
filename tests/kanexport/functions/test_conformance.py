"""Conformance of functions and wavelets; the checks detect a faulty basis. test_elementwise.py has the tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kanexport.bases.gaussian import Gaussian
from kanexport.functions import expression, regularized
from kanexport.functions.elementwise import SYMBOLIC, Unary
from kanexport.functions.wavelets import WAVELETS
from kanexport.graph.builder import Graph, Value
from kanexport.ir.model import EdgeTerm, Layer
from tests.support.conformance import DTYPES, SOURCES, check_basis, check_each, check_function, check_layer
from tests.support.tiers import spread

TEXTS = ("x*sin(x)", "x**-3", "-x**2.5", "exp(-x**2)/(1 + abs(x))", "tanh(x)**7 - 2/x", "2**x")
TABLES: dict[str, list[Unary]] = {
    "avoiding": [regularized.avoiding(name, 10.0) for name in SYMBOLIC if name != regularized.BROKEN],
    "wavelet": list(WAVELETS.values()),
    "written": [expression.function("mine", text) for text in TEXTS],
}
TOLERANCES = {"float32": (3e-5, 2e-6), "float64": (2e-13, 2e-14)}


@pytest.mark.parametrize("table", TABLES)
@spread("dtype,exact", [("float32", True), ("float32", False), ("float64", False), ("float64", True)], 2)
def test_a_function_gives_what_it_owes(table: str, dtype: str, exact: bool) -> None:
    rtol, atol = TOLERANCES[dtype]
    check_each(check_function, TABLES[table], dtype, exact=exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 3])
def test_a_wavelet_that_every_edge_shifts_gives_what_it_owes(dtype: str, count: int) -> None:
    rng, shape = np.random.default_rng(0), (SOURCES, 2, count)
    rate = rng.uniform(0.3, 2, size=shape) * rng.choice([-1, 1], size=shape)
    terms = [EdgeTerm(made, rng.normal(size=shape), rate, rng.normal(size=shape)) for made in WAVELETS.values()]
    spreads = np.zeros(shape[:2], dtype=bool)
    layers = [Layer((term,), mask=np.ones(shape[:2]), bias=np.zeros(2), nan_spreads=spreads) for term in terms]
    check_each(check_layer, layers, dtype)


# Faults that a contributor might write into `emit` of a basis, from its operators and its right values.
FAULTS: dict[str, tuple[Callable[[Graph, Value, Value], Value], str]] = {
    "NaN at infinity": (lambda g, x, bell: g.add(bell, g.sub(x, x)), r"the graph gives nan for -?inf, evaluate 0\.0"),
    "NaN swallowed": (lambda g, x, bell: g.op("Where", g.op("IsNaN", x), g.const(0.0), bell), "nan is not NaN"),
    "another source's NaN": (
        lambda g, x, bell: g.add(bell, g.sum(g.sub(x, x), axis=1, keepdims=True)),
        "the graph gives nan for",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_basis_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (change, message), right = FAULTS[name], Gaussian.emit
    check_basis(Gaussian(np.array([0.0]), 1.0), "float32")
    monkeypatch.setattr(Gaussian, "emit", lambda self, g, x, sources: change(g, x, right(self, g, x, sources)))
    with pytest.raises(AssertionError, match=message):
        check_basis(Gaussian(np.array([0.0]), 1.0), "float32")
