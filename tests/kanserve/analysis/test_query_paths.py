"""Paths from an input to an output, compared with a walk from edge to edge."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.shared.manifest import LayerInfo, NodeStep, SymbolicEdge
from kanserve.analysis import query_plan

FEWER = settings(max_examples=settings.default.max_examples // 5)


def layer(mask: np.ndarray, *after: NodeStep, symbolic: tuple[SymbolicEdge, ...] = ()) -> LayerInfo:
    sources, destinations = mask.shape
    return LayerInfo(
        sources=sources, destinations=destinations, bases=(), pre_steps=(), post_steps=after,
        mask=tuple(map(tuple, mask.tolist())), bias=(), symbolic=symbolic, active_edges=int(mask.sum()),
        node_tensor="", edges_file="", edges_tensor="",
    )  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[LayerInfo], list[int]]:
    widths, layers = [draw(st.integers(1, 4))], []
    for _ in range(draw(st.integers(1, 3))):
        groups = draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))
        kind = draw(st.sampled_from(["none", "product", "select", "layernorm"]))
        wide = sum(groups)
        flags = draw(st.lists(st.booleans(), min_size=widths[-1] * wide, max_size=widths[-1] * wide))
        mask = np.array(flags, float).reshape(widths[-1], wide)
        after = {
            "none": (),
            "product": (NodeStep(kind="product", indices=tuple(groups)),),
            "select": (NodeStep(kind="select", indices=tuple(draw(st.permutations(range(wide)))[:2])),),
            "layernorm": (NodeStep(kind="layernorm", scale=(1.0,) * wide, bias=(0.0,) * wide, epsilon=1e-5),),
        }[kind]
        layers.append(layer(mask, *after))
        widths.append(query_plan.results(layers[-1]).shape[1])
    return layers, widths


@FEWER
@given(networks(), st.data())
def test_every_edge_between_the_ends_leads_on(network: tuple[list[LayerInfo], list[int]], data: st.DataObject) -> None:
    """Against a walk from edge to edge."""
    layers, widths = network
    start, end = data.draw(st.integers(0, widths[0] - 1)), data.draw(st.integers(0, widths[-1] - 1))

    def walk(at: int, node: int) -> tuple[bool, set[tuple[int, int, int]]]:
        if at == len(layers):
            return node == end, set()
        arrived, seen = False, set()
        for j in range(layers[at].destinations):
            if not layers[at].mask[node][j]:
                continue
            for onward in np.flatnonzero(query_plan.results(layers[at])[j]):
                there, edges = walk(at + 1, int(onward))
                if there:
                    arrived, seen = True, seen | {(at, node, j)} | edges
        return arrived, seen

    expected = walk(0, start)[1]
    for at, (sources, destinations) in enumerate(query_plan.on_the_way(layers, widths[:-1], start, end)):
        assert set(sources) == {i for layer, i, _ in expected if layer == at}
        assert set(destinations) == {j for layer, _, j in expected if layer == at}


def test_symbolic_edges_lead_and_selected_columns_alone_are_sources() -> None:
    edge = SymbolicEdge(source=0, destination=1, function="sin", a=1, b=0, c=1, d=0, mask=1)
    item = layer(np.zeros((2, 2)), symbolic=(edge,))
    assert query_plan.on_the_way([item], [2], 0, 1) == [((0,), (1,))]
    assert query_plan.on_the_way([item], [2], 1, 1) == [((), ())]
    item = layer(np.ones((2, 1)))
    chosen = dataclasses.replace(item, pre_steps=(NodeStep(kind="select", indices=(3, 0)),))
    assert query_plan.on_the_way([chosen], [5], 3, 0) == [((0,), (0,))]
    assert query_plan.on_the_way([chosen], [5], 4, 0) == [((), ())]


def test_a_step_links_the_sums_that_its_results_depend_on() -> None:
    scale = (1.0,) * 3
    for step, links in (
        (NodeStep(kind="affine", scale=scale, bias=scale), np.eye(3)),
        (NodeStep(kind="product", indices=(2, 1)), [[1, 0], [1, 0], [0, 1]]),
        (NodeStep(kind="layernorm", scale=scale, bias=scale, epsilon=1e-5), np.ones((3, 3))),
        (NodeStep(kind="function", function="tanh"), np.eye(3)),
        (NodeStep(kind="function", function="softmax"), np.ones((3, 3))),
    ):
        np.testing.assert_array_equal(query_plan.results(layer(np.ones((2, 3)), step)), links)
