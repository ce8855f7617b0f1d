"""Property tests of the pure functions in analysis/, for arbitrary inputs."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kanexport.contract.manifest import BasisInfo, LayerInfo, NodeStep
from kanserve.analysis import attribution, curves, drift, scores
from kanserve.analysis.curves import Origin
from kanserve.analysis.scores import Spread
from tests.kanserve.analysis.test_drift import counted, found
from tests.kanserve.repository.test_validation import EDGE as SYMBOLIC
from tests.support import toy_model

FEWER = settings(max_examples=settings.default.max_examples // 5)
LAYER: LayerInfo = toy_model.manifest("toy").layers[0]
VALUES = st.floats(-3, 3, width=32)
SAMPLES = arrays.arrays(np.float64, st.tuples(st.integers(2, 40), st.just(2)), elements=VALUES)


@FEWER
@given(SAMPLES, SAMPLES)
def test_drift_is_a_distance_and_the_same_from_both_sides(before: np.ndarray, now: np.ndarray) -> None:
    there, back = found(before, now), found(now, before)
    for name in ("psi", "js", "wasserstein"):
        item, other = getattr(there, name), getattr(back, name)
        assert (item >= -1e-12).all()
        np.testing.assert_allclose(item, other, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(getattr(found(now, now), name), 0.0, atol=1e-12)
    assert (there.js <= 1).all()
    assert (there.wasserstein <= len(counted(before).counts[0]) - 1).all()
    np.testing.assert_allclose(there.psi_threshold, back.psi_threshold)
    np.testing.assert_array_equal(there.out_of_range, back.baseline_out_of_range)
    assert ((there.out_of_range >= 0) & (there.out_of_range <= 1)).all()
    assert there.ratio == pytest.approx(float(np.max(there.psi / there.psi_threshold)))


@FEWER
@given(SAMPLES, st.permutations(range(2)), st.randoms())
def test_drift_does_not_hang_on_the_order_of_rows_or_nodes(before: np.ndarray, order: list[int], draw: object) -> None:
    now = np.roll(before, 1, axis=0) + 0.3
    item, other = found(before, now), found(before[:, order], now[::-1][:, order])
    for name in ("psi", "js", "wasserstein", "psi_threshold", "out_of_range"):
        np.testing.assert_allclose(getattr(item, name)[order], getattr(other, name), atol=1e-12)


@given(st.floats(0.5, 0.9999), st.integers(1, 200))
def test_the_level_of_chance_is_that_of_chi_squared(share: float, degrees: int) -> None:
    exact = scipy.stats.chi2.ppf(share, degrees)
    error = 0.08 if degrees < 3 else 0.04 if degrees < 10 else 0.02
    assert drift.chi_squared(share, degrees) == pytest.approx(exact, rel=error)
    assert drift.chi_squared(share, degrees) <= drift.chi_squared(share, degrees + 1)


def by_loops(layers: list[LayerInfo], spreads: list[Spread], widths: list[int]) -> list[np.ndarray]:
    """pykan's rule, number by number: the scores of the nodes that each layer is given."""
    score = [1 / widths[-1]] * widths[-1]
    every = []
    for layer, spread, width in reversed(list(zip(layers, spreads, widths, strict=False))):
        groups = layer.post_steps[0].indices
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
        layers.append(
            dataclasses.replace(
                LAYER,
                sources=len(columns),
                destinations=sum(groups),
                pre_steps=(NodeStep(kind="select", indices=columns),),
                post_steps=(NodeStep(kind="product", indices=groups),),
            )
        )
        shape = (len(columns), sum(groups))
        spreads.append(Spread(rng.exponential(size=shape) * (rng.random(shape) < 0.8), rng.exponential(size=shape[1])))
    return layers, spreads, widths


@given(spread_networks())
def test_scores_are_pykan_s_rule_number_by_number(network: tuple[list[LayerInfo], list[Spread], list[int]]) -> None:
    layers, spreads, widths = network
    answers = scores.attribute(layers, spreads, widths)
    for answer, expected, spread in zip(answers, by_loops(layers, spreads, widths), spreads, strict=True):
        np.testing.assert_allclose(answer.nodes, expected, rtol=1e-9, atol=1e-12)
        assert (answer.edges >= 0).all()
        assert (answer.edges[spread.edges == 0] == 0).all()  # what does not move has no score


KNOTS = st.lists(st.floats(-100, 100), min_size=1, max_size=8).map(lambda found: tuple(sorted(found)))


@FEWER
@given(st.lists(KNOTS, min_size=3, max_size=3), st.booleans(), arrays.arrays(np.float64, (4, 3), elements=VALUES))
def test_a_range_holds_the_knots_or_what_was_seen(rows: list[tuple[float, ...]], bare: bool, seen: np.ndarray) -> None:
    basis = BasisInfo(kind="bspline", functions=8, parameters={}, knots=() if bare else tuple(rows))
    domain = curves.domain(dataclasses.replace(LAYER, bases=(basis,)), seen)
    assert (domain.low < domain.high).all()
    for at in range(3):
        inside = seen[:, at] if bare else np.array(rows[at])
        assert domain.origins[at] == (Origin.REFERENCE if bare else Origin.GRID)
        assert domain.low[at] <= inside.min()
        assert inside.max() <= domain.high[at]


@given(st.integers(1, 3), st.booleans(), st.integers(0, 2**16))
def test_the_parts_of_an_edge_add_up_to_it(count: int, symbolic: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = list(rng.normal(size=(count, 4, 3, 2)))
    rest = rng.normal(size=(4, 3, 2)) if symbolic else np.zeros((4, 3, 2))
    total = sum(own, rest)
    edge = toy_model.manifest("toy").layers[0]
    layer = dataclasses.replace(edge, symbolic=(SYMBOLIC,) if symbolic else ())
    found_parts = curves.all_parts(layer, total, own)
    assert len(found_parts) == count + symbolic
    np.testing.assert_allclose(sum(found_parts, np.zeros(())), total, atol=1e-12)
    assert curves.all_parts(layer, total, []) == [total]


@given(st.integers(0, 2**16), st.booleans())
def test_a_quotient_times_what_moved_is_what_the_edge_moved(seed: int, steep: bool) -> None:
    """Where a node is as in the reference nothing moved, or the slope is taken."""
    rng = np.random.default_rng(seed)
    h_x, h_r = rng.normal(size=(5, 3)), rng.normal(size=(1, 3))
    h_x[0, 1], h_x[2] = h_r[0, 1], h_r[0]
    e_x, e_r = rng.normal(size=(5, 3, 2)), rng.normal(size=(1, 3, 2))
    slope = rng.normal(size=(1, 3, 2)) if steep else None
    rates = attribution.quotients(e_x, e_r, h_x, h_r, slope)
    near = np.abs(h_x - h_r) <= (attribution.NEAREST if slope is None else attribution.NEAR) * np.maximum(
        np.abs(h_r), 1
    )
    assert near[0, 1]
    assert near[2].all()
    moved = rates * (h_x - h_r)[:, :, None]
    np.testing.assert_allclose(moved[~near], (e_x - e_r)[~near], rtol=1e-9)
    expected = np.zeros((1, 3, 2)) if slope is None else slope
    np.testing.assert_array_equal(rates[near], np.broadcast_to(expected, rates.shape)[near])


@given(st.integers(0, 2**16))
def test_what_bases_read_apart_adds_up_to_the_edges(seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 4, 3, 4))
    norm = NodeStep(kind="layernorm", scale=(1.0,) * 3, bias=(0.0,) * 3, epsilon=1e-5)
    first = BasisInfo(kind="gaussian", functions=4, parameters={}, knots=(), pre_steps=(norm,), edges_tensor="a")
    second = BasisInfo(kind="silu", functions=1, parameters={}, knots=(), edges_tensor="b")
    parts = attribution.parts(dataclasses.replace(LAYER, bases=(first, second)))
    apart = attribution.divided(parts, a + b, {"a": a})
    np.testing.assert_allclose(sum(apart, np.zeros(())), a + b)
    np.testing.assert_allclose(apart[0], a)
