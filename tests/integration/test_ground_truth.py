"""Explanations compared with the known function that a network approximates.

Least squares fits the networks, in efficient-kan's format, so the error of each network is known. Contributions may
deviate by that error at both ends of a difference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.interpolate import BSpline

from kanserve import Client
from tests.support.command_line import document, program, serving
from tests.support.golden_cases import OWN

Curve = Callable[[Any], Any]
CELLS, ORDER = 24, 3
FOUR: tuple[Curve, ...] = (
    lambda x: np.sin(np.pi * x),
    lambda x: x**2,
    lambda x: np.exp(x) / 2,
    lambda x: np.tanh(2 * x),
)
REFERENCE = np.float32([[0.25, -0.5, 0.1, 0.4]])
RNG = np.random.default_rng(5)


def fitted(curves: Sequence[Sequence[Curve | None]], low: float, high: float) -> dict[str, Any]:
    """A layer of efficient-kan's whose edges are `curves` [destination][source] from `low` to `high`."""
    step = (high - low) / CELLS
    knots = np.float32(low + step * np.arange(-ORDER, CELLS + ORDER + 1))
    x = np.linspace(low, high, 1500)
    basis = BSpline.design_matrix(np.clip(x, knots[ORDER], knots[-ORDER - 1]), knots.astype(float), ORDER).toarray()
    zero = np.zeros(basis.shape[1])
    weights = [
        [zero if curve is None else np.linalg.lstsq(basis, curve(x), rcond=None)[0] for curve in row] for row in curves
    ]
    destinations, sources = len(curves), len(curves[0])
    return {
        "base_weight": np.zeros((destinations, sources), np.float32),
        "spline_weight": np.float32(weights),
        "spline_scaler": np.ones((destinations, sources), np.float32),
        "grid": np.tile(knots, (sources, 1)),
    }


def written(path: Path, *layers: dict[str, Any]) -> Path:
    save_file({f"layers.{at}.{name}": array for at, layer in enumerate(layers) for name, array in layer.items()}, path)
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("truth")
    log: Curve = np.log
    checkpoints = {
        "sum": written(folder / "sum.safetensors", fitted([FOUR], -1, 1)),
        # I.6.20 as it stands: n = log (theta / sigma)^2, m = -log sigma; u = m - exp(n) / 2; exp(u) / sqrt(2 pi).
        "formula": written(
            folder / "formula.safetensors",
            fitted([[lambda x: 2 * log(x), lambda x: -2 * log(x)], [None, lambda x: -log(x)]], 1, 3),
            fitted([[lambda n: -np.exp(n) / 2, lambda m: m]], -2.3, 2.3),
            fitted([[lambda u: np.exp(u) / math.sqrt(2 * math.pi)]], -5.7, 0),
        ),
        "learnt": OWN / "pykan-feynman-I.6.20" / "model",
    }
    for name, path in checkpoints.items():
        document(program("export", path, "--repository", folder / "models", "--name", name, "--json"))
    with serving(folder / "models", folder / "log") as server, Client(server.url) as asking:
        yield asking


def asked(client: Client, name: str, rows: Any, reference: Any) -> tuple[Any, Any, float]:
    """Contributions [N, n], predictions [N], and the model's output for the reference row."""
    result = client.explain(client.describe(name), rows, reference=reference)
    return result.contributions[:, :, 0], result.predictions[:, 0], float(result.base[0])


def gauss(x: Any) -> Any:
    """Feynman's I.6.20 of theta and sigma."""
    return np.exp(-(x[:, 0] ** 2) / (2 * x[:, 1] ** 2)) / (np.sqrt(2 * np.pi) * x[:, 1])


def by_the_formula(x: Any, r: Any) -> Any:
    """[N, 2]: differences of I.6.20 in closed form, in the order of its operations."""
    theta, sigma = (np.log(x) - np.log(r)).T
    n, n_r = (2 * (np.log(at[:, 0]) - np.log(at[:, 1])) for at in (x, r))
    u, u_r = (-np.exp(n) / 2 - np.log(x[:, 1]), -np.exp(n_r) / 2 - np.log(r[:, 1]))
    outer = (gauss(x) - gauss(r)) / (u - u_r)
    inner = -(np.exp(n) - np.exp(n_r)) / 2 / (n - n_r)
    return np.stack([outer * inner * 2 * theta, outer * (inner * -2 * sigma - sigma)], axis=1)


def test_of_a_sum_each_input_has_its_own_part(client: Client) -> None:
    rows = RNG.uniform(-1, 1, (300, 4)).astype(np.float32)

    def true(x: Any) -> Any:
        return np.stack([curve(x[:, at].astype(float)) for at, curve in enumerate(FOUR)], axis=1)

    result, predictions, base = asked(client, "sum", rows, REFERENCE)
    missed = max(np.abs(predictions - true(rows).sum(axis=1)).max(), abs(base - true(REFERENCE).sum()))
    assert missed < 5e-5  # a fit of this fineness
    np.testing.assert_allclose(result, true(rows) - true(REFERENCE), rtol=0, atol=2 * missed)
    assert np.abs(true(rows) - true(REFERENCE)).max() > 1  # which is far above it


def test_through_layers_contributions_are_the_formula_s_own(client: Client) -> None:
    """Feynman's I.6.20, in its own order of operations."""
    rows = RNG.uniform(1, 3, (300, 2)).astype(np.float32)
    reference = np.float32([[1.7, 2.1]])
    result, predictions, base = asked(client, "formula", rows, reference)
    expected = by_the_formula(rows.astype(float), reference.astype(float))
    missed = max(np.abs(predictions - gauss(rows.astype(float))).max(), abs(base - gauss(reference.astype(float))[0]))
    assert missed < 5e-6
    np.testing.assert_allclose(result, expected, rtol=0, atol=4 * missed)  # there are three layers to be missed in
    assert np.abs(expected).max() > 0.05


@pytest.mark.parametrize("at", [0, 1])
def test_a_trained_network_gives_the_difference_to_the_input_that_differs(client: Client, at: int) -> None:
    """pykan's network for I.6.20; where both differ, how what they do together is shared is the method's choice."""
    reference = np.float32([[0.2, 1.1]])
    rows = np.tile(reference, (300, 1))
    rows[:, at] = RNG.uniform((-1, 0.5)[at], (1, 2)[at], 300)
    result, predictions, base = asked(client, "learnt", rows, reference)
    true, true_base = gauss(rows.astype(float)), gauss(reference.astype(float))[0]
    missed = np.abs(predictions - true).max() + abs(base - true_base)
    assert missed < 0.025
    np.testing.assert_allclose(result[:, at], true - true_base, rtol=0, atol=missed + 1e-6)
    np.testing.assert_array_equal(result[:, 1 - at], 0)


def shapley(predict: Callable[[Any], Any], rows: Any, reference: Any) -> Any:
    """[N, n]: by the definition, over all coalitions of inputs."""
    count = rows.shape[1]
    result = np.zeros(rows.shape)
    for some, at in itertools.product(itertools.product((False, True), repeat=count), range(count)):
        if some[at]:
            without = (*some[:at], False, *some[at + 1 :])
            share = math.factorial(sum(without)) * math.factorial(count - sum(some)) / math.factorial(count)
            result[:, at] += share * (
                predict(np.where(some, rows, reference)) - predict(np.where(without, rows, reference))
            )
    return result


def test_shapley_s_values_of_a_sum_are_ours(client: Client) -> None:
    rows = RNG.uniform(-1, 1, (40, 4)).astype(np.float32)
    model = client.model("sum")
    result, predictions, base = asked(client, "sum", rows, REFERENCE)
    exact = shapley(lambda x: client.infer(model, x).outputs["y"][:, 0].astype(float), rows, REFERENCE)
    np.testing.assert_allclose(result, exact, rtol=0, atol=2e-6)
    np.testing.assert_allclose(exact.sum(axis=1), predictions - base, rtol=0, atol=2e-6)
