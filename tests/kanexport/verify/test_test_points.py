"""Tests of `verify/test_points.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport import bases
from kanexport.contract import grids
from kanexport.contract.sections import AS_TRAINED
from kanexport.pipeline import Request, export
from kanexport.verify import test_points
from kanserve.analysis import coverage
from kanserve.analysis.coverage import Zone
from tests.support.golden_cases import cases
from tests.support.small_checkpoints import read


def exported(folder: Path, name: str, policy: str, **more: Any) -> Any:
    (case,) = (case for case in cases() if case.name == name)
    fields: dict[str, Any] = {"options": case.options, "out_of_range": policy, **more}
    return export(Request(path=case.path, repository=folder, name="m", **fields))


@pytest.mark.parametrize("name", [case.name for case in cases()])
def test_what_an_export_proves_as_inside_is_inside_for_the_server(tmp_path: Path, name: str) -> None:
    """The zones of the exporter and of the server come from one grid, for any family, if there is only one grid."""
    (case,) = (case for case in cases() if case.name == name)
    layers = exported(tmp_path, name, AS_TRAINED).manifest.layers
    kan, _ = read(case.path, *case.options)
    for info, layer, width in zip(layers, kan.layers, kan.widths(), strict=False):
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


@pytest.mark.parametrize("name", bases.names())
def test_the_grid_that_knots_tell_is_one_that_the_proof_has_tried(name: str) -> None:
    """Also for new families: the server's grid contains rows of the verification, and equals the zone "inside" except
    for unbounded pieces."""
    for basis in bases.examples(name):
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
