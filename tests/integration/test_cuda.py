"""Exports on a GPU: the same verification as on the CPU, in full precision. Skipped if no GPU is visible."""

from pathlib import Path

import pytest

from kanexport.shared.ort import onnxruntime
from kanserve.config.settings import Settings
from kanserve.models.loader import Loader
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.runtime import ort
from tests.support.command_line import kanserve
from tests.support.golden_cases import Case, cases
from tests.support.tiers import full

VISIBLE = ort.PROVIDERS["cuda"] in onnxruntime.get_available_providers()
pytestmark = full("package")


@pytest.mark.skipif(not VISIBLE, reason="not run: onnxruntime offers no CUDA here (the extra `gpu`)")
@pytest.mark.parametrize("case", cases() if VISIBLE else cases()[:1], ids=lambda case: case.name)
def test_every_golden_export_proves_itself_on_the_gpu(case: Case, tmp_path: Path) -> None:
    done = kanserve("export", case.path, "--repository", tmp_path, "--name", case.name, *case.facts["export_args"])
    assert done.returncode == 0, done.stderr
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    settings = Settings(repository=tmp_path, device="cuda")
    bundle = layout.load(candidate, settings.max_file_bytes)
    model = Loader(settings, 1, Metrics()).load(bundle)
    model.close()
