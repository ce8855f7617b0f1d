"""Conformance of functions, wavelets and steps; the checks detect a faulty basis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from kanexport.bases import Basis
from kanexport.bases.gaussian import Gaussian
from kanexport.bases.relu_bumps import ReluBumps
from kanexport.functions import elementwise, expression, regularized
from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC, Unary
from kanexport.functions.wavelets import WAVELETS
from kanexport.graph.builder import Graph, Value
from kanexport.ir.model import EdgeTerm, Layer
from tests.support.conformance import DTYPES, SOURCES, check_basis, check_function, check_layer

AVOIDING = {name: regularized.avoiding(name, 10.0) for name in SYMBOLIC if name != regularized.BROKEN}
TEXTS = ("x*sin(x)", "x**-3", "-x**2.5", "exp(-x**2)/(1 + abs(x))", "tanh(x)**7 - 2/x", "2**x")
WRITTEN = {text: expression.function("mine", text) for text in TEXTS}
TABLES = {
    "activation": ACTIVATIONS,
    "symbolic": SYMBOLIC,
    "avoiding": AVOIDING,
    "wavelet": WAVELETS,
    "written": WRITTEN,
}
FUNCTIONS = [(table, name) for table, functions in TABLES.items() for name in functions]
TOLERANCES = {"float32": (3e-5, 2e-6), "float64": (2e-13, 2e-14)}


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "coarse"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("table", "name"), FUNCTIONS)
def test_a_function_gives_what_it_owes(table: str, name: str, dtype: str, exact: bool) -> None:
    rtol, atol = TOLERANCES[dtype]
    check_function(TABLES[table][name], dtype, exact=exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WAVELETS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_wavelet_that_every_edge_shifts_gives_what_it_owes(name: str, dtype: str, count: int) -> None:
    rng, shape = np.random.default_rng(0), (SOURCES, 2, count)
    rate = rng.uniform(0.3, 2, size=shape) * rng.choice([-1, 1], size=shape)
    term = EdgeTerm(WAVELETS[name], rng.normal(size=shape), rate, rng.normal(size=shape))
    spreads = np.zeros(shape[:2], dtype=bool)
    check_layer(Layer((term,), mask=np.ones(shape[:2]), bias=np.zeros(2), nan_spreads=spreads), dtype)


# Faulty bases that a contributor might write, and the conformance errors. Each differs from a correct basis
# in one place.
class Wrong(Gaussian):
    """One bell; `evaluate` is right."""

    def apart(self, g: Graph, x: Value) -> Value:
        return g.sub(x, g.const(self.centres))

    def bell(self, g: Graph, x: Value) -> Value:
        apart = self.apart(g, x)
        return g.op("Exp", g.op("Neg", g.mul(apart, apart)))


class NanAtInfinity(Wrong):
    """x - x is zero, and at infinity NaN."""

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        return g.add(self.bell(g, x), g.sub(x, x))


class NanSwallowed(Wrong):
    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        bell = self.bell(g, x)
        return g.op("Where", g.op("IsNaN", x), g.const(0.0), bell)


class OverflowingBell(Wrong):
    """exp(-x x) as exp(x)^-x: 0 * inf."""

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        apart = self.apart(g, x)
        return g.mul(self.bell(g, x), g.op("Div", g.mul(apart, apart), g.mul(apart, apart)))


class RowsMix(Wrong):
    """Less than its mean over the batch: a row depends on the other rows."""

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        finite = g.op("Where", g.op("IsNaN", g.sub(x, x)), g.const(0.0), x)
        bell = self.bell(g, finite)
        return g.add(self.bell(g, x), g.sum(g.mul(bell, g.const(0.01)), axis=0, keepdims=True))


class EmptyBatch(Wrong):
    """Right for every batch but the empty one, for which there is a row."""

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        rows = g.slice(g.op("Shape", x), 0, 1, axis=0)
        missing = g.op("Max", g.op("Sub", g.index([1]), rows), g.index([0]))
        return g.op("Pad", self.bell(g, x), g.op("Concat", g.index([0, 0]), missing, g.index([0]), axis=0))


class NeighbourSpoils(Wrong):
    """A source that is not finite reaches the others of its row."""

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        return g.add(self.bell(g, x), g.sum(g.sub(x, x), axis=1, keepdims=True))


class BumpsWithoutEnds(ReluBumps):
    """Infinity meets the ramp that is zero there: 0 * inf."""

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        rising = g.op("Relu", g.sub(x, g.const(self.low[:, 0])))
        falling = g.op("Relu", g.sub(g.const(self.high[:, 0]), x))
        bump = g.mul(rising, falling)
        return g.mul(g.mul(bump, bump), g.const(self.rate))


class SwallowedByBoth(NanSwallowed):
    def evaluate(self, x: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(x[:, None, :]), 0.0, Gaussian.evaluate(self, x))


BELL = (np.array([0.0]), 1.0)
WRONG: dict[str, tuple[Callable[[], Basis], str]] = {
    "NaN at infinity": (lambda: NanAtInfinity(*BELL), r"the graph gives nan for -?inf, evaluate 0\.0"),
    "NaN swallowed": (lambda: NanSwallowed(*BELL), r"the graph of nan is not NaN"),
    "NaN swallowed in both": (lambda: SwallowedByBoth(*BELL), r"evaluate of nan is not NaN"),
    "0 / 0 at zero": (lambda: OverflowingBell(*BELL), r"the graph gives nan for -?0\.0, evaluate 1\.0"),
    "another row": (lambda: RowsMix(*BELL), "by itself"),
    "a row for no rows": (lambda: EmptyBatch(*BELL), "no rows give"),
    "another source's NaN": (lambda: NeighbourSpoils(*BELL), r"the graph gives nan for"),
    "not compact at infinity": (
        lambda: BumpsWithoutEnds(np.zeros((SOURCES, 1)), np.ones((SOURCES, 1)), 2.0),
        r"is compact, but the graph of -?inf is nan, not 0",
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_basis_is_caught(name: str, dtype: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(AssertionError, match=message):
        check_basis(make(), dtype)


def test_the_right_basis_beside_them_passes() -> None:
    for dtype in DTYPES:
        check_basis(Gaussian(*BELL), dtype)
        check_basis(ReluBumps(np.zeros((SOURCES, 1)), np.ones((SOURCES, 1)), 2.0), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_function_is_caught(dtype: str) -> None:
    """silu as x minus x sigmoid(-x): right on every finite number, NaN at -infinity in both, NaN at +infinity."""
    silu = elementwise.activation("silu")

    def emit(g: Graph, x: Value) -> Value:
        return g.sub(x, g.mul(x, g.op("Sigmoid", g.op("Neg", x))))

    wrong: Unary = dataclasses.replace(silu, emit=emit)
    with pytest.raises(AssertionError, match=r"the graph gives nan for inf, evaluate inf"):
        check_function(wrong, dtype, exact=True, rtol=1e-5, atol=1e-5)
