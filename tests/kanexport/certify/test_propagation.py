"""Enclosures of networks hold on small and large boxes, for outputs and derivatives."""

import itertools

import numpy as np

from kanexport.certify import certificate
from kanexport.certify.propagation import Network
from kanexport.ir.model import Kan
from kanexport.verify import float64_reference
from tests.support.sample_networks import random_network
from tests.support.tiers import spread


@spread("seed,size", [*zip(range(8), itertools.cycle([1e-9, 1e-3, 0.1, 1.0])), (1, 1.0), (2, 0.1), (3, 1e-3)], 4)
def test_outputs_and_derivatives_hold(seed: int, size: float) -> None:
    kan, rng = random_network(seed), np.random.default_rng(seed)
    low, high = certificate.grid_box(kan)
    network = Network.of(kan, low, high)
    start = rng.uniform(low, high, (30, kan.n_inputs))
    end = np.minimum(start + size * (high - low), high)
    assert_encloses(kan, network, start, end, rng)


def assert_encloses(kan: Kan, network: Network, start: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> None:
    """Raises AssertionError if a row of a box contradicts its enclosure."""
    exact, graph = network.enclose(start, end, served=False), network.enclose(start, end)
    for _ in range(8):
        x = rng.uniform(start, end)
        y = float64_reference.evaluate(kan, x).y
        for nodes in (exact, graph):
            assert (y >= nodes.low).all()
            assert (y <= nodes.high).all()
        for i in range(kan.n_inputs):
            moved = x.copy()
            moved[:, i] = rng.uniform(x[:, i], end[:, i])
            step = (moved - x)[:, i, None]
            change = float64_reference.evaluate(kan, moved).y - y
            noise = 1e-12 * (1 + np.abs(y).max())
            assert (change >= exact.down[:, i] * step - noise).all()
            assert (change <= exact.up[:, i] * step + noise).all()


def test_small_boxes_have_small_ranges() -> None:
    """The range of a small box is that of the float32 error and of the linear part."""
    kan = random_network(1)
    low, high = certificate.grid_box(kan)
    network = Network.of(kan, low, high)
    x = np.random.default_rng(0).uniform(low, high, (40, kan.n_inputs))
    width = 1e-6 * (high - low)
    nodes = network.enclose(x, np.minimum(x + width, high), served=False)
    steep = np.maximum(np.abs(nodes.down), np.abs(nodes.up))
    assert (nodes.high - nodes.low <= 1.01 * np.einsum("n,bnm->bm", width, steep) + 1e-9).all()
