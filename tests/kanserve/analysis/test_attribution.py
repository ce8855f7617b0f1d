"""Contributions through layers on arrays, compared with networks whose contributions are known."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.shared.manifest import BasisInfo, LayerInfo, NodeStep
from kanserve.analysis import attribution
from kanserve.analysis.attribution import LayerActivations, NoParts, Part
from tests.support import toy_model

LAYER: LayerInfo = toy_model.manifest("toy").layers[0]
NORM = (NodeStep(kind="layernorm", scale=(1.0,) * 3, bias=(0.0,) * 3, epsilon=1e-5),)
SPLINE = BasisInfo(kind="gaussian", functions=8, parameters={}, knots=(), pre_steps=NORM, edges_tensor="edges_term0")
BASE = BasisInfo(kind="silu", functions=1, parameters={}, knots=(), edges_tensor="edges_term1")
FEWER = settings(max_examples=settings.default.max_examples // 5)


def made(*bases: BasisInfo, **changes: object) -> LayerInfo:
    return dataclasses.replace(LAYER, bases=bases, **changes)  # type: ignore[arg-type] # fields of a layer


def test_bases_are_told_apart_by_what_they_read() -> None:
    plain = (dataclasses.replace(SPLINE, pre_steps=()), BASE)
    alone = dataclasses.replace(SPLINE, edges_tensor="")
    for layer, parts in (
        (made(*plain), (Part((), ()),)),
        (made(*plain, pre_steps=NORM), (Part(NORM, ()),)),
        (made(SPLINE, BASE), (Part(NORM, ("edges_term0",)), Part((), ()))),
        (made(alone), (Part(NORM, ()),)),
        (made(alone, BASE), (Part((), ()),)),  # the graph has the other's: this one adds nothing
    ):
        assert attribution.parts(layer) == parts
    with pytest.raises(NoParts):  # an edge graph without parts
        attribution.parts(made(alone, dataclasses.replace(BASE, edges_tensor="")))


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


def curve(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[B, S] -> [B, S, D]: sines and squares, of each edge its own."""
    return np.sin(x[:, :, None] * weights) + 0.3 * weights * x[:, :, None] ** 2


def test_a_node_that_is_as_in_the_reference_has_the_slope_there() -> None:
    weights = np.ones((3, 1))
    nodes = np.zeros((1, 3))
    layer = made(BASE, destinations=1)
    parts = attribution.parts(layer)
    below, above = (LayerActivations(nodes + side, (curve(weights, nodes + side),)) for side in (-1e-3, 1e-3))
    (steep,) = attribution.slopes(parts, below, above)
    assert steep is not None
    np.testing.assert_allclose(steep, 1.0, atol=1e-6)  # sin and its square at 0
    zero = LayerActivations(nodes, (curve(weights, nodes),))
    for slope, expected in ((steep, 1.0), (None, 0.0)):
        result = attribution.through(layer, parts, zero, zero, [slope], np.ones((1, 1, 1)))
        np.testing.assert_allclose(result, expected, atol=1e-6)
    assert (
        attribution.slopes(attribution.parts(made(SPLINE, BASE)), *(LayerActivations(nodes, (steep, steep)),) * 2)[0]
        is None
    )


AFTER = {
    "nothing": (),
    "tanh": (NodeStep(kind="function", function="tanh"),),
    "product": (NodeStep(kind="product", indices=(2, 1, 1)),),
    "layernorm": (NodeStep(kind="layernorm", scale=(1.0, 2.0, 1.0, 0.5), bias=(0.0,) * 4, epsilon=1e-5),),
    "rmsnorm": (NodeStep(kind="rmsnorm", scale=(1.0, 2.0, 1.0, 0.5), epsilon=1e-5),),
    "softmax": (NodeStep(kind="function", function="softmax"),),
}


@FEWER
@pytest.mark.parametrize("kind", AFTER)
@given(seed=st.integers(0, 10**6))
def test_a_row_that_is_its_own_reference_has_the_gradient(kind: str, seed: int) -> None:
    """Through a norm before one of the bases, steps, and a second layer; against differences of the whole network.
    Contributions relative to another row add up to the difference of the outputs."""
    rng, after = np.random.default_rng(seed), AFTER[kind]
    wide = 3 if kind == "product" else 4
    shifts = tuple(rng.normal(size=4))
    layers = (made(SPLINE, BASE, bias=shifts, post_steps=after), made(BASE, sources=wide, destinations=2))
    weights = rng.normal(size=(2, 3, 4)), rng.normal(size=(wide, 2))

    def first(nodes: np.ndarray) -> LayerActivations:
        return LayerActivations(
            nodes, (curve(weights[0][0], attribution.read(Part(NORM, ()), nodes)), curve(weights[0][1], nodes))
        )

    def second(nodes: np.ndarray) -> LayerActivations:
        return LayerActivations(nodes, (curve(weights[1], nodes),))

    def network(x: np.ndarray) -> tuple[tuple[LayerActivations, LayerActivations], np.ndarray]:
        item = first(x)
        two = second(attribution.apply_post_steps(layers[0], item.sums(layers[0])))
        return (item, two), two.sums(layers[1])

    x, r = rng.normal(size=(2, 3)), rng.normal(size=(1, 3))
    (seen, outputs), (known, output) = network(x), network(r)
    multipliers = np.broadcast_to(np.eye(2), (2, 2, 2))
    for layer, at, run in reversed(list(zip(layers, seen, (first, second), strict=True))):
        parts = attribution.parts(layer)
        side = 1e-6 * np.where(np.arange(at.nodes.shape[1]) % 2, -1.0, 1.0)
        steep = attribution.gradients(parts, run(at.nodes - side), run(at.nodes + side))
        multipliers = attribution.through(layer, parts, at, at, steep, multipliers)
    step = 1e-6 * np.eye(3)
    expected = np.stack([(network(x + item)[1] - network(x - item)[1]) / 2e-6 for item in step], axis=2)
    spread = np.std(x, axis=1).min()
    scale = max(1.0, np.abs(expected).max())
    if spread > 0.1:  # a norm of equal numbers is steep without end
        np.testing.assert_allclose(multipliers / scale, expected / scale, atol=2e-4)
    multipliers = np.broadcast_to(np.eye(2), (2, 2, 2))
    for layer, at, zero in reversed(list(zip(layers, seen, known, strict=True))):
        parts = attribution.parts(layer)
        multipliers = attribution.through(layer, parts, at, zero, [None] * len(parts), multipliers)
    total = (multipliers * (x - r)[:, None]).sum(axis=2)
    np.testing.assert_allclose(output + total, outputs, rtol=1e-4, atol=1e-4)
