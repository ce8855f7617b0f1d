"""Selecting edges, as properties against the plain definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kanserve.errors import BadRequest
from kanserve.interpret import select

SHAPES = [(3, 4), (4, 2), (1, 5)]
floats = st.floats(-1e3, 1e3, width=32) | st.sampled_from([float("nan"), float("inf"), 0.0])
cubes = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=floats)


@st.composite
def selections(draw: st.DrawFn) -> tuple[np.ndarray, select.LayerPlan]:
    values = draw(cubes)
    sources = draw(st.lists(st.integers(0, values.shape[1] - 1), unique=True))
    destinations = draw(st.lists(st.integers(0, values.shape[2] - 1), unique=True))
    k = draw(st.integers(0, 30))
    (plan,) = select.plan([values.shape[1:]], layers=[], sources=sources, destinations=destinations, top_k=k)
    assert plan.sources == tuple(sources or range(values.shape[1]))
    assert plan.destinations == tuple(destinations or range(values.shape[2]))
    return values, plan


@given(selections())
def test_pick_keeps_the_order_asked_for(selection: tuple[np.ndarray, select.LayerPlan]) -> None:
    values, plan = selection
    found = select.pick(values, plan)
    for a, i in enumerate(plan.sources):
        for b, j in enumerate(plan.destinations):
            np.testing.assert_array_equal(found[:, a, b], values[:, i, j])


@given(selections())
def test_top_k_leaves_out_nothing_stronger(selection: tuple[np.ndarray, select.LayerPlan]) -> None:
    values, plan = selection
    strength = select.strengths(select.pick(values, plan))
    rows, columns = select.strongest(strength, plan.top_k)
    kept = strength[rows, columns]
    assert len(kept) == plan.top_k <= strength.size
    assert list(kept) == sorted(kept, reverse=True)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == plan.top_k
    rest = np.ones(strength.shape, bool)
    rest[rows, columns] = False
    if plan.top_k:
        assert np.all(strength[rest] <= kept[-1])


@given(cubes, st.integers(1, 4))
def test_strengths_of_chunks_join(values: np.ndarray, at: int) -> None:
    parts = np.maximum(select.strengths(values[:at]), select.strengths(values[at:]))
    np.testing.assert_array_equal(parts, select.strengths(values))


def test_an_edge_that_broke_comes_first() -> None:
    values = np.array([[[1, np.nan], [9, 2]]], np.float32)
    rows, columns = select.strongest(select.strengths(values), 1)
    assert (rows[0], columns[0]) == (0, 1)


def test_ties_go_by_position() -> None:
    rows, columns = select.strongest(np.ones((2, 2), np.float32), 3)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0)]


@given(st.integers(0, 5000), st.integers(0, 10))
def test_the_size_is_bounded_before_anything_is_computed(rows: int, k: int) -> None:
    for plan in select.plan(SHAPES, layers=[], sources=[], destinations=[], top_k=k):
        edges = min(k, len(plan.sources) * len(plan.destinations)) or len(plan.sources) * len(plan.destinations)
        assert plan.values(rows) == rows * edges
        assert plan.response_bytes(rows) >= rows * edges * 4


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        ({"layers": [3]}, "layer 3 does not exist: the model has 3 layers, numbered 0 to 2"),
        ({"sources": [1]}, "layer 2 has 1 sources"),
        ({"layers": [1], "destinations": [2]}, "layer 1 has 2 destinations"),
        ({"layers": [0, 0]}, "layer 0 is named twice"),
        ({"layers": [0], "sources": [1, 2, 1]}, "source 1 is named twice"),
    ],
)
def test_wrong_indices_are_named(selection: dict[str, list[int]], text: str) -> None:
    full = {"layers": [], "sources": [], "destinations": [], **selection}
    with pytest.raises(BadRequest, match=text):
        select.plan(SHAPES, top_k=0, **full)
