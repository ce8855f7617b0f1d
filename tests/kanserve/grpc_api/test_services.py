"""Tests of `grpc_api/services.py`."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2

from kanserve.grpc_api.services import Health
from tests.support import wait
from tests.support.bad_requests import refused
from tests.support.server_process import Server


def test_health(server: Server) -> None:
    for name in ("", "liveness", "toy", "toy64", "inference.GRPCInferenceService", "kanserve.v1.KanService"):
        data = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        response = health_pb2.HealthCheckResponse.FromString(server.call("/grpc.health.v1.Health/Check", data))
        assert response.status == health_pb2.HealthCheckResponse.SERVING, name
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
