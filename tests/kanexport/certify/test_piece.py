"""Lines near edges hold on intervals, with their ranges and slopes."""

from __future__ import annotations

import numpy as np

from kanexport.certify.edges import Edges, Table
from kanexport.certify.piece import Piece
from tests.support.sample_networks import DESTINATIONS, SOURCES, spline_layer
from tests.support.tiers import spread


@spread("degree,width", [(1, 0.0), (2, 1e-7), (3, 0.03), (2, 1.0), (3, 5.0), (1, 1.0), (1, 5.0), (3, 1e-7)], 5)
def test_lines_hold_on_intervals(degree: int, width: float) -> None:
    edges, rng = Edges.of(spline_layer(degree, seed=degree)), np.random.default_rng(2)
    low, high = np.full(SOURCES, -4.0), np.full(SOURCES, 6.0)
    table = Table.of(edges, low, high)
    start = rng.uniform(low, high - width, (50, SOURCES))
    ends = edges.values(start), edges.values(start + width)
    inside = start[:, None] + width * np.linspace(0, 1, 201)[:, None]
    values = edges.values(inside.reshape(-1, SOURCES)).reshape(50, 201, SOURCES, DESTINATIONS)
    steep = edges.slopes(inside.reshape(-1, SOURCES)).reshape(values.shape)
    for i in range(SOURCES):
        piece = Piece.of(table, i, (start[:, i], start[:, i] + width), (ends[0][:, i], ends[1][:, i]))
        slope, rest_low, rest_high = piece.line()
        rest = values[:, :, i] - slope[:, None] * (inside[:, :, i] - piece.middle[:, None])[:, :, None]
        assert (rest >= rest_low[:, None]).all()
        assert (rest <= rest_high[:, None]).all()
        if degree > 1:
            assert (steep[:, :, i] >= piece.down[:, None]).all()
            assert (steep[:, :, i] <= piece.up[:, None]).all()
        flat_low, flat_high = piece.rest(np.zeros_like(slope))
        assert (rest_high - rest_low <= (flat_high - flat_low) + np.abs(slope) * width + 1e-12).all()
