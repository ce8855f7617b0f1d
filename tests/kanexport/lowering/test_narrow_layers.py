"""Layers with few destinations as one matrix product: equal values, used if measured to be faster."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.bases.bspline import BSpline, Repeated
from kanexport.graph.precision import HALF
from kanexport.ir.model import BasisTerm, Kan
from kanexport.ir.norms import LayerNorm
from kanexport.lowering import lower, spline_forms
from kanexport.verify import float64_reference, verify
from kanexport.verify.verify import near_knot_excess
from tests.kanexport.lowering.test_spline_forms import layer, operators, responses, uneven
from tests.support.tiers import spread

FAR = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 50.0, -50.0, 0.0])


def uniform(sources: int, intervals: int) -> BSpline:
    row = np.linspace(-1.5, 1.5, intervals + 7).astype(np.float32).astype(np.float64)
    return BSpline(np.tile(row, (sources, 1)), 3)


def other_form(kan: Kan) -> lower.Lowered:
    with mock.patch.object(spline_forms, "narrow", return_value=False):
        return lower.lower(kan, "float32")


def largest_error(kan: Kan, model: bytes, x: np.ndarray) -> float:
    x = x.astype(np.float32)
    exact = float64_reference.evaluate(kan, x.astype(np.float64)).y
    return float(np.abs(responses(model, x)[0] - exact).max() / np.abs(exact).max())


FEW = spline_forms.FEW_SOURCES
# Sources, degree, intervals.
UNEVEN = [(3, 3, 5), (1, 1, 20), (FEW, 2, 1), (FEW + 1, 1, 5), (FEW, 3, 20), (3, 2, 20), (1, 3, 1), (FEW + 1, 3, 1)]


@spread("sources,degree,intervals", UNEVEN, 2)
def test_any_increasing_knots_are_proved_with_nothing_excused(sources: int, degree: int, intervals: int) -> None:
    kan = Kan(sources, (layer(uneven(sources, intervals, degree), 4),))
    created = lower.lower(kan, "float32")
    assert near_knot_excess(verify.verify(kan, created, "float32").verification) == ""
    assert "Slice" not in operators(created.model)
    assert created.edges == other_form(kan).edges


@spread("sources,intervals", [(3, 5), (1, 20), (3, 1), (FEW, 1), (FEW, 20)], 1)
def test_uniform_knots_are_proved_with_nothing_excused(sources: int, intervals: int) -> None:
    kan = Kan(sources, (layer(uniform(sources, intervals), 4), layer(uniform(4, intervals), 2, seed=1)))
    created = lower.lower(kan, "float32")
    assert near_knot_excess(verify.verify(kan, created, "float32").verification) == ""
    assert operators(created.model).count("HardSigmoid") == 2
    assert len(operators(created.model)) < len(operators(other_form(kan).model))


@given(
    degree=st.integers(1, 3),
    gaps=st.lists(st.floats(2**-12, 4, width=32), min_size=3, max_size=14),
    start=st.floats(-100, 100, width=32),
)
@settings(max_examples=max(2, settings.default.max_examples // 20))
def test_narrow_cells_far_from_zero_keep_their_digits(degree: int, gaps: list[float], start: float) -> None:
    knots = np.cumsum([start, *np.resize(gaps, max(len(gaps), 2 * degree + 1))]).astype(np.float32).astype(np.float64)
    basis = BSpline(np.stack([knots, 2 * knots]), degree, Repeated.TERM)
    kan = Kan(2, (layer(basis, 3),))
    points = np.concatenate([basis.extended.T, (basis.extended.T[1:] + basis.extended.T[:-1]) / 2])
    result = [largest_error(kan, created.model, points) for created in (lower.lower(kan, "float32"), other_form(kan))]
    assert result[0] <= 3e-6 + 2 * result[1]


@pytest.mark.parametrize("basis", [uneven(3, 5), uniform(3, 5), uneven(20, 5)])
def test_what_is_not_finite_or_far_away_goes_where_it_goes_elsewhere(basis: BSpline) -> None:
    sources = len(basis.extended)
    kan = Kan(sources, (layer(basis, 4),))
    rows = np.full((len(FAR), sources), 0.3)
    rows[np.arange(len(FAR)), np.arange(len(FAR)) % sources] = FAR
    rows = np.concatenate([rows, np.tile(FAR[:, None], sources)]).astype(np.float32)
    item, other = (responses(created.model, rows)[0] for created in (lower.lower(kan, "float32"), other_form(kan)))
    np.testing.assert_array_equal(np.isnan(item), np.isnan(other))
    finite = np.isfinite(other) & (np.abs(other) < 1e20)
    assert finite.any()
    np.testing.assert_allclose(item[finite], other[finite], rtol=1e-5, atol=1e-4)


def test_repeated_knots_float64_other_degrees_and_norms_behind_keep_the_other_form() -> None:
    row = np.array([-3.0, -2, -1, 0, 0.5, 0.5, 1, 2, 3, 4])
    repeated = BSpline(np.tile(row, (3, 1)), 3, Repeated.TERM)
    for basis in (repeated, uneven(3, 5, 4), uneven(3, spline_forms.COLUMNS // 2)):
        assert not spline_forms.narrow(layer(basis, 4))
    assert not spline_forms.narrow(layer(uneven(3, 5), spline_forms.FEW_DESTINATIONS + 1))
    item = layer(uneven(3, 5), 4)
    assert spline_forms.narrow(item)
    half = tuple(dataclasses.replace(term, stored=HALF) for term in item.terms if isinstance(term, BasisTerm))
    assert not spline_forms.narrow(dataclasses.replace(item, terms=half))
    kan = Kan(3, (item,))
    wide = lower.lower(kan, "float64").model
    with mock.patch.object(spline_forms, "narrow", return_value=False):
        assert lower.lower(kan, "float64").model == wide
    norm = LayerNorm(np.ones(4), np.zeros(4), 1e-5)
    kan = Kan(3, (dataclasses.replace(layer(uneven(3, 5), 4), post_steps=(norm,)),))
    assert lower.lower(kan, "float32").model == other_form(kan).model


# Sources, destinations, cells, uniform, and how many times as fast it was at 1 and at 64 rows (`benchmarks/narrow.py`).
MEASURED = [
    (16, 16, 5, True, 1.16, 1.24), (32, 32, 5, True, 1.08, 0.93), (64, 32, 20, False, 1.24, 1.33),
    (64, 64, 5, False, 1.13, 0.86), (256, 10, 5, False, 1.25, 1.38), (784, 10, 5, False, 0.86, 1.51),
]  # fmt: skip


def test_the_form_is_chosen_where_it_was_measured_to_be_faster() -> None:
    wrong = []
    for sources, destinations, cells, even, one, many in MEASURED:
        chosen = spline_forms.narrow(layer((uniform if even else uneven)(sources, cells), destinations))
        if not (min(one, many) >= 1 if chosen else min(one, many) < 1.1):
            wrong.append((sources, destinations, cells, even, chosen))
    assert wrong == []
