"""EditEdges over gRPC and HTTP on a live server: preview, new version, roles, and edits that are rejected."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kanexport.pipeline import Request, export
from kanserve.client import control
from kanserve.client.control import EdgeEdit
from kanserve.client.errors import ClientError
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2
from kanserve.services import edits
from tests.support import http_client, toy_model
from tests.support.golden_cases import OWN
from tests.support.server_process import KAN, SHARED, Server, serving
from tests.support.tiers import full, spread
from tests.support.wait import until

SINE = EdgeEdit(0, 0, 0, "to", "1.2*sin(x)")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("edits") / "models"
    export(Request(path=OWN / "pykan-hello-adapted" / "model", repository=root, name="hello"))
    toy_model.write(root, "toy")
    return root


served = http_client.served(SHARED, "models", repository_poll_seconds=0.2, allow_edits="true")


@pytest.fixture
def client(served: Server, models: Path) -> Iterator[Client]:
    with Client(served.address, timeout=120) as connected:
        yield connected
    for folder in (models / "hello").glob("[2-9]"):
        shutil.rmtree(folder)


def versions(client: Client) -> set[str]:
    return {entry.version for entry in client.index() if entry.name == "hello" and entry.state == "READY"}


def test_a_preview_writes_nothing(client: Client, models: Path) -> None:
    result = control.edit(client, "hello", [SINE], preview=True)
    assert (result.model, result.version, result.edit.parent_version) == ("hello", "", 1)
    x, before, after = result.curves[0, 0, 0]
    assert len(x) == len(before) == len(after) == 65
    assert after != before
    assert result.edit.edges[0].operation == "to 1.2*sin(x)"
    assert result.edit.largest[0] > 0
    assert sorted(os.listdir(models / "hello")) == ["1", "config.pbtxt"]


@full("combination")
@pytest.mark.parametrize("served", ["asgi"], indirect=True)
def test_a_function_that_is_undefined_beyond_the_grid(client: Client) -> None:
    x, _, _ = control.edit(client, "hello", [SINE], preview=True).curves[0, 0, 0]
    root = EdgeEdit(0, 0, 0, "to", f"sqrt(x + {-x[2]:.6f})")
    _, _, after = control.edit(client, "hello", [root], preview=True).curves[0, 0, 0]
    assert math.isnan(after[0])
    assert math.isfinite(after[32])


def test_a_new_version_is_not_the_default(client: Client) -> None:
    result = control.edit(client, "hello", [SINE, EdgeEdit(1, 3, 0, "clamp", numbers=(0.0, 1.0))], version="1")
    assert result.version == "2"
    until(lambda: "2" in versions(client))
    assert client.infer("hello", [[0.1, 0.2]]).version == "1"
    assert client.infer("hello", [[0.1, 0.2]], version="2").version == "2"
    edit = client.describe("hello", "2").edit
    assert [edge.text for edge in edit.edges] == ["edge 0:0:0 to 1.2*sin(x)", "edge 1:3:0 clamp 0:1"]


INVALID = [
    ("hello", [EdgeEdit(0, 9, 0, "zero")], "edge-unknown"),
    ("hello", [EdgeEdit(0, 0, 0, "bend")], "operation-unknown"),
    ("hello", [EdgeEdit(0, 0, 0, "clamp", numbers=(1.0,))], "edit-value-invalid"),
    ("hello", [EdgeEdit(0, 0, 0, "points", numbers=(1.0,))], "edit-value-invalid"),
    ("hello", [EdgeEdit(0, 0, 0, "to", "log(x)")], "expression-undefined"),
    ("hello", [EdgeEdit(0, 0, 0, "to", "__import__('os')")], "expression-invalid"),
    ("hello", [EdgeEdit(0, 0, 0, "monotone", "sideways")], "edit-value-invalid"),
    ("hello", [EdgeEdit(0, 0, 0, "points", numbers=(1 / 3,) * 99_998)], "edits-too-large"),
    ("hello", [], "edits-missing"),
    ("toy", [SINE], "network-file-missing"),
]


@pytest.mark.parametrize("served", ["asgi"], indirect=True)
@spread("name,edits,code", INVALID, 2)
def test_edits_that_are_not_valid(client: Client, models: Path, name: str, edits: list[EdgeEdit], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        control.edit(client, name, edits)
    assert caught.value.error_code == code
    for path in (str(models), tempfile.gettempdir()):
        assert path not in f"{caught.value} {caught.value.hint}"
    assert not (models / "hello" / "2").exists()


def test_the_process_of_an_edit_has_a_memory_limit(tmp_path: Path) -> None:
    (tmp_path / "network.safetensors").write_bytes(bytes(100))
    code = "import resource; input(); print(resource.getrlimit(resource.RLIMIT_DATA)); bytearray(2**32)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, text=True)
    edits.limit_memory(process.pid, tmp_path)
    printed, errors = process.communicate("\n")
    assert (printed, process.returncode) == (f"{(2**31 + 1600,) * 2}\n", 1)
    assert errors.strip().endswith("MemoryError")


def test_versions_that_accept_edits(served: Server, client: Client, models: Path) -> None:
    for name, expected in (("hello", True), ("toy", False)):
        reply = http_client.ask(served, f"/v1/kan/models/{name}")
        assert reply.json.get("editable", False) is expected
        data = kan_pb2.DescribeModelRequest(model_name=name).SerializeToString()
        whole = kan_pb2.DescribeModelResponse.FromString(served.call(f"{KAN}DescribeModel", data))
        assert (whole.editable, whole.model_name, bool(whole.layers)) == (expected, name, True)


def test_over_http(served: Server, client: Client) -> None:
    entry = {"layer": 0, "source": 1, "destination": 2, "operation": "zero"}
    body: dict[str, Any] = {"edits": [entry], "preview": True}
    reply = http_client.ask(served, "/v1/kan/models/hello/versions/1/edits", body)
    assert (reply.status, reply.json["model_version"]) == (200, "")
    assert reply.json["curves"][0]["phi_after"] == [0.0] * 65
    entry["operation"] = "bend"
    assert http_client.ask(served, "/v1/kan/models/hello/edits", body).status == 400


def test_a_server_without_the_setting_accepts_no_edits(models: Path) -> None:
    with serving(models) as server, Client(server.address, timeout=120) as client:
        with pytest.raises(ClientError, match="accepts no edits") as caught:
            control.edit(client, "hello", [SINE])
        assert caught.value.error_code == "edits-off"
        assert "--allow-edits" in caught.value.hint
