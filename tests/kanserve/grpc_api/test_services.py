"""Tests of `grpc_api/services.py`."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.support import toy_model
from tests.support.server_process import Server, serving


def test_an_unknown_method_is_refused(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.call("/no.such.Service/Method", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


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
        list(server.channel.stream_stream(path)(iter(wanted), timeout=60))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    toy_model.write(tmp_path)
    with serving(tmp_path, reflection=True) as other:
        answers = [
            reflection_pb2.ServerReflectionResponse.FromString(answer)
            for answer in other.channel.stream_stream(path)(iter(wanted), timeout=60)
        ]
    services = {service.name for service in answers[0].list_services_response.service}
    assert {"inference.GRPCInferenceService", "kanserve.v1.KanService"} <= services
    assert answers[1].file_descriptor_response.file_descriptor_proto
