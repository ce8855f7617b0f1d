"""Tests of `client/control.py`."""

import grpc
import pytest

from kanserve.client import control
from kanserve.client.errors import Unavailable
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2 as kan
from tests.support.http_client import responding


def test_what_may_not_be_done_twice_is_not_tried_again() -> None:
    calls: list[bytes] = []

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        if len(calls) % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return kan.VersionChoice(model_name="m", model_version="2", previous_version="1").SerializeToString()

    with responding(response) as url, Client(url) as client:
        assert control.promote(client, "m", "2") == control.VersionChoice("m", "2", "1")
        assert len(calls) == 2
        with pytest.raises(Unavailable, match="not available: gone"):
            control.rollback(client, "m")
    assert len(calls) == 3
