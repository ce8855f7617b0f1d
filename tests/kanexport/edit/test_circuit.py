"""Networks with forms on rows: outputs, derivatives, joint fits, and the network with symbolic edges."""

import numpy as np
import pytest

from kanexport.edit import circuit, library
from kanexport.edit.circuit import At, Circuit, Judge
from kanexport.edit.curve_fit import Form
from kanexport.ir.model import Kan
from kanexport.verify import float64_reference
from tests.support.golden_cases import network

X = np.random.default_rng(2).uniform(-1, 1, (200, 2))


def form(name: str, a: float = 1.0, b: float = 0.0, c: float = 1.0, d: float = 0.0) -> Form:
    return Form(library.ALL[name], a, b, c, d)


TRUE: dict[At, Form] = {(0, 0, 0): form("sin", np.pi), (0, 1, 0): form("x^2"), (1, 0, 0): form("exp")}


@pytest.fixture(scope="module")
def hello() -> Kan:
    return network("pykan-hello-pruned")


def test_forms_are_symbolic_edges_of_the_network(hello: Kan) -> None:
    forms = TRUE | {(0, 1, 0): form("0", d=0.25)}
    tested = Circuit.of(hello, X, forms)
    kan = circuit.network(hello, forms)
    assert tested.y == pytest.approx(float64_reference.evaluate(kan, X).y, rel=1e-12)
    assert tested.y[:, 0] == pytest.approx(np.exp(np.sin(np.pi * X[:, 0]) + 0.25), rel=1e-12)
    assert not list(circuit.active(kan))
    assert [edge.function.name for layer in kan.layers for edge in layer.symbolic] == ["sin", "exp"]
    # Rows with NaN stay NaN, also in an input whose edge becomes a constant.
    rows = np.array([[np.nan, 0.0], [0.0, np.nan], [0.0, 0.0]])
    before, after = (np.isnan(float64_reference.evaluate(own, rows).y[:, 0]) for own in (hello, kan))
    assert before.tolist() == after.tolist() == [True, True, False]


def test_an_edge_is_replaced_without_building_the_network_again_and_has_slopes(hello: Kan) -> None:
    whole, at = Circuit.of(hello, X, {}), (0, 0, 0)
    values = whole.values(at)
    y = whole.replaced(at, values, TRUE[at].values(X[:, 0]))
    assert y == pytest.approx(Circuit.of(hello, X, {at: TRUE[at]}).y, rel=1e-9)
    tested = Circuit.of(hello, X, TRUE)
    assert tested.slopes(0, 0) == pytest.approx(tested.y, rel=1e-4)  # of exp


def test_a_joint_fit_finds_the_constants(hello: Kan) -> None:
    target = Circuit.of(hello, X, TRUE).y
    wrong = {
        (0, 0, 0): form("sin", 3.0, 0.1, 0.8, 0.1),
        (0, 1, 0): form("x^2", 1.0, 0.1, 0.9, 0.0),
        (1, 0, 0): form("exp", 1.1, 0.0, 0.9, 0.1),
    }
    judge = Judge.of(target)
    found = circuit.refit(Circuit.of(hello, X, wrong), judge)
    assert judge.error(found.y) < 1e-10
    assert found.forms[0, 0, 0].a == pytest.approx(np.pi, rel=1e-6)


def test_a_joint_fit_keeps_fixed_parameters_and_domains(hello: Kan) -> None:
    start = TRUE | {(0, 1, 0): form("sqrt", 1.0, 1.5)}
    judge = Judge.of(Circuit.of(hello, X, TRUE).y)
    found = circuit.refit(Circuit.of(hello, X, start), judge, frozenset({((0, 0, 0), "a")}))
    assert found.forms[0, 0, 0].a == np.pi
    assert found.defined()


def test_errors_are_relative_to_the_spread() -> None:
    reference = np.stack([np.linspace(0, 1, 50), np.full(50, 4.0)], axis=1)
    judge = Judge.of(reference)
    assert judge.error(reference) == 0
    assert judge.error(reference + np.array([0.0, 0.4])) == pytest.approx(0.1)
    assert judge.error(reference + np.array([reference[:, 0].std(), 0.0])) == pytest.approx(1)
    assert judge.error(np.full_like(reference, np.nan)) == np.inf
