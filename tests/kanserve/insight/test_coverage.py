"""Tests of `insight/coverage.py`."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kanexport.pipeline import Request, export
from kanexport.shared import manifest as manifests
from kanexport.shared.manifest import BasisInfo, NodeStep
from kanserve.config.settings import Settings
from kanserve.errors import LoadError, LoadReason
from kanserve.insight.coverage import InputRangeGuard
from kanserve.models.loader import Loader
from kanserve.observability.metrics import Metrics, Number
from kanserve.repository import layout
from tests.support import toy_model
from tests.support.golden_cases import cases


@pytest.mark.parametrize("name", ["fastkan-digits", "pykan-prune-input"])
def test_a_value_is_told_as_the_grid_reads_it(tmp_path: Path, name: str) -> None:
    """After a normalisation, and of the columns that are read."""
    (case,) = (case for case in cases() if case.name == name)
    done = export(Request(path=case.path, repository=tmp_path, name="m", options=case.options, out_of_range="reject"))
    guard = InputRangeGuard(done.manifest, Number())
    width = done.manifest.input.shape[1]
    rows = np.zeros((3, width), np.float32)
    rows[1, 2] = 1e6
    (row,) = np.flatnonzero(guard.outside({"x": rows})) if name == "fastkan-digits" else (1,)
    if name == "pykan-prune-input":
        read = done.manifest.layers[0].pre_steps[0].indices
        assert guard.outside({"x": rows}).tolist() == [False, 2 in read, False]
        rows[1] = 0
        rows[1, read[0]] = -50
        place = guard.place({"x": rows}, 1)
        assert (place.feature, place.value) == (read[0], -50)
    else:
        place = guard.place({"x": rows}, int(row))
        assert (place.row, place.feature) == (1, 2)
        assert place.value == pytest.approx(8, rel=0.5)  # of 64 equal numbers but one
    assert place.first < place.last
    assert not place.first <= place.value <= place.last


SPLINE = BasisInfo(kind="bspline", functions=8, parameters={}, knots=(tuple(np.linspace(-2.2, 2.2, 12)),))


UNFIT: dict[str, NodeStep] = {
    "columns": NodeStep(kind="select", indices=(7, 0, 1)),
    "numbers": NodeStep(kind="affine", scale=(1.0,) * 5, bias=(0.0,) * 5),
    "groups": NodeStep(kind="groupnorm", indices=(2,), scale=(1.0,) * 3, bias=(0.0,) * 3),
}


@pytest.mark.parametrize("step", UNFIT.values(), ids=UNFIT)
def test_a_border_that_cannot_be_drawn_is_a_load_that_fails(tmp_path: Path, step: NodeStep) -> None:
    directory = toy_model.write(tmp_path)
    first, *rest = manifests.load(directory).layers
    layer = dataclasses.replace(first, pre_steps=(step,), bases=(SPLINE,))
    toy_model.edit(directory, layers=(layer, *rest), out_of_range="reject")
    (result,) = layout.scan(tmp_path, plain_onnx=False)
    settings = Settings(repository=tmp_path)
    with pytest.raises(LoadError, match="the steps before layer 0 in the manifest do not fit its 3 nodes") as caught:
        Loader(settings, 1, Metrics()).load(layout.load(result, settings.max_file_bytes))
    assert caught.value.reason is LoadReason.MANIFEST
