"""Request size limit: derived from the models unless an operator sets it."""

from pathlib import Path

import grpc
import numpy as np
import pytest

from kanserve.config.settings import Settings
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.server import app
from tests.support import toy_model
from tests.support.bad_requests import refused
from tests.support.server_process import INFERENCE, Server, serving
from tests.support.wait import until

MANY = 500_000  # rows of three numbers are 6 MB


def configured(server: Server) -> int:
    data = pb.ModelConfigRequest(name="toy").SerializeToString()
    response = pb.ModelConfigResponse.FromString(server.call(f"{INFERENCE}ModelConfig", data))
    return int(response.config.parameters["kan.max_request_bytes"].string_value)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    toy_model.edit(toy_model.write(tmp_path), max_batch_size=MANY)
    toy_model.write(tmp_path, "small")
    return tmp_path


def test_a_full_batch_can_be_sent(large: Path, transport: str) -> None:
    rows = np.linspace(-1, 1, MANY * 3, dtype=np.float32).reshape(MANY, 3)
    with serving(large, transport=transport) as server:
        np.testing.assert_allclose(server.infer(rows), toy_model.outputs(rows), rtol=1e-4, atol=1e-5)
        assert configured(server) == rows.nbytes + app.AROUND
        assert not [line for line in server.lines() if line["event"] == "request_limit_too_small"]
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(rows.nbytes + app.AROUND)):
            server.call(f"{INFERENCE}ModelInfer", bytes(rows.nbytes + app.AROUND + 1))


def test_a_limit_that_is_set_stands(large: Path, transport: str) -> None:
    with serving(large, transport=transport, max_request_bytes=2**20) as server:
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(2**20)):
            server.infer(np.zeros((2**17, 3), np.float32))
        assert configured(server) == 2**20
        event = "request_limit_too_small"  # a thread writes it
        until(lambda: [line["model"] for line in server.lines() if line["event"] == event] == ["toy"], event)


def limit(root: Path, **settings: int) -> int:
    return app.with_request_limit(Settings(repository=root, **settings)).max_request_bytes


def test_what_counts(tmp_path: Path) -> None:
    usual = Settings(repository=tmp_path).max_request_bytes
    assert limit(tmp_path) == usual
    folder = toy_model.write(tmp_path)
    assert limit(tmp_path) == usual  # its full batch is small
    toy_model.edit(folder, max_batch_size=10**9)
    assert limit(tmp_path) == app.MOST
    assert limit(tmp_path, max_request_bytes=usual) == usual
    (tmp_path / "toy" / "config.pbtxt").write_text("max_batch_size: 400000")
    assert limit(tmp_path) == 400000 * 12 + app.AROUND
    (tmp_path / "toy" / "config.pbtxt").write_text("max_batch_size: what")
    assert limit(tmp_path) == usual  # it will not be loaded
    (tmp_path / "toy" / "config.pbtxt").unlink()
    (folder / "manifest.json").write_text("{")
    assert limit(tmp_path) == usual
