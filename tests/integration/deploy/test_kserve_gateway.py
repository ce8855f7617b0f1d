"""Requests through a real Envoy with the rules of KServe's controller: why the runtime declares exactly one port."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from kanserve.pb import kan_pb2
from tests.support import programs, toy_model
from tests.support.server_process import INFERENCE, KAN, Server, request, serving
from tests.support.tiers import full

pytestmark = full("peer")

NAME = "iris"
ROWS = np.array([[0.5, -1.0, 2.0]], np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the port of the runtime, and with a second port for HTTP."""
    pytest.importorskip("h2corn")
    folder = tmp_path_factory.mktemp("models")
    toy_model.write(folder)
    with serving(folder / "toy", transport="asgi", http_port=0, model_name=NAME) as running:
        yield running


def called(port: int, path: str, data: bytes) -> bytes | str:
    """The response of a gRPC method through the gateway, or the name of its status."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            return bytes(channel.unary_unary(path)(data, timeout=60))
        except grpc.RpcError as error:
            return str(error.code().name)


def read(port: int, path: str, body: object = None) -> Any:
    """A response of REST over HTTP/1.1 through the gateway."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data), timeout=60) as answer:
        return json.load(answer)


def test_one_port_carries_grpc_and_rest(server: Server, tmp_path: Path) -> None:
    infer = request(ROWS, NAME).SerializeToString()
    describe = kan_pb2.DescribeModelRequest(model_name=NAME).SerializeToString()
    with programs.running(programs.one_rule(server.port), tmp_path) as port:
        assert called(port, f"{INFERENCE}ModelInfer", infer) == server.call(f"{INFERENCE}ModelInfer", infer)
        described = called(port, f"{KAN}DescribeModel", describe)
        assert isinstance(described, bytes), described
        assert kan_pb2.DescribeModelResponse.FromString(described).model_name == NAME
        healthy = called(port, "/grpc.health.v1.Health/Check", b"")
        assert isinstance(healthy, bytes), healthy
        assert health_pb2.HealthCheckResponse.FromString(healthy).status == health_pb2.HealthCheckResponse.SERVING
        assert read(port, f"/v2/models/{NAME}")["name"] == NAME
        explained = read(port, f"/v1/kan/models/{NAME}/explain", {"rows": ROWS.tolist()})
        assert explained["model_name"] == NAME


def test_a_second_port_takes_the_other_methods_away(server: Server, tmp_path: Path) -> None:
    http_port = int(server.http.rpartition(":")[2])
    infer = request(ROWS, NAME).SerializeToString()
    describe = kan_pb2.DescribeModelRequest(model_name=NAME).SerializeToString()
    with programs.running(programs.two_rules(server.port, http_port), tmp_path) as port:
        assert isinstance(called(port, f"{INFERENCE}ModelInfer", infer), bytes)
        assert read(port, f"/v2/models/{NAME}")["name"] == NAME
        assert isinstance(called(port, f"{KAN}DescribeModel", describe), str)
        assert isinstance(called(port, "/grpc.health.v1.Health/Check", b""), str)
