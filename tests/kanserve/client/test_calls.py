"""Tests of `client/calls.py`."""

from __future__ import annotations

import pytest
from grpc_health.v1 import health_pb2

from kanserve.client.sync import Client
from tests.support.http_client import answering


@pytest.mark.parametrize(
    ("answer", "state"),
    [(b"\x08\x01", "SERVING"), (b"\x08\x02", "NOT_SERVING"), (b"\x08\x03", "SERVICE_UNKNOWN"), (b"", "UNKNOWN")],
)
def test_the_hand_written_health_message(answer: bytes, state: str) -> None:
    requested: list[bytes] = []
    with answering(lambda data, _: requested.append(data) or answer) as url, Client(url) as client:
        assert client.health("digits") == state
    assert requested == [health_pb2.HealthCheckRequest(service="digits").SerializeToString()]
    status = health_pb2.HealthCheckResponse.FromString(answer).status
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(status) == state
