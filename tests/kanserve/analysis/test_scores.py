"""Scores over a batch: pure functions, and over the wire."""

import dataclasses
import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kanexport.shared.manifest import LayerInfo, NodeStep
from kanserve.analysis import scores
from kanserve.analysis.scores import Moments, Spread
from kanserve.pb import kan_pb2
from tests.support import toy_model
from tests.support.server_process import KAN, Server

FEWER = settings(max_examples=settings.default.max_examples // 5)
LAYER: LayerInfo = toy_model.manifest("toy").layers[0]
ROWS = np.random.default_rng(8).normal(size=(50, 3))


@FEWER
@given(
    arrays.arrays(np.float32, (9, 2), elements=st.floats(-100, 100, width=32)),
    st.lists(st.integers(0, 9), max_size=4),
    st.sampled_from([0.0, 1e6]),
)
def test_a_spread_is_the_same_in_pieces(values: np.ndarray, cuts: list[int], far: float) -> None:
    """Also of numbers far from zero, which a sum of squares would lose."""
    moved = values.astype(np.float64) + far
    moments = Moments()
    for part in np.split(moved, sorted(cuts)):
        moments.add(part)
    assert moments.count == 9
    np.testing.assert_allclose(moments.std(), moved.std(axis=0, ddof=1), rtol=1e-6, atol=1e-5)


def by_loops(layers: list[LayerInfo], spreads: list[Spread], widths: list[int]) -> list[np.ndarray]:
    """pykan's rule, number by number: the scores of the nodes that each layer is given."""
    score = [1 / widths[-1]] * widths[-1]
    every = []
    for layer, spread, width in reversed(list(zip(layers, spreads, widths, strict=False))):
        groups = layer.post_steps[-1].indices
        own = [item for item, size in zip(score, groups, strict=True) for _ in range(size)]
        score = [0.0] * width
        for source, column in enumerate(layer.pre_steps[0].indices):
            for end in range(layer.destinations):
                score[column] += own[end] * spread.edges[source, end] / (spread.sums[end] + 1e-4)
        every.append(np.array(score))
    return every[::-1]


@st.composite
def spread_networks(draw: st.DrawFn) -> tuple[list[LayerInfo], list[Spread], list[int]]:
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    layers, spreads = [], []
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    for given_width, width in itertools.pairwise(widths):
        columns = tuple(draw(st.lists(st.integers(0, given_width - 1), min_size=1, max_size=4)))
        groups = tuple(draw(st.lists(st.integers(1, 3), min_size=width, max_size=width)))
        affine = NodeStep(kind="affine", scale=(1.0,) * sum(groups), bias=(0.0,) * sum(groups))
        layers.append(
            dataclasses.replace(
                LAYER,
                sources=len(columns),
                destinations=sum(groups),
                pre_steps=(NodeStep(kind="select", indices=columns),),
                post_steps=(affine, NodeStep(kind="product", indices=groups)),
            )
        )
        shape = (len(columns), sum(groups))
        spreads.append(Spread(rng.exponential(size=shape) * (rng.random(shape) < 0.8), rng.exponential(size=shape[1])))
    return layers, spreads, widths


@given(spread_networks())
def test_scores_are_pykan_s_rule_number_by_number(network: tuple[list[LayerInfo], list[Spread], list[int]]) -> None:
    layers, spreads, widths = network
    responses = scores.attribute(layers, spreads, widths)
    for response, expected, spread in zip(responses, by_loops(layers, spreads, widths), spreads, strict=True):
        np.testing.assert_allclose(response.nodes, expected, rtol=1e-9, atol=1e-12)
        assert (response.edges >= 0).all()
        assert (response.edges[spread.edges == 0] == 0).all()  # what does not move has no score


def ask(server: Server, given_rows: np.ndarray | None, **fields: Any) -> kan_pb2.EdgeScoresResponse:
    rows = {} if given_rows is None else {"rows": given_rows.tobytes(), "row_count": len(given_rows)}
    message = kan_pb2.EdgeScoresRequest(**{"model_name": "toy", **rows, **fields})
    return kan_pb2.EdgeScoresResponse.FromString(server.call(f"{KAN}EdgeScores", message.SerializeToString()))


def test_over_rows(server: Server) -> None:
    for model, dtype in (("toy", "<f4"), ("toy64", "<f8")):
        rows = ROWS.astype(dtype)
        response = ask(server, rows, model_name=model, id="s1")
        assert (response.model_name, response.id, response.source, response.row_count) == (model, "s1", "rows", 50)
        score = np.full(2, 0.5)
        for layer in reversed(response.layers):
            values = toy_model.edges(rows, layer.layer)
            spread = values.std(axis=0, ddof=1)
            expected = spread * score / (values.sum(axis=1).std(axis=0, ddof=1) + 1e-4)
            shape = (layer.sources, layer.destinations)
            np.testing.assert_allclose(np.frombuffer(layer.std, "<f4").reshape(shape), spread, rtol=1e-4)
            np.testing.assert_allclose(np.frombuffer(layer.edges, "<f4").reshape(shape), expected, rtol=1e-4)
            score = expected.sum(axis=1)
            np.testing.assert_allclose(np.frombuffer(layer.nodes, "<f4"), score, rtol=1e-4)
    response = ask(server, None)
    assert (response.source, response.row_count) == ("reference", len(toy_model.manifest("toy").reference.inputs))
