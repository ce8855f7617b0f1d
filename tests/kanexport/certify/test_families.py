"""Enclosures of bases and functions hold for values, slopes, chords and the float32 errors of served graphs."""

import numpy as np
import pytest

from kanexport.bases import Basis
from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform_bspline import UniformSpline
from kanexport.certify import rounding
from kanexport.certify.edges import Edges, Table
from kanexport.errors import InvalidKan
from kanexport.functions import expression
from kanexport.functions.elementwise import SYMBOLIC, Unary
from kanexport.functions.regularized import avoiding
from kanexport.functions.wavelets import WAVELETS
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer, SymbolicEdge
from kanexport.lowering import lower
from kanexport.shared import custom_ops
from kanexport.verify import float64_reference, graph_runner
from tests.support import basis_examples, sample_networks
from tests.support.conformance import check_each
from tests.support.tiers import spread

SOURCES, DESTINATIONS, ROWS = 3, 2, 1000
SHAPE = (SOURCES, DESTINATIONS)
MOST = 130  # functions of a basis, that a test evaluates

Array = np.ndarray


def layer(*terms: BasisTerm | EdgeTerm, symbolic: tuple[SymbolicEdge, ...] = ()) -> Layer:
    bias = np.random.default_rng(1).normal(size=DESTINATIONS)
    return Layer(terms, np.ones(SHAPE), bias, np.ones(SHAPE, dtype=bool), symbolic)


def assert_encloses(checked: Layer, low: Array, high: Array) -> Table:
    """Raises AssertionError if a row of the box contradicts the table of a layer or its float32 error."""
    rng = np.random.default_rng(0)
    edges = Edges.of(checked)
    table = Table.of(edges, low, high)
    slack = rounding.of_sums(table, low, high)
    x = np.sort(rng.uniform(low, high, (ROWS, SOURCES)).astype(np.float32).astype(np.float64), axis=0)
    x = np.clip(x, low, high)
    values = edges.values(x)
    lowest, highest, least, most = table.facts()
    assert (lowest <= values.min(axis=0)).all()
    assert (highest >= values.max(axis=0)).all()
    step = np.diff(x, axis=0)[:, :, None]
    noise = 1e-12 * (1 + np.abs(values).max())
    assert (np.diff(values, axis=0) >= least * step - noise).all()
    assert (np.diff(values, axis=0) <= most * step + noise).all()
    for i in range(SOURCES):
        cell = np.clip(np.searchsorted(table.x[:, i], x[:, i], side="right") - 1, 0, len(table.x) - 2)
        start, width = table.x[cell, i], np.diff(table.x[:, i])[cell]
        place = ((x[:, i] - start) / np.where(width > 0, width, 1))[:, None]
        chord = table.value[cell, i] * (1 - place) + table.value[cell + 1, i] * place
        assert (np.abs(values[:, i] - chord) <= table.reach[cell, i] + 3 * table.rounding[i]).all()
    assert_graphs_are_near(checked, x, slack)
    return table


def assert_graphs_are_near(checked: Layer, x: Array, slack: Array) -> None:
    """Raises AssertionError if an output of a float32 graph is farther from the exact one than `slack`."""
    kan = Kan(SOURCES, (checked,))
    exact = float64_reference.evaluate(kan, x).y
    lowered = lower.lower(kan, "float32", kernel=True)
    for model, library in ((lowered.model, ""), (lowered.kernel, custom_ops.library())):
        if model and library is not None:
            session = graph_runner.session(model, lowered.weights, library)
            y = graph_runner.run(session, {"x": x.astype(np.float32)})["y"]
            assert (np.abs(y - exact) <= slack).all()


def without_certificate(basis: Basis) -> bool:
    """Whether a basis has repeated knots or values beyond float32, or is a closed form that only an export makes."""
    if isinstance(basis, BSpline):
        return not basis.increasing
    return isinstance(basis, UniformSpline) or (basis.kind == "gram" and basis.functions > 6)


def check_enclosed(basis: Basis) -> None:
    checked = layer(BasisTerm(basis, np.random.default_rng(2).normal(size=(*SHAPE, basis.functions))))
    low, high = basis.support(SOURCES).outer
    if without_certificate(basis):
        with pytest.raises(InvalidKan) as caught:
            assert_encloses(checked, low, high)
        assert caught.value.code == "certificate-not-supported"
    else:
        assert_encloses(checked, low, high)


@spread("part", [0, 2, 4], 1)
@pytest.mark.parametrize("name", basis_examples.names())
def test_every_basis(name: str, part: int) -> None:
    examples = [
        basis for basis in basis_examples.examples(name) if basis.sources in (None, SOURCES) and basis.functions <= MOST
    ]
    check_each(check_enclosed, examples[part::6])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", sample_networks.EDGES)
def test_wavelets(name: str, count: int) -> None:
    rng = np.random.default_rng(3)
    size = (*SHAPE, count)
    term = EdgeTerm(WAVELETS[name], rng.normal(size=size), rng.uniform(-2, 2, size), rng.normal(size=size))
    ends = np.full(SOURCES, 6.0)
    assert_encloses(layer(term), -ends, ends)


def edges_of(function: Unary, rate: float, shift: float) -> Layer:
    rng = np.random.default_rng(4)
    places = [(i, o) for i in range(SOURCES) for o in range(DESTINATIONS)]
    edges = tuple(SymbolicEdge(i, o, function, rate, shift, float(rng.normal()), 0.3, 1.0) for i, o in places)
    return layer(symbolic=edges)


# Functions without bounds on the whole line, with a rate and shift that keep them in their domain.
INSIDE = {name: (0.4, 2.0) for name in SYMBOLIC if "1/" in name or name in ("sqrt", "x^0.5", "x^1.5", "log")}
INSIDE |= {name: (0.2, 0.1) for name in ("arcsin", "arccos", "arctanh", "tan")}


def check_function(function: Unary, rate: float = 0.8, shift: float = 0.3, reach: float = 3.0) -> None:
    ends = np.full(SOURCES, reach)
    assert_encloses(edges_of(function, *INSIDE.get(function.name, (rate, shift))), -ends, ends)


def test_symbolic_functions_and_expressions() -> None:
    check_each(check_function, [function for name, function in SYMBOLIC.items() if name != "sgn"])
    texts = "x*sin(x)", "exp(-x**2)/(2 + cos(x))", "log(x**2 + 2)", "(x**2 + 1)**-1.5", "tanh(x)**3"
    check_each(check_function, [expression.function("f", text) for text in texts], 0.9, 0.2, 2.0)


def test_jumps_poles_gaps_and_functions_of_others_are_refused() -> None:
    others = np.cbrt, np.trunc, lambda x: x.astype(float), lambda x: x.sum(), lambda x: 1.0
    ends = np.full(SOURCES, 2.0)
    for function, rate, shift in (
        (SYMBOLIC["sgn"], 1.0, 0.0),
        (SYMBOLIC["1/x"], 1.0, 0.0),
        (SYMBOLIC["sqrt"], 1.0, 0.0),
        (SYMBOLIC["log"], 1.0, 2.0),
        (SYMBOLIC["arcsin"], 1.0, 0.0),
        (SYMBOLIC["tan"], 1.0, 0.0),
        (avoiding("1/x", 10.0), 1.0, 0.0),
        (expression.function("f", "x**x"), 1.0, 3.0),
        (expression.function("f", "x**1.5"), 1.0, 0.0),
        *((Unary("no known bound", evaluate, lambda g, x: x), 1.0, 0.0) for evaluate in others),
    ):
        with pytest.raises(InvalidKan) as caught:
            Table.of(Edges.of(edges_of(function, rate, shift)), -ends, ends)
        assert caught.value.code == "certificate-not-supported"


def test_enclosures_of_edges_are_close() -> None:
    rng = np.random.default_rng(5)
    checked_bases = basis_examples.examples("bspline")[3:45:9]  # of the degrees 1 to 5, on uneven knots
    for name in ("gaussian", "fourier", "polynomial", "sech2", "sine", "uniform_cubic"):
        checked_bases.append(
            next(b for b in basis_examples.examples(name) if b.sources in (None, SOURCES) and b.functions > 1)
        )
    for basis in checked_bases:
        checked = layer(BasisTerm(basis, rng.normal(size=(*SHAPE, basis.functions))))
        low, high = basis.support(SOURCES).outer
        table = Table.of(Edges.of(checked), low, high)
        values = Edges.of(checked).values(np.linspace(low, high, 4000))
        lowest, highest, least, most = table.facts()
        assert (highest - lowest <= 1.02 * np.ptp(values, axis=0)).all()
        slopes = np.diff(values, axis=0) / np.diff(np.linspace(low, high, 4000), axis=0)[:, :, None]
        assert (most - least <= 1.1 * np.ptp(slopes, axis=0)).all()
