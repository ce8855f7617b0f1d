"""Exports on a GPU: the same proof as on the CPU, in full precision. Skipped where no GPU is visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kanexport.contract.ort import onnxruntime
from kanserve.config.settings import Settings
from kanserve.models.loader import Loader
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.runtime import base, ort
from tests.support.command_line import kanserve
from tests.support.golden_cases import Case, cases

VISIBLE = ort.PROVIDERS["cuda"] in onnxruntime.get_available_providers()
pytestmark = pytest.mark.skipif(not VISIBLE, reason="not run: onnxruntime offers no CUDA here (the extra `gpu`)")


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_golden_export_proves_itself_on_the_gpu(case: Case, tmp_path: Path) -> None:
    done = kanserve("export", case.path, "--repository", tmp_path, "--name", case.name, *case.facts["export_args"])
    assert done.returncode == 0, done.stderr
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    settings = Settings(repository=tmp_path, device="cuda")
    bundle = layout.load(candidate, settings.max_file_bytes)
    model = Loader(base.load("ort"), settings, 1, Metrics()).load(bundle)
    model.close()


def test_products_of_matrices_are_whole(tmp_path: Path) -> None:
    """TF32 has ten bits: an error of 1e-3 where float32 has 1e-6."""
    from onnx import TensorProto, helper

    weights = np.random.default_rng(0).uniform(0.5, 1, (512, 512)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 512])],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    x = np.random.default_rng(1).uniform(0.5, 1, (256, 512)).astype(np.float32)
    (y,) = ort.create(model.SerializeToString(), device="cuda", threads=1).run(["y"], {"x": x})
    exact = x.astype(np.float64) @ weights
    assert np.abs(y / exact - 1).max() < 1e-5
