"""Normalizations and functions of nodes hold for outputs and derivatives, and for float32 rows with equal nodes."""

import dataclasses

import numpy as np
import pytest

from kanexport.certify import certificate
from kanexport.certify.propagation import Network
from kanexport.certify.search import random_points
from kanexport.errors import InvalidKan
from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.norms import GroupNorm, LayerNorm, RmsNorm
from kanexport.ir.steps import Elementwise, PRelu, RowRange, Softmax, Step, Swish
from kanexport.verify import float64_reference
from tests.kanexport.certify.test_certificate import assert_graphs_hold
from tests.kanexport.certify.test_propagation import assert_encloses
from tests.support import sample_networks
from tests.support.tiers import spread

WIDTH = 4
ENDS = np.full(WIDTH, 1.5)
RNG = np.random.default_rng(0)
SCALE, SHIFT = RNG.uniform(0.5, 1.5, WIDTH), RNG.normal(size=WIDTH)

STEPS: dict[str, Step] = {
    "layernorm": LayerNorm(SCALE, SHIFT, 1e-5),
    "groupnorm": GroupNorm(SCALE, SHIFT, 1e-5, groups=2),
    "prelu": PRelu(np.array([0.25])),
    "prelu of each": PRelu(RNG.uniform(-0.5, 1.5, WIDTH)),
    "swish": Swish(RNG.uniform(0.5, 2, WIDTH)),
    "tanh": Elementwise(ACTIVATIONS["tanh"]),
    "silu": Elementwise(ACTIVATIONS["silu"]),
    "relu": Elementwise(ACTIVATIONS["relu"]),
}


def network(step: Step, *, inside: bool = False, first: bool = False) -> Kan:
    """Two layers of Gaussians with a step between them, or before the first one, or inside of a term."""
    rng = np.random.default_rng(1)
    shape = (WIDTH, WIDTH)
    layers = [sample_networks.layer("gaussian", rng, size) for size in (shape, (WIDTH, 2))]
    base = BasisTerm(sample_networks.Activation(ACTIVATIONS["silu"]), rng.normal(size=(WIDTH, 2, 1)))
    if inside:
        gaussians = dataclasses.replace(layers[1].terms[0], pre_steps=(step,))
        layers[1] = dataclasses.replace(layers[1], terms=(gaussians, base))
    elif first:
        layers[0] = dataclasses.replace(layers[0], pre_steps=(step,))
    else:
        layers[0] = dataclasses.replace(layers[0], post_steps=(step,))
    return Kan(WIDTH, tuple(layers))


def assert_holds(kan: Kan, low: np.ndarray, high: np.ndarray) -> None:
    """Raises AssertionError if a row contradicts the enclosures of boxes of several sizes, or the certificate."""
    rng = np.random.default_rng(2)
    whole = Network.of(kan, low, high)
    for size in (1e-4, 0.1, 1.0):
        start = rng.uniform(low, high, (20, WIDTH))
        end = np.minimum(start + size * (high - low), high)
        assert_encloses(kan, whole, start, end, rng)
    c = certificate.certify(kan, low, high, budget=12)
    rows = random_points((low, high), 2000, rng)
    # Nearly equal nodes, whose deviation is small.
    size = 10.0 ** rng.uniform(-8, 0, (2000, 1))
    equal = rng.uniform(-1, 1, (2000, 1)) + size * rng.normal(size=(2000, WIDTH))
    x = np.clip(np.concatenate([rows, equal]), low, high).astype(np.float32)
    exact_y = float64_reference.evaluate(kan, x.astype(np.float64)).y
    # Also the bound of the whole box before it is cut to the certified range.
    assert_graphs_hold(kan, dataclasses.replace(c, slack=np.minimum(c.slack, whole.slack)), x, exact_y)


@spread(
    "name,place",
    [("layernorm", "inside"), *((name, "") for name in STEPS), *((name, "first") for name in ("groupnorm", "tanh"))],
    5,
)
def test_steps_between_layers_before_the_first_and_inside_of_a_term(name: str, place: str) -> None:
    kan = network(STEPS[name], **({place: True} if place else {}))
    assert kan.edge_class == ("B" if place == "inside" or (place == "first" and name != "tanh") else "A")
    assert_holds(kan, -ENDS, ENDS)


def test_other_steps_are_refused() -> None:
    pole = dataclasses.replace(ACTIVATIONS["tanh"], name="pole", evaluate=lambda x: 1 / x)
    others = RmsNorm(SCALE, SHIFT, 1e-5), Softmax(), RowRange(), LayerNorm(SCALE, SHIFT, 0.0)
    kans = [network(step, **place) for step in others for place in ({}, {"first": True}, {"inside": True})]
    for kan in (*kans, network(Elementwise(pole))):
        with pytest.raises(InvalidKan) as caught:
            certificate.certify(kan, -ENDS, ENDS, budget=12)
        assert caught.value.code == "certificate-not-supported"


def test_terms_with_different_steps_and_the_grid_of_normalized_inputs_are_refused() -> None:
    kan = network(STEPS["layernorm"], inside=True)
    last: Layer = kan.layers[1]
    other = dataclasses.replace(last.terms[1], pre_steps=(LayerNorm(SCALE, SHIFT, 1e-3),))
    changed = dataclasses.replace(last, terms=(last.terms[0], other))
    with pytest.raises(InvalidKan, match="no certificate supports"):
        certificate.certify(Kan(WIDTH, (kan.layers[0], changed)), -ENDS, ENDS, budget=12)
    layer = sample_networks.layer("gaussian", np.random.default_rng(3), (WIDTH, 2))
    term = dataclasses.replace(layer.terms[0], pre_steps=(STEPS["layernorm"],))
    with pytest.raises(InvalidKan, match="pass --box with rows"):
        certificate.grid_box(Kan(WIDTH, (dataclasses.replace(layer, terms=(term,)),)))
