"""Branch and bound covers the box, and its bounds become closer."""

import math

import numpy as np

from kanexport.certify import branch, certificate, search
from kanexport.certify.propagation import Network
from kanexport.certify.search import Found
from tests.support.sample_networks import random_network


def test_boxes_cover_the_box_and_bounds_become_closer() -> None:
    kan, rng = random_network(1), np.random.default_rng(0)
    low, high = certificate.grid_box(kan)
    network, best = Network.of(kan, low, high), Found(kan, (low, high))
    search.climb(best, math.inf, rng)
    seen = search.witnesses(network, best, math.inf, rng)
    first = branch.bounded(network, low[None], high[None])
    boxes, evaluated = branch.refine(network, best, seen, 20 + branch.time.monotonic())
    assert len(boxes) > 1
    assert evaluated == 2 * len(boxes) - 1  # each split replaces one box by two
    volume = np.prod((boxes.high - boxes.low) / (high - low), axis=1)
    assert abs(volume.sum() - 1) < 1e-9
    x = search.random_points((low, high), 500, rng)
    inside = (x[:, None] >= boxes.low).all(axis=2) & (x[:, None] <= boxes.high).all(axis=2)
    assert inside.any(axis=1).all()
    before, after = first.bounds(), boxes.bounds()
    assert (after[0] >= before[0]).all()
    assert (after[1] <= before[1]).all()
    assert (after[1] - after[0]).sum() < (before[1] - before[0]).sum()
