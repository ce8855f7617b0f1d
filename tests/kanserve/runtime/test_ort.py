"""Tests of `runtime/ort.py`."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kanserve.errors import LoadError, LoadReason
from kanserve.runtime import ort
from kanserve.runtime.base import SessionOptions

VISIBLE = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.skipif(not VISIBLE, reason="not run: onnxruntime offers no CUDA here (the extra `gpu`)")
def test_products_of_matrices_are_whole(tmp_path: Path) -> None:
    """TF32 has ten bits: an error of 1e-3 where float32 has 1e-6."""
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
    (y,) = ort.create(model.SerializeToString(), SessionOptions("cuda", 1)).run(["y"], {"x": x})
    exact = x.astype(np.float64) @ weights
    assert np.abs(y / exact - 1).max() < 1e-5


def packed(graph: object) -> bytes:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def test_bf16_and_inputs_of_strings_are_not_loaded_together() -> None:
    kinds = {"x": TensorProto.BFLOAT16, "w": TensorProto.STRING}
    supplied = [helper.make_tensor_value_info(name, kind, ["B"]) for name, kind in kinds.items()]
    wanted = [helper.make_tensor_value_info(f"{name}_out", kind, ["B"]) for name, kind in kinds.items()]
    graph = helper.make_graph([helper.make_node("Identity", [n], [f"{n}_out"]) for n in kinds], "g", supplied, wanted)
    with pytest.raises(LoadError, match="string inputs and BF16 tensors") as caught:
        ort.create(packed(graph), SessionOptions("cpu", 1))
    assert caught.value.reason is LoadReason.RUNTIME
