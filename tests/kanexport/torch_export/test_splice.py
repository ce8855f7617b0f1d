"""A graph avoids matrix-vector products that onnxruntime's optimizer computes wrongly without an error."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from kanexport.shared import manifest
from kanexport.torch_export import splice
from kanserve.client.sync import Client
from tests.support import chunked
from tests.support import torch_modules as modules
from tests.support.server_process import serving
from tests.support.tiers import full
from tests.support.torch_modules import draw, export

VECTOR = np.arange(1, 6).astype(np.float32)
X = draw(5, 5, rows=8, seed=0)


def weighted() -> modules.Composed:
    """A KAN layer on tokens, and a learned vector that mixes the tokens."""
    weight = torch.nn.Parameter(torch.from_numpy(VECTOR))
    return modules.Composed(
        lambda m, x: m.layer(x).transpose(1, 2) @ m.weight, layer=modules.KANLinear(5, 5), weight=weight
    )


def _product(vector: np.ndarray) -> onnx.ModelProto:
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), helper.make_node("MatMul", ["t", "v"], ["y"])]
    supplied = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["b", 5, 5])
    gives = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["b", 5, 1][: 1 + vector.ndim])
    graph = helper.make_graph(nodes, "g", [supplied], [gives], [numpy_helper.from_array(vector, "v")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _response(model: onnx.ModelProto) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def test_a_vector_is_written_as_a_column() -> None:
    model = _product(VECTOR)
    splice.as_columns(model.graph)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(_response(model), X.transpose(0, 2, 1) @ VECTOR, rtol=1e-5, atol=1e-5)
    wide = _product(VECTOR[:, None])
    before = wide.SerializeToString()
    splice.as_columns(wide.graph)
    assert wide.SerializeToString() == before


def test_a_module_with_such_a_product_is_right_at_every_level(tmp_path: Path) -> None:
    result = export(weighted(), X, tmp_path)
    assert result.manifest.optimization == manifest.ANY
    assert not [note for note in result.manifest.notes if "ORT_ENABLE_BASIC" in note]


@full("peer")
def test_with_a_wrong_optimiser_the_server_loads_with_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if np.abs(_response(_product(VECTOR)) - X.transpose(0, 2, 1) @ VECTOR).max() < 1e-3:
        pytest.skip("this onnxruntime multiplies a transposed matrix and a vector right")
    monkeypatch.setattr(splice, "as_columns", lambda graph: None)  # as torch.onnx writes it
    module = weighted()
    result = export(module, X, tmp_path)
    assert result.manifest.optimization == manifest.BASIC
    (note,) = [note for note in result.manifest.notes if "ORT_ENABLE_BASIC" in note]
    assert "optimization { graph { level: -1 } }" in note
    assert f"onnxruntime {onnxruntime.__version__}" in note
    with torch.no_grad():
        expected = module(torch.from_numpy(X)).numpy()
    with serving(tmp_path) as server, Client(server.address) as client:
        response = chunked.infer(client, client.model("m"), X).outputs["y"]
    np.testing.assert_allclose(response, expected, rtol=1e-4, atol=1e-4)
