"""Operations on golden networks: the curve that was requested, exact or with its measured error."""

from typing import Any

import numpy as np
import pytest

from kanexport.edit import apply as edits
from kanexport.edit import edge as edges
from kanexport.edit import operations
from kanexport.errors import ExportError
from kanexport.ir.model import Kan
from kanexport.verify import float64_reference
from tests.support.golden_cases import network

SPLINE, SYMBOLIC, WAVELET = "pykan-hello-adapted", "pykan-hello-symbolic", "wav-kan-mexican-hat-wine"


def changed(kan: Kan, operation: str, value: Any, at: str = "0:0:0") -> tuple[edits.Edited, Any, Any, np.ndarray]:
    """The edited network, the curves before and after, and points of the grid."""
    edited = edits.apply(kan, [operations.parse(at, operation, value)])
    before = edges.find(kan, operations.edge_of(at))
    after = edges.Edge(edited.kan.layers[before.at[0]], before.at)
    return edited, before.values, after.values, np.linspace(*before.grid(), 301)


@pytest.mark.parametrize("name", [SPLINE, SYMBOLIC, WAVELET])
def test_an_exact_edit_has_the_requested_curve(name: str) -> None:
    for operation, value, expected in (
        ("to", "1.2*sin(x)", lambda before, x: 1.2 * np.sin(x)),
        ("to", "x*sin(x)", lambda before, x: x * np.sin(x)),
        ("to", "0.25", lambda before, x: 0.25 + 0 * x),
        ("zero", True, lambda before, x: 0 * x),
        ("raise", "-0.5", lambda before, x: before(x) - 0.5),
    ):
        edited, before, after, x = changed(network(name), operation, value)
        wide = np.concatenate([x, 3 * x])
        np.testing.assert_allclose(after(wide), expected(before, wide), atol=1e-12)
        assert edited.changes[0].form == edits.EXACT
        assert edited.changes[0].error_max == 0


def test_a_function_and_a_wavelet_move_exactly_and_a_spline_within_its_measured_error() -> None:
    for name in (SYMBOLIC, WAVELET):
        edited, before, after, x = changed(network(name), "shift", 0.125)
        np.testing.assert_allclose(after(x), before(x - 0.125), atol=1e-12)
        assert edited.changes[0].form == edits.EXACT
    edited, before, after, x = changed(network(SPLINE), "shift", 0.1)
    change = edited.changes[0]
    assert change.form == edits.FITTED
    assert np.abs(after(x) - before(x - 0.1)).max() <= 1.5 * change.error_max < 0.002


def test_a_spline_is_limited_made_monotone_and_fitted_to_points() -> None:
    _, before, limited, x = changed(network(SPLINE), "clamp", "-0.05:0.1")
    assert before(x).max() > 0.12
    assert limited(x).max() <= 0.1 + 1e-12
    _, _, rising, _ = changed(network(SPLINE), "monotone", "up")
    assert (np.diff(rising(x)) >= -1e-12).all()
    edited, _, falling, _ = changed(network(SPLINE), "monotone", "down")
    assert (np.diff(falling(x)) <= 1e-12).all()
    assert "the nearest curve of its basis differs from the curve before by up to" in edited.notes()[0]
    _, _, after, _ = changed(network(SPLINE), "points", [[-0.5, 1], [0.5, 2]])
    assert after(np.array([-0.5, 0.5])) == pytest.approx([1, 2])


def test_several_edits_change_only_their_edges() -> None:
    kan = network(SPLINE)
    requested = [operations.parse("0:1:2", "zero", True), operations.parse("1:3:0", "to", "x**2")]
    edited = edits.apply(kan, requested)
    assert [change.edit for change in edited.changes] == requested
    assert edited.notes() == ("edge 0:1:2 was edited: zero", "edge 1:3:0 was edited: to x**2")
    x = np.random.default_rng(0).uniform(-1, 1, (64, kan.layers[1].sources))
    ((_, before, _),) = float64_reference.edges(kan.layers[1], x)
    ((_, after, _),) = float64_reference.edges(edited.kan.layers[1], x)
    np.testing.assert_allclose(after[:, 3, 0], x[:, 3] ** 2)
    assert set(map(tuple, np.argwhere((before != after).any(axis=0)))) == {(3, 0)}
    assert kan.layers[1].symbolic == ()  # the network before is unchanged


def test_an_edit_of_an_edit() -> None:
    """A spline edge with a raised curve has two parts, which later operations treat as one curve."""
    raised, before, _, _ = changed(network(SPLINE), "raise", 2)
    _, _, after, x = changed(raised.kan, "clamp", "1.9:2.05")
    assert after(x).min() >= 1.9 - 1e-12
    assert after(x).max() <= 2.05 + 1e-12
    _, _, back, _ = changed(raised.kan, "raise", -2)
    np.testing.assert_allclose(back(x), before(x), atol=1e-15)


def test_an_edit_that_is_not_possible_is_explained() -> None:
    for name, operation, value, code in (
        (SPLINE, "to", "1/x", "expression-undefined"),
        (SPLINE, "to", "log(x)", "expression-undefined"),
        (SPLINE, "to", "sin(y)", "expression-invalid"),
        (SPLINE, "shift", 5, "shift-too-far"),
        (SPLINE, "points", [[7, 1]], "point-out-of-grid"),
        (SYMBOLIC, "points", [[0, 1]], "edit-not-supported"),
        (SYMBOLIC, "monotone", "up", "edit-not-supported"),
        (WAVELET, "monotone", "up", "edit-not-supported"),
        (WAVELET, "clamp", "0:1", "edit-not-supported"),
        ("efficient-kan-digits", "to", "1/(x-0.125)", "expression-undefined"),
    ):
        source, destination = np.argwhere(network(name).layers[0].active())[0]
        with pytest.raises(ExportError, match=f"edge 0:{source}:{destination}") as error:
            edits.apply(network(name), [operations.parse(f"0:{source}:{destination}", operation, value)])
        assert error.value.code == code
        assert error.value.hint
