"""The server itself: methods, readiness, ids, logs, health, reflection, channel options by effect."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from onnx import TensorProto, helper, numpy_helper

from kanexport.contract import manifest
from kanserve.errors import KanserveError
from kanserve.grpc_api import call_context
from kanserve.grpc_api.inference import InferenceService
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.system.resources import budget
from tests.support import toy_model
from tests.support.server_process import INFERENCE, Server, request, serving, wait_until

ROWS = np.full((2, 3), 0.123456, np.float32)
SERVED = {
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "ModelInfer",
    "ModelStreamInfer",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
}


def test_every_other_method_is_refused_with_a_sentence(server: Server) -> None:
    for method in InferenceService.descriptor.methods:
        if method.name in SERVED:
            continue
        path = INFERENCE + method.name
        with pytest.raises(grpc.RpcError) as caught:
            _ = (
                list(server.channel.stream_stream(path)(iter([b""]), timeout=10))
                if method.client_streaming
                else server.call(path, b"")
            )
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert caught.value.details() == f"{method.name} is not supported by kanserve"


def test_an_unknown_method_is_refused(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.call("/no.such.Service/Method", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_versions(server: Server) -> None:
    for asked, given in (("", "2"), ("1", "1"), ("2", "2"), ("+1", "1")):
        data = request(ROWS, model_version=asked, id="an id").SerializeToString()
        answer = pb.ModelInferResponse.FromString(server.call(f"{INFERENCE}ModelInfer", data))
        assert (answer.model_name, answer.model_version, answer.id) == ("toy", given, "an id")


def test_metadata_and_config_agree(server: Server) -> None:
    data = pb.ModelMetadataRequest(name="toy").SerializeToString()
    metadata = pb.ModelMetadataResponse.FromString(server.call(f"{INFERENCE}ModelMetadata", data))
    config = pb.ModelConfigResponse.FromString(server.call(f"{INFERENCE}ModelConfig", data)).config
    assert (metadata.name, list(metadata.versions), metadata.platform) == (
        "toy",
        ["1", "2"],
        "onnxruntime_onnx",
    )
    assert [t.name for t in metadata.outputs] == [t.name for t in config.output] == ["y"]
    for tensor, configured in zip(metadata.inputs, config.input, strict=True):
        assert list(tensor.shape) == [-1, *configured.dims]
    assert config.max_batch_size == toy_model.BATCH
    assert config.HasField("model_transaction_policy")
    assert config.parameters["kan.family"].string_value == "toy"
    assert config.parameters["kan.verification"].string_value == manifest.VERIFICATION_BASES[manifest.READING]


def test_the_request_id_is_in_the_log_line_and_tensors_never_are(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, access_log="all") as server:
        data = request(ROWS, id="from-the-message").SerializeToString()
        server.call(f"{INFERENCE}ModelInfer", data, metadata=(("x-request-id", "from-metadata"),))
        server.call(f"{INFERENCE}ModelInfer", data)
        server.call(f"{INFERENCE}ModelInfer", request(ROWS, id="bad\nid").SerializeToString())
        bad = request(np.zeros((1, 7), np.float32)).SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            server.call(f"{INFERENCE}ModelInfer", bad)
        wait_until(lambda: sum(line["event"] == "request_completed" for line in server.lines()) == 4)
        lines = [line for line in server.lines() if line["event"] == "request_completed"]
        text = server.log.read_text()
    assert [line["request_id"] for line in lines[:2]] == ["from-metadata", "from-the-message"]
    assert "\n" not in lines[2]["request_id"]
    assert ("x-request-id", lines[3]["request_id"]) in list(caught.value.trailing_metadata())
    assert [line["code"] for line in lines] == ["OK", "OK", "OK", "INVALID_ARGUMENT"]
    assert (lines[0]["model"], lines[0]["version"], lines[0]["rows"]) == ("toy", 1, 2)
    assert "0.1234" not in text
    assert repr(ROWS.tobytes())[2:-1] not in text


def test_a_bug_shows_an_id_and_nothing_else() -> None:
    error = ValueError("secret /etc/path")
    assert call_context.code(error) is call_context.Code.INTERNAL
    assert call_context.text(error, "abc") == "internal error; the server's log explains it under request id abc"


def test_every_error_has_a_code_or_is_a_bug() -> None:
    def leaves(kind: type[KanserveError]) -> list[type[KanserveError]]:
        return [kind, *(leaf for below in kind.__subclasses__() for leaf in leaves(below))]

    bugs = {"KanserveError", "ConfigError", "LoadError", "BackendError"}
    for kind in leaves(KanserveError):
        internal = call_context.code(kind.__new__(kind)) is call_context.Code.INTERNAL
        assert internal == (kind.__name__ in bugs), kind


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", 1),
        ("liveness", 1),
        ("toy", 1),
        ("toy64", 1),
        ("inference.GRPCInferenceService", 1),
        ("kanserve.v1.KanService", 1),
    ],
)
def test_health(server: Server, name: str, code: int) -> None:
    data = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    answer = health_pb2.HealthCheckResponse.FromString(server.call("/grpc.health.v1.Health/Check", data))
    assert answer.status == code


def test_health_of_nobody(server: Server) -> None:
    data = health_pb2.HealthCheckRequest(service="nope").SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        server.call("/grpc.health.v1.Health/Check", data)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", ["v1", "v1alpha"])
def test_reflection_only_on_request(tmp_path: Path, server: Server, name: str) -> None:
    path = f"/grpc.reflection.{name}.ServerReflection/ServerReflectionInfo"
    wanted = [
        reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString(),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="kanserve.v1.KanService").SerializeToString(),
    ]
    with pytest.raises(grpc.RpcError) as caught:
        list(server.channel.stream_stream(path)(iter(wanted), timeout=10))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    toy_model.write(tmp_path)
    with serving(tmp_path, reflection=True) as other:
        answers = [
            reflection_pb2.ServerReflectionResponse.FromString(answer)
            for answer in other.channel.stream_stream(path)(iter(wanted), timeout=10)
        ]
    services = {service.name for service in answers[0].list_services_response.service}
    assert {"inference.GRPCInferenceService", "kanserve.v1.KanService"} <= services
    assert answers[1].file_descriptor_response.file_descriptor_proto


def test_a_second_server_on_the_port_is_refused(tmp_path: Path, server: Server) -> None:
    with (
        pytest.raises(AssertionError, match="cannot be listened on: Address already in use"),
        serving(tmp_path, grpc_port=server.port),
    ):
        pass


def test_a_client_that_never_finishes_its_handshake_is_dropped(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"PRI * HTTP/2")  # half a preface
        client.settimeout(20)
        begun = time.monotonic()
        while client.recv(4096):
            pass
        assert time.monotonic() - begun < 8


def test_an_answer_beyond_the_limit_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    toy_model.edit(tmp_path / "toy" / "1", max_batch_size=1000)
    with serving(tmp_path, max_response_bytes=1024) as server:
        assert server.infer(np.zeros((128, 3), np.float32)).shape == (128, 2)
        with pytest.raises(grpc.RpcError) as caught:
            server.infer(np.zeros((129, 3), np.float32))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "takes 1032 bytes, the limit is 1024; send fewer rows" in caught.value.details()
        assert "nv_inference_exec_count" in server.metrics()


def test_importing_the_server_loads_no_export_library() -> None:
    code = "import sys, kanserve.server.app; print([m for m in ('onnx', 'torch', 'yaml') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 10**6),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 10**6),
        ({"cpu.max": "nonsense here"}, 10**6),
        ({}, 10**6),
    ],
)
def test_the_thread_budget_follows_the_cgroup(tmp_path: Path, files: dict[str, str], quota: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert budget(tmp_path) == min(quota, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("nice", [0, 7])
def test_threads_that_compute_stand_back(tmp_path: Path, nice: int) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, compute_nice=nice, inline_run_seconds=0, max_queue_delay_microseconds=1000) as server:
        server.infer(np.zeros((2, 3), np.float32))
        own = os.getpriority(os.PRIO_PROCESS, server.process.pid)
        found: dict[str, set[int]] = {}
        for task in Path(f"/proc/{server.process.pid}/task").iterdir():
            found.setdefault((task / "comm").read_text().strip(), set()).add(
                os.getpriority(os.PRIO_PROCESS, int(task.name)) - own
            )
    levels = set().union(*found.values())
    assert levels == {0, nice}
    assert found["tokio-rt-worker"] == {0}


def test_what_the_runtime_says_stays_in_the_log(tmp_path: Path) -> None:
    """A plain graph that fails for some values: not foreseeable, so INTERNAL, with an id alone."""
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    graph = helper.make_graph(
        [node],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["B", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 1])],
        [numpy_helper.from_array(np.arange(3, dtype=np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "lookup" / "1").mkdir(parents=True)
    (tmp_path / "lookup" / "1" / "model.onnx").write_bytes(model.SerializeToString())

    def message(index: int) -> bytes:
        asked = pb.ModelInferRequest(model_name="lookup", id="find-me")
        asked.inputs.add(name="x", datatype="INT64", shape=[1, 1])
        asked.raw_input_contents.append(np.array([[index]], "<i8").tobytes())
        return asked.SerializeToString()

    with serving(tmp_path, plain_onnx=True) as server:
        with pytest.raises(grpc.RpcError) as caught:
            server.call(f"{INFERENCE}ModelInfer", message(99))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        expected = "internal error; the server's log explains it under request id find-me"
        assert caught.value.details() == expected
        server.call(f"{INFERENCE}ModelInfer", message(2))
        assert 'nv_inference_request_failure{model="lookup",version="1",reason="BACKEND"} 1' in server.metrics()
        wait_until(lambda: any(line.get("code") == "INTERNAL" for line in server.lines()))
        (line,) = [line for line in server.lines() if line.get("code") == "INTERNAL"]
    assert line["request_id"] == "find-me"
    assert "BackendError" in line["exception"]
