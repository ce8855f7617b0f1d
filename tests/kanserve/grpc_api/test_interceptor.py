"""The interceptor for every call, including health and reflection; and the process's signal handling."""

import fcntl
import json
import os
import pty
import socket
import subprocess
import sys
import termios
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kanserve.grpc_api.call_context import Code
from kanserve.grpc_api.interceptor import AccessLog
from kanserve.pb import grpc_service_pb2 as pb
from tests.support import toy_model
from tests.support.bad_requests import refused
from tests.support.http_client import served
from tests.support.reload_tools import handled
from tests.support.server_process import INFERENCE, START, Server, request, serving
from tests.support.tiers import full
from tests.support.wait import until

HEALTH = "/grpc.health.v1.Health"
REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"


guarded = served(reflection=True, access_log="all", max_connections=1)


def test_reflection_only_on_request(server: Server) -> None:
    for name in ("v1", "v1alpha"):
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            list(server.channel.stream_stream(REFLECTION.format(name))(iter([b""]), timeout=60))


def test_health_and_reflection_pass_the_guard(guarded: Server) -> None:
    unknown = health_pb2.HealthCheckRequest(service="nobody").SerializeToString()
    with refused(grpc.StatusCode.NOT_FOUND) as caught:
        guarded.call(f"{HEALTH}/Check", unknown, metadata=(("x-request-id", "probe-7"),))
    assert ("x-request-id", "probe-7") in tuple(caught.value.trailing_metadata())
    with pytest.raises(grpc.RpcError, match="malformed HealthCheckRequest"):
        guarded.call(f"{HEALTH}/Check", b"\xff\xff")
    guarded.call(f"{HEALTH}/Check", b"")
    with pytest.raises(grpc.RpcError, match="malformed ServerReflectionRequest"):
        list(guarded.channel.stream_stream(REFLECTION.format("v1"))(iter([b"\xff\xff"]), timeout=60))
    for name in ("v1", "v1alpha"):
        requests = ({"list_services": ""}, {"file_containing_symbol": "kanserve.v1.KanService"})
        asked = [reflection_pb2.ServerReflectionRequest(**fields).SerializeToString() for fields in requests]
        replies = guarded.channel.stream_stream(REFLECTION.format(name))(iter(asked), timeout=60)
        services, files = [reflection_pb2.ServerReflectionResponse.FromString(reply) for reply in replies]
        listed = {service.name for service in services.list_services_response.service}
        assert {"inference.GRPCInferenceService", "kanserve.v1.KanService"} <= listed
        assert files.file_descriptor_response.file_descriptor_proto
    for method, code in (
        *(("Check", code) for code in ("NOT_FOUND", "OK", "INVALID_ARGUMENT")),
        ("ServerReflectionInfo", "INVALID_ARGUMENT"),
    ):  # the guarded counts a call after its response
        until(lambda method=method, code=code: handled(guarded, method, code) == 1)
    until(lambda: handled(guarded, "ServerReflectionInfo", "OK") == 2)
    # Probes that succeed would fill the log; those that do not are worth a line.
    until(lambda: sum("Health" in line.get("method", "") for line in guarded.lines()) == 2)
    lines = [line for line in guarded.lines() if "Health" in line.get("method", "")]
    assert [line["code"] for line in lines] == ["NOT_FOUND", "INVALID_ARGUMENT"]
    assert lines[0]["request_id"] == "probe-7"


def test_a_watch_is_no_request_in_flight_and_ends_when_its_caller_goes(guarded: Server) -> None:
    watch = guarded.channel.unary_stream(f"{HEALTH}/Watch")
    first = watch(b"", timeout=60)
    assert health_pb2.HealthCheckResponse.FromString(next(first)).status == health_pb2.HealthCheckResponse.SERVING
    assert "kanserve_inflight_requests 0.0" in guarded.metrics()
    with pytest.raises(grpc.RpcError, match="1 health watches are open, which is the limit"):
        next(watch(b"", timeout=60))
    first.cancel()
    until(lambda: handled(guarded, "Watch", "CANCELLED") == 1)
    again = watch(b"", timeout=60)
    assert next(again)
    again.cancel()


def test_refused_calls_are_warnings(guarded: Server) -> None:
    guarded.call(f"{INFERENCE}ModelMetadata", pb.ModelMetadataRequest(name="toy").SerializeToString())
    with pytest.raises(grpc.RpcError):
        guarded.call(f"{INFERENCE}ModelMetadata", pb.ModelMetadataRequest(name="nobody").SerializeToString())
    method = "inference.GRPCInferenceService/ModelMetadata"
    lines = guarded.logged("request_completed", count=2, method=method)
    assert {line["code"]: line["level"] for line in lines} == {"OK": "info", "NOT_FOUND": "warning"}


def _take_terminal() -> None:
    """Make standard input the terminal that controls the process, as a shell does."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize(
    ("ending", "transport"), [("ctrl-c", "asgi"), pytest.param("hang-up", "grpcio", marks=full("second transport"))]
)
def test_a_terminal_is_left_at_once(tmp_path: Path, ending: str, transport: str) -> None:
    toy_model.write(tmp_path)
    controller, terminal = pty.openpty()
    settings = {"repository": str(tmp_path), "grpc_port": 0, "metrics_port": 0, "log_format": "json"}
    settings |= {"transport": transport, "drain_delay_seconds": 600}
    with subprocess.Popen(
        [sys.executable, "-c", START, json.dumps(settings)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_take_terminal,
    ) as process:
        try:
            os.close(terminal)
            assert process.stdout is not None
            assert process.stdout.readline()
            if ending == "ctrl-c":
                os.write(controller, b"\x03")
            else:
                os.close(controller)
            code = process.wait(60)
        finally:
            process.kill()
            if ending == "ctrl-c":
                os.close(controller)
    assert code == 0


def test_limits_are_settings_with_an_effect(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    message = pb.ModelInferRequest(model_name="toy")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=(100, 3))
    tensor.contents.fp32_contents.extend([0.5] * 300)
    toy_model.write(tmp_path, "waiting")
    (tmp_path / "waiting" / "config.pbtxt").write_text("dynamic_batching { max_queue_delay_microseconds: 600000000 }")
    with serving(tmp_path, max_typed_contents_bytes=1024, max_pending_requests=1, handshake_timeout=1) as server:
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "the limit is 1024"):
            server.call(f"{INFERENCE}ModelInfer", message.SerializeToString())
        waiting = request(np.zeros((1, 3), np.float32), "waiting").SerializeToString()
        future = server.channel.unary_unary(f"{INFERENCE}ModelInfer").future(waiting, timeout=600)
        until(lambda: 'pending_request_count{model="waiting",version="1"} 1\n' in server.metrics())
        with pytest.raises(grpc.RpcError, match="Exceeds maximum queue size"):
            server.call(f"{INFERENCE}ModelInfer", waiting)
        future.cancel()
        with socket.create_connection(("127.0.0.1", server.port)) as silent:
            silent.settimeout(60)
            while silent.recv(4096):
                pass


@pytest.mark.parametrize(
    ("policy", "outcome", "probe", "lines"),
    [
        ("all", Code.OK, False, 10),
        ("errors", Code.OK, False, 0),
        ("none", Code.OK, False, 0),
        ("sampled:5", Code.OK, False, 2),
        ("sampled:5", Code.NOT_FOUND, False, 10),
        ("errors", Code.NOT_FOUND, False, 10),
        ("none", Code.NOT_FOUND, False, 0),
        ("none", Code.INTERNAL, False, 10),
        ("all", Code.OK, True, 0),
        ("all", Code.CANCELLED, True, 0),
        ("all", Code.NOT_FOUND, True, 10),
    ],
)
def test_who_has_a_line(policy: str, outcome: Code, probe: bool, lines: int) -> None:
    access = AccessLog(policy)
    assert sum(access.wants(outcome, probe=probe) for _ in range(10)) == lines
