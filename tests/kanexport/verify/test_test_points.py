"""Tests of `verify/test_points.py`."""

import numpy as np

from kanexport.bundle import description
from kanexport.shared import grids
from kanexport.verify import test_points
from kanserve.analysis import coverage
from kanserve.analysis.coverage import Zone
from tests.support import basis_examples
from tests.support.conformance import check_each
from tests.support.golden_cases import cases, network


def check_zones(name: str) -> None:
    """The zones of the exporter and of the server come from one grid, for any family, if there is only one grid."""
    kan = network(name)
    entries = description.layers(kan, tuple(f"layer{at}_in" for at in range(len(kan.layers))))
    for info, layer, width in zip(entries, kan.layers, kan.widths(), strict=False):
        limits = coverage.bounds(info, width, None)
        if len(limits.scales) != 1 or layer.mixes:
            continue
        (scale,) = limits.scales
        support = layer.support()
        known = np.isfinite(scale.low)
        np.testing.assert_allclose(scale.low[known], support.core[0][known], atol=1e-6)
        np.testing.assert_allclose(scale.high[known], support.core[1][known], atol=1e-6)
        rows = test_points.zone_rows(layer, width, seed=0)
        read_ = np.isin(np.arange(width), scale.nodes[known])
        zones = {zone: coverage.measure(limits, rows[zone]).zones[:, read_] for zone in ("inside", "far")}
        assert (zones["inside"] == Zone.INSIDE).all()
        assert (zones["far"] != Zone.INSIDE).all()


def test_what_an_export_proves_as_inside_is_inside_for_the_server() -> None:
    check_each(check_zones, [case.name for case in cases() if "hybrid" not in case.name])


def check_grid(name: str) -> None:
    """Also for new families: the server's grid contains rows of the verification, and equals the zone "inside" except
    for unbounded pieces."""
    for basis in basis_examples.examples(name):
        support = basis.support(3)
        for source, row in enumerate(basis.knots().tolist()):
            grid = grids.of_knots(basis.kind, basis.functions, row)
            ends = np.array([part[source] for part in support.core])
            if grid is None or not ends[1] > ends[0]:
                continue
            room = 1e-9 * max(1.0, abs(grid.low), abs(grid.high))
            assert support.outer[0][source] <= grid.low + room
            assert support.outer[1][source] >= grid.high - room
            if name != "piecewise_polynomial":
                np.testing.assert_allclose([grid.low, grid.high], ends, rtol=0, atol=room)


def test_the_grid_that_knots_tell_is_one_that_the_proof_has_tried() -> None:
    check_each(check_grid, basis_examples.names())
