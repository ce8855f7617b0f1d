"""Certificates hold on the served graphs in float32, for golden checkpoints and random networks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kanexport import pipeline
from kanexport.certify import certificate
from kanexport.certify.certificate import Certificate
from kanexport.contract import custom_ops
from kanexport.contract.sections import DECREASING, INCREASING, NEITHER, Scaler, Scalers
from kanexport.errors import InvalidKan, OptionError
from kanexport.export_request import Request
from kanexport.ir import norms, scaling
from kanexport.ir.model import Kan
from kanexport.ir.steps import Select
from kanexport.lowering import lower, spline_forms
from kanexport.verify import float64_reference, graph_runner
from tests.support import random_networks
from tests.support.spline_networks import random_network

Golden = Callable[[str], tuple[Path, tuple[str, ...]]]
ROWS = 4000
# Certified range over found range, at most.
GOLDEN = {
    "chebykan-bare-layer": 1.05,
    "chebykan-digits-layernorm": 2.0,
    "efficient-kan-digits": 6.0,
    "efficient-kan-wine-update-grid": 1.2,
    "flashkan-ellipj": 1.05,
    "fourierkan-breast-cancer": 1.8,
    "gr-kan-breast-cancer": 1.4,
    "inkan-hello": 1.05,
    "jacobikan-wine": 1.8,
    "kanx-hello": 1.05,
    "pykan-0.0.5-hello": 1.05,
    "pykan-diabetes": 1.05,
    "pykan-ellipj-float64": 1.05,
    "pykan-feynman-I.6.20": 1.05,
    "pykan-hello-adapted": 1.05,
    "pykan-hello-pruned": 1.05,
    "pykan-hello-symbolic": 1.05,
    "pykan-knot-signature": 1.05,
    "pykan-mult-affine": 1.05,
    "pykan-prune-input": 1.05,
    "pykan-pruned-edges": 1.05,
    "rbf-kan-diabetes": 1.5,
    "relu-kan-hello": 1.05,
    "sinekan-digits": 3.0,
    "torch-wavelet-kan-hello": 1.05,
    "torchkan-digits": 2.0,
    "wav-kan-dog-breast-cancer": 1.4,
    "wav-kan-mexican-hat-wine": 1.5,
}


def network(path: Path, options: tuple[str, ...]) -> Kan:
    return pipeline.network(Request(path=path, repository=None, options=options))[0]


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


def assert_holds(kan: Kan, c: Certificate) -> None:
    """Raises AssertionError if a point contradicts the certificate."""
    x = points(c, np.random.default_rng(5))
    exact = float64_reference.evaluate(kan, x.astype(np.float64)).y
    for name, run in graphs(kan).items():
        y = run(x)
        assert (y >= c.y_low).all(), name
        assert (y <= c.y_high).all(), name
        assert (np.abs(y - exact) <= c.slack).all(), name
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


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_checkpoints(golden: Golden, name: str) -> None:
    kan = network(*golden(name))
    for budget in (1.5, 6.0, 60.0):  # a busy machine computes less in the same time
        c = certificate.certify(kan, *certificate.grid_box(kan), budget=budget)
        if c.tightness.max() <= GOLDEN[name]:
            break
    assert_holds(kan, c)
    assert c.tightness.max() <= GOLDEN[name]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("reach", [1.0, 3.0])
def test_random_networks(seed: int, reach: float) -> None:
    """Also with boxes that leave the grid."""
    kan = random_network(seed)
    low, high = certificate.grid_box(kan)
    center, radius = (low + high) / 2, reach * (high - low) / 2
    assert_holds(kan, certificate.certify(kan, center - radius, center + radius, budget=0.4))


@pytest.mark.parametrize("kind", random_networks.KINDS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_random_networks_of_each_basis(kind: str, depth: int) -> None:
    kan = random_networks.network(kind, depth, seed=depth)
    low, high = certificate.grid_box(kan)
    assert_holds(kan, certificate.certify(kan, low, high, budget=0.4))


@pytest.mark.parametrize("kind", random_networks.KINDS)
@pytest.mark.parametrize("reach", [12.0, 1e4, 1e8])
def test_boxes_far_beyond_the_grid(kind: str, reach: float) -> None:
    """The certificate holds, or the network has none on this box."""
    kan = random_networks.network(kind, 2, seed=7)
    low, high = certificate.grid_box(kan)
    center, radius = (low + high) / 2, reach * (high - low) / 2
    c = None
    with contextlib.suppress(InvalidKan):
        c = certificate.certify(kan, center - radius, center + radius, budget=0.2)
    assert c or reach > 12 or kind == "symbolic"
    if c:
        assert_holds(kan, c)


def test_scalers_selections_and_clamped_inputs() -> None:
    kan = random_network(3)
    sources = kan.layers[0].sources
    first = dataclasses.replace(kan.layers[0], pre_steps=(Select(tuple(range(1, sources + 1))),))
    kan = norms.clamped(Kan(sources + 1, (first, *kan.layers[1:])))
    offset, scale = tuple(1000.0 + np.arange(sources + 1)), tuple(0.5 + np.arange(sources + 1))
    inputs = Scaler(kind="standard", offset=offset, scale=scale, name="s.json")
    outputs = Scaler(kind="standard", offset=(5.0,) * kan.n_outputs, scale=(40.0,) * kan.n_outputs, name="t.json")
    kan = scaling.scaled(kan, Scalers(inputs=inputs, outputs=outputs), "float32")
    low, high = certificate.grid_box(kan)
    assert (np.abs((low + high) / 2 - offset) <= 2 * np.array(scale)).all()
    wide = certificate.certify(kan, low - 5, high + 5, budget=1.0)
    assert_holds(kan, wide)
    assert wide.direction[0] == (INCREASING,) * kan.n_outputs  # no edge reads it
    assert (wide.lipschitz[0] == 0).all() or (wide.lipschitz[0] < 1e-200).all()


def test_a_box_of_one_point() -> None:
    kan = random_network(1)
    point = np.full(kan.n_inputs, 0.25)
    c = certificate.certify(kan, point, point, budget=0.5)
    assert_holds(kan, c)
    assert (c.y_high - c.y_low <= 2 * c.slack + 1e-9).all()


@pytest.mark.parametrize("name", ["fastkan-breast-cancer-denominator", "fasterkan-wine"])
def test_golden_checkpoints_of_class_b(golden: Golden, name: str) -> None:
    """Their terms normalize the nodes of a row. The box is that of rows."""
    path, options = golden(name)
    kan = network(path, options)
    assert kan.edge_class == "B"
    with np.load(path.parent / "reference.npz") as arrays:
        x = arrays["x"].astype(np.float64)
    assert_holds(kan, certificate.certify(kan, x.min(axis=0), x.max(axis=0), budget=1.5))


def test_boxes_that_are_not_valid() -> None:
    kan = random_network(1)
    low, high = certificate.grid_box(kan)
    for bad, message in (
        ((high, low), "expected finite numbers in ascending order"),
        ((low, high * np.nan), "expected finite numbers in ascending order"),
        ((low * np.array([np.nan, *[1] * (len(low) - 1)]), high), "expected finite numbers in ascending order"),
        ((low, high + np.inf), "expected finite numbers in ascending order"),
        ((low[:0], high[:0]), "the box has 0 columns"),
    ):
        with pytest.raises(OptionError, match=message):
            certificate.certify(kan, *bad, budget=1.0)
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="the budget is"):
            certificate.certify(kan, low, high, budget=budget)
    with pytest.raises(InvalidKan, match="exceed float32"):
        certificate.certify(kan, low - 1e33, high + 1e33, budget=1.0)
