"""Certificates hold on the served graphs in float32, for golden checkpoints and random networks."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import pytest

from kanexport.certify import certificate
from kanexport.certify.certificate import Certificate
from kanexport.errors import InvalidKan, OptionError
from kanexport.ir import clamping, scaling
from kanexport.ir.model import Kan
from kanexport.ir.steps import Select
from kanexport.lowering import lower, spline_forms
from kanexport.shared import custom_ops
from kanexport.shared.sections import DECREASING, INCREASING, NEITHER, Scaler, Scalers
from kanexport.verify import float64_reference, graph_runner
from tests.support import sample_networks
from tests.support.golden_cases import case, network
from tests.support.sample_networks import random_network
from tests.support.tiers import full, spread

ROWS = 1500
# Certified range over found range, at most.
CLOSE = """
    chebykan-bare-layer flashkan-ellipj inkan-hello kanx-hello pykan-0.0.5-hello pykan-diabetes pykan-ellipj-float64
    pykan-feynman-I.6.20 pykan-hello-adapted pykan-hello-pruned pykan-hello-symbolic pykan-knot-signature
    pykan-mult-affine pykan-prune-input pykan-pruned-edges relu-kan-hello torch-wavelet-kan-hello
"""
GOLDEN = dict.fromkeys(CLOSE.split(), 1.05) | {
    "chebykan-digits-layernorm": 2.0, "efficient-kan-digits": 6.0, "efficient-kan-wine-update-grid": 1.2,
    "fourierkan-breast-cancer": 1.8, "gr-kan-breast-cancer": 1.4, "jacobikan-wine": 1.8, "rbf-kan-diabetes": 1.5,
    "sinekan-digits": 3.0, "torchkan-digits": 2.0, "wav-kan-dog-breast-cancer": 1.4,
    "wav-kan-mexican-hat-wine": 1.5,
}  # fmt: skip


def graphs(kan: Kan) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The graphs that an export may write, from float32 rows to outputs."""
    result = {}
    away = tuple(spline_forms.uniform_layers(kan, "float32"))
    for near in dict.fromkeys(((), away)):
        lowered = lower.lower(kan, "float32", many=256, kernel=True, near=near)
        models = {"plain": (lowered.model, ""), "many": (lowered.many and lowered.many.graph, "")}
        models["kernel"] = (lowered.kernel, custom_ops.library())
        for name, (model, library) in models.items():
            if model and (library or name != "kernel"):
                session = graph_runner.session(model, lowered.weights, library)
                result[f"{name} {near}"] = lambda x, s=session: graph_runner.run(s, {"x": x})["y"]
    return result


def inner_float32(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and largest float32 numbers between two arrays."""
    a, b = low.astype(np.float32), high.astype(np.float32)
    a = np.where(a < low, np.nextafter(a, np.float32(np.inf)), a)
    return a, np.where(b > high, np.nextafter(b, np.float32(-np.inf)), b)


def points(c: Certificate, rng: np.random.Generator) -> np.ndarray:
    """Float32 rows of the box: random ones, ones at its ends, and ones near the best points."""
    x = rng.uniform(c.low, c.high, (ROWS, len(c.low)))
    ends = rng.random(x.shape) < 0.3 * (np.arange(ROWS) % 3 == 0)[:, None]
    x = np.where(ends, np.where(rng.random(x.shape) < 0.5, c.low, c.high), x)
    best = np.concatenate([c.at_low, c.at_high])
    near = best[rng.integers(0, len(best), ROWS // 2)]
    size = (c.high - c.low) * 10.0 ** rng.uniform(-7, -1, (len(near), 1))
    x[: len(near)] = near + size * rng.normal(size=near.shape)
    return np.clip(x.astype(np.float32), *inner_float32(c.low, c.high))


def assert_graphs_hold(kan: Kan, c: Certificate, x: np.ndarray, exact: np.ndarray) -> None:
    for name, run in graphs(kan).items():
        y = run(x)
        assert (y >= c.y_low).all(), name
        assert (y <= c.y_high).all(), name
        assert (np.abs(y - exact) <= c.slack).all(), name


def assert_holds(kan: Kan, c: Certificate) -> None:
    """Raises AssertionError if a point contradicts the certificate."""
    x = points(c, np.random.default_rng(5))
    exact = float64_reference.evaluate(kan, x.astype(np.float64)).y
    assert_graphs_hold(kan, c, x, exact)
    assert (c.y_low <= c.found_low).all()
    assert (c.found_high <= c.y_high).all()
    assert_directions_hold(kan, c, x.astype(np.float64)[:400], exact[:400])


def assert_directions_hold(kan: Kan, c: Certificate, x: np.ndarray, y: np.ndarray) -> None:
    rng = np.random.default_rng(6)
    for i, words in enumerate(c.direction):
        moved = x.copy()
        moved[:, i] = rng.uniform(x[:, i], c.high[i])
        step = moved[:, i] - x[:, i]
        change = float64_reference.evaluate(kan, moved).y - y
        noise = 1e-12 * (1 + np.abs(y).max())
        assert (np.abs(change) <= c.lipschitz[i] * step[:, None] + noise).all()
        for o, word in enumerate(words):
            assert word != INCREASING or (change[:, o] >= -noise).all()
            assert word != DECREASING or (change[:, o] <= noise).all()
            if word == NEITHER:
                pairs = np.concatenate([c.witnesses.up[i, o], c.witnesses.down[i, o]])
                assert (np.delete(pairs[::2] - pairs[1::2], i, axis=1) == 0).all()
                at = float64_reference.evaluate(kan, pairs).y[:, o]
                assert at[1] > at[0]
                assert at[3] < at[2]


@pytest.mark.parametrize("steps", [time.process_time], indirect=True)
@spread("name", GOLDEN, 5)
def test_golden_checkpoints(name: str) -> None:
    kan = network(name)
    for budget in (0.3, 1.5, 6.0, 60.0):
        c = certificate.certify(kan, *certificate.grid_box(kan), budget=budget)
        tightness = ((c.y_high - c.y_low) / (c.found_high - c.found_low)).max()
        if tightness <= GOLDEN[name]:
            break
    assert_holds(kan, c)
    assert tightness <= GOLDEN[name]


def around(kan: Kan, reach: float, budget: float = 16) -> Certificate:
    """The certificate of the box of the grid, enlarged `reach` times."""
    low, high = certificate.grid_box(kan)
    center, radius = (low + high) / 2, reach * (high - low) / 2
    return certificate.certify(kan, center - radius, center + radius, budget=budget)


@spread("seed", range(12), 4)
def test_random_networks(seed: int) -> None:
    kan = random_network(seed)
    assert_holds(kan, around(kan, 3.0 if seed % 4 in (1, 2) else 1.0))


@spread("depth", [2, 3], 1)
@pytest.mark.parametrize("kind", sample_networks.KINDS)
def test_random_networks_of_each_basis(kind: str, depth: int) -> None:
    kan = sample_networks.network(kind, depth, seed=depth)
    assert_holds(kan, around(kan, 1.0))


@full("combination")
@pytest.mark.parametrize("kind", sample_networks.KINDS)
def test_boxes_far_beyond_the_grid(kind: str) -> None:
    """The certificate holds, or the network has none on this box."""
    kan = sample_networks.network(kind, 2, seed=7)
    for reach in (12.0, 1e4 if sample_networks.KINDS.index(kind) % 2 else 1e8):
        try:
            c = around(kan, reach, budget=4)
        except InvalidKan:
            assert reach > 12 or kind == "symbolic"
        else:
            assert_holds(kan, c)


def test_scalers_selections_and_clamped_inputs() -> None:
    kan = random_network(3)
    sources = kan.layers[0].sources
    first = dataclasses.replace(kan.layers[0], pre_steps=(Select(tuple(range(1, sources + 1))),))
    kan = clamping.clamped(Kan(sources + 1, (first, *kan.layers[1:])))
    offset, scale = tuple(1000.0 + np.arange(sources + 1)), tuple(0.5 + np.arange(sources + 1))
    inputs = Scaler(kind="standard", offset=offset, scale=scale, name="s.json")
    outputs = Scaler(kind="standard", offset=(5.0,) * kan.n_outputs, scale=(40.0,) * kan.n_outputs, name="t.json")
    kan = scaling.scaled(kan, Scalers(inputs=inputs, outputs=outputs), "float32")
    low, high = certificate.grid_box(kan)
    assert (np.abs((low + high) / 2 - offset) <= 2 * np.array(scale)).all()
    wide = certificate.certify(kan, low - 5, high + 5, budget=60)
    assert_holds(kan, wide)
    assert wide.direction[0] == (INCREASING,) * kan.n_outputs  # no edge reads it
    assert (wide.lipschitz[0] < 1e-200).all()


def test_a_box_of_one_point() -> None:
    kan = random_network(1)
    point = np.full(kan.n_inputs, 0.25)
    c = certificate.certify(kan, point, point, budget=60)
    assert_holds(kan, c)
    assert (c.y_high - c.y_low <= 2 * c.slack + 1e-9).all()


@spread("name", ["fasterkan-wine", "fastkan-breast-cancer-denominator"], 1)
def test_golden_checkpoints_of_class_b(name: str) -> None:
    """Their terms normalize the nodes of a row. The box is that of rows."""
    kan, x = network(name), case(name).reference()["x"].astype(np.float64)
    assert kan.edge_class == "B"
    assert_holds(kan, certificate.certify(kan, x.min(axis=0), x.max(axis=0), budget=60))


def test_boxes_that_are_not_valid() -> None:
    kan = random_network(1)
    low, high = certificate.grid_box(kan)
    partly = low * np.array([np.nan, *[1] * (len(low) - 1)])
    for bad in ((high, low), (low, high * np.nan), (partly, high), (low, high + np.inf)):
        with pytest.raises(OptionError, match="expected finite numbers in ascending order"):
            certificate.certify(kan, *bad, budget=1.0)
    with pytest.raises(OptionError, match="the box has 0 columns"):
        certificate.certify(kan, low[:0], high[:0], budget=1.0)
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="the budget is"):
            certificate.certify(kan, low, high, budget=budget)
    with pytest.raises(InvalidKan, match="exceed float32"):
        certificate.certify(kan, low - 1e33, high + 1e33, budget=1.0)
