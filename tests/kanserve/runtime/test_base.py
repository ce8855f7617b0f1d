"""Tests of `runtime/base.py`."""

from pathlib import Path

import numpy as np
import pytest

from kanserve.errors import LoadError
from kanserve.runtime.base import SessionOptions, create_session
from tests.support import toy_model


def test_a_session_is_of_one_graph_of_a_version(tmp_path: Path) -> None:
    folder = toy_model.write(tmp_path)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    session = create_session(files, None, "model.onnx", SessionOptions("cpu", 1))
    (tensor,) = session.inputs
    rows = np.zeros((2, *tensor.shape[1:]), np.float32)
    (outputs,) = session.run([session.outputs[0].name], {tensor.name: rows})
    assert len(outputs) == 2
    with pytest.raises(LoadError):
        create_session({**files, "model.onnx": b"no graph"}, None, "model.onnx", SessionOptions("cpu", 1))
