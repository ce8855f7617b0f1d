"""Explanations compared with the known function that a network approximates.

Least squares fits the networks, in efficient-kan's format, so the error of each network is known. Contributions may
deviate by that error at both ends of a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from scipy.interpolate import BSpline

from kanserve import Client
from tests.support.exports import exported
from tests.support.server_process import serving
from tests.support.tiers import full

pytestmark = full("combination")

Curve = Callable[[Any], Any]
CELLS, ORDER = 24, 3


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


def test_through_layers_contributions_are_the_formula_s_own(tmp_path: Path) -> None:
    """Feynman's I.6.20: n = log (theta / sigma)^2, m = -log sigma; u = m - exp(n) / 2;
    exp(u) / sqrt(2 pi)."""
    log: Curve = np.log
    layers = (
        fitted([[lambda x: 2 * log(x), lambda x: -2 * log(x)], [None, lambda x: -log(x)]], 1, 3),
        fitted([[lambda n: -np.exp(n) / 2, lambda m: m]], -2.3, 2.3),
        fitted([[lambda u: np.exp(u) / math.sqrt(2 * math.pi)]], -5.7, 0),
    )
    arrays = {f"layers.{at}.{name}": array for at, layer in enumerate(layers) for name, array in layer.items()}
    save_file(arrays, tmp_path / "formula.safetensors")
    models = exported(tmp_path / "formula.safetensors", "formula", into=tmp_path / "models")
    # None of them almost has a node of the reference, where a quotient of differences loses its digits.
    rows = np.random.default_rng(6).uniform(1, 3, (300, 2)).astype(np.float32)
    reference = np.float32([[1.7, 2.1]])
    with serving(models) as server, Client(server.address) as client:
        result = client.explain(client.describe("formula"), rows, reference=reference)
    expected = by_the_formula(rows.astype(float), reference.astype(float))
    missed = max(
        np.abs(result.predictions[:, 0] - gauss(rows.astype(float))).max(),
        abs(result.base[0] - gauss(reference.astype(float))[0]),
    )
    assert missed < 5e-6  # a fit of this fineness
    # There are three layers to be missed in.
    np.testing.assert_allclose(result.contributions[:, :, 0], expected, rtol=0, atol=4 * missed)
    assert np.abs(expected).max() > 0.05
