"""Tests of `insight/statistics.py`."""

import dataclasses
from typing import Any

import numpy as np

from kanexport.shared import manifest as manifests
from kanserve.insight.statistics import Nodes
from kanserve.types import Array
from tests.support import toy_model
from tests.support.reload_tools import draw, run


def test_cells_do_not_change_with_the_last_digits_of_a_run() -> None:
    """As on other threads: what processes count can be added up all the same."""

    def otherwise(names: Any, rows: Any) -> list[Array]:
        return [result * (1 + 3e-7 * (-1) ** at) for at, result in enumerate(run(names, rows))]

    manifest = toy_model.manifest("toy")
    item, other = (Nodes(manifest, how).parts for how in (run, otherwise))
    assert [part.bounds for part in item] == [part.bounds for part in other]
    drawn = toy_model.hidden(np.array(manifest.reference.inputs))
    for row, values in zip(item[1].bounds, drawn.T, strict=True):
        assert row[0] < values.min() < values.max() < row[-1]


def test_a_manifest_without_reference_rows_has_cells_all_the_same() -> None:
    bare = dataclasses.replace(
        toy_model.manifest("toy"), reference=manifests.Reference(inputs=(), outputs=(), tolerance=1.0)
    )
    assert Nodes(bare, run).count(run, {"x": draw(4)}).rows == 4
