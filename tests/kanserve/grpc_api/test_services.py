"""Tests of `grpc_api/services.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kanserve.grpc_api.services import Health
from tests.support import toy_model, wait
from tests.support.bad_requests import refused
from tests.support.server_process import Server, serving


def test_an_unknown_method_is_refused(server: Server) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        server.call("/no.such.Service/Method", b"")


def test_health(server: Server) -> None:
    for name in ("", "liveness", "toy", "toy64", "inference.GRPCInferenceService", "kanserve.v1.KanService"):
        data = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        answer = health_pb2.HealthCheckResponse.FromString(server.call("/grpc.health.v1.Health/Check", data))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    with refused(grpc.StatusCode.NOT_FOUND):
        server.call("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="nope").SerializeToString())


async def test_a_state_that_changes_while_another_is_sent_reaches_the_watch() -> None:
    """The transport sends the first state until the second `anext`. A shutdown changes the state only once."""
    states = iter((True, False, False, False))
    health = Health(cast(Any, SimpleNamespace(ready=states.__next__)), (), most=1)

    async def messages() -> AsyncIterator[bytes]:
        yield b""

    watch = health.watch(messages(), cast(Any, None))
    first = await anext(watch)
    await health.changed()
    second = await asyncio.wait_for(anext(watch), wait.SECONDS)
    sent = [health_pb2.HealthCheckResponse.FromString(data).status for data in (first, second)]
    assert sent == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    await watch.aclose()


@pytest.fixture(scope="module")
def reflecting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("reflecting")
    toy_model.write(root)
    with serving(root, reflection=True) as running:
        yield running


@pytest.mark.parametrize("name", ["v1", "v1alpha"])
def test_reflection_only_on_request(reflecting: Server, server: Server, name: str) -> None:
    path = f"/grpc.reflection.{name}.ServerReflection/ServerReflectionInfo"
    wanted = [
        reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString(),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="kanserve.v1.KanService").SerializeToString(),
    ]
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        list(server.channel.stream_stream(path)(iter(wanted), timeout=60))
    replies = reflecting.channel.stream_stream(path)(iter(wanted), timeout=60)
    answers = [reflection_pb2.ServerReflectionResponse.FromString(reply) for reply in replies]
    services = {service.name for service in answers[0].list_services_response.service}
    assert {"inference.GRPCInferenceService", "kanserve.v1.KanService"} <= services
    assert answers[1].file_descriptor_response.file_descriptor_proto
