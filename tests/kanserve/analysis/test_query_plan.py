"""Edge selection, as properties compared with a plain definition."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kanexport.shared.manifest import LayerInfo
from kanserve.analysis import query_plan
from kanserve.analysis.query_plan import LayerPlan
from kanserve.errors import BadRequest
from kanserve.pb import kan_pb2
from kanserve.types import PLAIN, EdgeOptions, EdgeRequest

FEWER = settings(max_examples=settings.default.max_examples // 5)


def layer(sources: int, destinations: int, positions: tuple[int, ...] = (), name: str = "") -> LayerInfo:
    lists: dict[str, Any] = dict.fromkeys(("bases", "pre_steps", "post_steps", "mask", "bias", "symbolic"), ())
    files = dict.fromkeys(("node_tensor", "edges_file", "edges_tensor"), "")
    return LayerInfo(
        sources=sources,
        destinations=destinations,
        active_edges=sources * destinations,
        name=name,
        positions=positions,
        **lists,
        **files,
    )


def planned(model: list[LayerInfo], options: EdgeOptions = PLAIN, **selection: Any) -> tuple[LayerPlan, ...]:
    request = EdgeRequest("m", "", id="", rows=(), row_count=0, **selection)
    return query_plan.plan(model, [own.sources for own in model], request, options)


LAYERS = [layer(3, 4, name="stem"), layer(4, 2, (6, 6), "head.layers.0"), layer(1, 5, name="stem")]
floats = st.floats(-1e3, 1e3, width=32) | st.sampled_from([float("nan"), float("inf"), 0.0])
cubes = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=floats)


@st.composite
def selections(draw: st.DrawFn) -> tuple[np.ndarray, LayerPlan]:
    values = draw(cubes)
    sources = draw(st.lists(st.integers(0, values.shape[1] - 1), unique=True))
    destinations = draw(st.lists(st.integers(0, values.shape[2] - 1), unique=True))
    k = draw(st.integers(0, 30))
    only = [layer(*values.shape[1:])]
    (plan,) = planned(only, EdgeOptions(top_k=k), sources=tuple(sources), destinations=tuple(destinations))
    assert plan.sources == tuple(sources or range(values.shape[1]))
    assert plan.destinations == tuple(destinations or range(values.shape[2]))
    return values, plan


@FEWER
@given(selections())
def test_pick_keeps_the_order_asked_for(selection: tuple[np.ndarray, LayerPlan]) -> None:
    values, plan = selection
    expected = values[:, list(plan.sources)][:, :, list(plan.destinations)]
    np.testing.assert_array_equal(query_plan.pick(values, plan), expected)
    assert plan.top_k <= math.prod(expected.shape[1:])


@FEWER
@given(cubes, st.integers(1, 4))
def test_strengths_of_chunks_join(values: np.ndarray, at: int) -> None:
    parts = np.maximum(query_plan.strengths(values[:at]), query_plan.strengths(values[at:]))
    np.testing.assert_array_equal(parts, query_plan.strengths(values))


@pytest.mark.parametrize("distinct", [3, 40, 10**6])
@pytest.mark.parametrize("k", [1, 7, 30])
def test_the_strongest_of_many_are_those_of_a_sort(distinct: int, k: int) -> None:
    """From k parts on, the maxima of the parts give a bound. Few distinct values have many ties."""
    rng = np.random.default_rng(k)
    for rows in (1, 20, 33):
        values = rng.integers(-distinct, distinct, (1, rows, query_plan.PART)).astype(np.float32)
        values[0, 0, :2] = np.nan, np.inf
        strength = query_plan.strengths(values)
        positions = np.ravel_multi_index(query_plan.strongest(strength, k), strength.shape)
        assert positions[0] == 0  # an edge that broke comes first
        assert positions.tolist() == np.argsort(-strength.ravel(), kind="stable")[:k].tolist()


@given(st.integers(0, 300), st.integers(0, 9), st.lists(st.integers(1, 300), max_size=3).map(tuple))
def test_no_response_is_larger_than_its_bound(rows: int, k: int, positions: tuple[int, ...]) -> None:
    (plan,) = planned([layer(3, 2, positions)], EdgeOptions(top_k=k))
    edges = {"sources": range(k), "destinations": range(k)} if k else {"sources": range(3), "destinations": range(2)}
    message = kan_pb2.LayerEdges(layer=0, shape=plan.shape(rows), **edges)
    assert math.prod(plan.shape(rows)) == rows * math.prod(positions) * (min(k, 6) or 6)
    size = 4 * math.prod(plan.shape(rows))
    assert plan.response_bytes(rows) >= size + message.ByteSize() + 16  # tags and lengths of values and message


def test_layers_by_index_and_by_name() -> None:
    for wanted, actual in (
        ((), (0, 1, 2)),
        ((2, "head.layers.0"), (2, 1)),
        (("stem",), (0, 2)),
        (("head.layers.0", "stem"), (1, 0, 2)),
    ):
        assert query_plan.find([own.name for own in LAYERS], wanted) == actual


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        ({"layers": [3]}, "unknown layer 3: the model has 3 layers"),
        ({"sources": [1]}, "layer 2 has 1 sources"),
        ({"layers": [1], "destinations": [2]}, "layer 1 has 2 destinations"),
        ({"layers": [0, 0]}, "layer 0 is named twice"),
        ({"layers": [2, "stem"]}, "layer 2 is named twice"),
        (
            {"layers": ["tail"]},
            "unknown layer 'tail': the model has 'stem', 'head.layers.0'; its 3 layers have the numbers 0 to 2",
        ),
        ({"layers": ["x" * 9000]}, r"^unknown layer 'x{64}\.\.\.':"),
        ({"layers": [0], "sources": [1, 2, 1]}, "source 1 is named twice"),
    ],
)
def test_what_does_not_exist_is_named(selection: dict[str, list[int | str]], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        planned(LAYERS, **selection)


def test_names_that_are_none_or_many_are_told_in_short() -> None:
    nameless = "the layers of the model have no names; its 2 layers have the numbers 0 to 1"
    many = [f"n{at}" for at in range(100)]
    for names, wanted, text in (
        (["", ""], "head", nameless),
        (["", ""], "", nameless),
        (many, "head", "'n19' and 80 more; its 100 layers"),
    ):
        with pytest.raises(BadRequest, match=text):
            query_plan.find(names, [wanted])
