"""Error bars of a loaded version: on a CPU, on another device, and without them."""

from pathlib import Path

import numpy as np
import pytest

from kanexport.bundle import error_bars as options
from kanexport.bundle.certification import CertifyOptions
from kanexport.pipeline import Request, export
from kanserve.config.settings import Settings
from kanserve.errors import FailedPrecondition
from kanserve.models.loader import Loader, bars_for
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.services import error_bars
from tests.support import toy_model

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoints" / "pykan-hello-adapted" / "model"


def test_a_version_has_bars_on_a_cpu_only(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (50, 2))
    np.savez(tmp_path / "rows.npz", x=x, y=x[:, 0])
    root = tmp_path / "models"
    bars = options.options(tmp_path / "rows.npz", enabled=True, certify=True)
    certify = CertifyOptions(budget=30)
    manifest = export(Request(path=GOLDEN, repository=root, name="m", certification=certify, error_bars=bars)).manifest
    (candidate,) = layout.scan(root, plain_onnx=False)
    loader = Loader(Settings(repository=root), 2, Metrics())
    model = loader.load(layout.load(candidate, 2**30))
    assert error_bars.bars(model).numbers == 3 * len(manifest.error_bars.x)
    assert error_bars.row_bytes(model.info) == 4
    model.error_bars = bars_for(manifest, "cuda")
    with pytest.raises(FailedPrecondition, match="covers CPUs only") as caught:
        error_bars.bars(model)
    assert caught.value.code == "error-bars-need-cpu"
    plain = toy_model.load(tmp_path / "plain")
    with pytest.raises(FailedPrecondition, match="its export did not request them") as caught:
        error_bars.bars(plain)
    assert caught.value.code == "error-bars-missing"
    for own in (model, plain):
        own.close()
