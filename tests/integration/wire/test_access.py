"""Access control: the permission table covers each method and route, and both transports and HTTP enforce it."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from kanserve.grpc_api.call_context import Call, CallFailed, Code, RequestMetadata
from kanserve.grpc_api.interceptor import AccessLog, Interceptor
from kanserve.observability.metrics import Metrics
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.system.lifecycle import Lifecycle
from tests.support import credentials, http_client, toy_model
from tests.support.bad_requests import refused
from tests.support.http_client import Peer
from tests.support.server_process import INFERENCE, TRANSPORTS, Server, request, serving
from tests.support.wait import until

CALLERS = ("none", "bad", "expired", *credentials.ROLES)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server with tokens, and these by caller."""

    server: Server
    tokens: dict[str, str]

    def metadata(self, caller: str) -> tuple[tuple[str, str], ...]:
        return credentials.bearer(self.tokens[caller]) if caller in self.tokens else ()


@pytest.fixture(scope="module", params=TRANSPORTS)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    pytest.importorskip("h2corn")
    folder = tmp_path_factory.mktemp("access")
    created = credentials.write_tokens(folder / "tokens.toml") | {"bad": "kan_" + "a" * 43}
    toy_model.write(folder / "models")
    port = {} if request.param == "asgi" else {"http_port": 0}
    settings = {"tokens": str(folder / "tokens.toml"), "reflection": True, "request_read_timeout": 60, **port}
    with serving(folder / "models", transport=request.param, **settings) as running:
        yield Guarded(running, created)


def test_what_the_table_does_not_have_is_refused_by_any_server() -> None:
    async def response(data: bytes, call: Call) -> bytes:
        return b"never"

    async def ask() -> CallFailed:
        guard = Interceptor(
            Metrics(), Lifecycle(), AccessLog("none"), None, max_inflight_requests=9, max_inflight_bytes=10**6
        )
        with pytest.raises(CallFailed) as caught:
            await guard.unary("new.Service", "Method", response).respond(b"", RequestMetadata((), None))
        with pytest.raises(CallFailed) as probed:
            await guard.unary("new.Service", "Method", response, probe=True).respond(b"", RequestMetadata((), None))
        assert probed.value.status is Code.PERMISSION_DENIED
        return caught.value

    refused = asyncio.run(ask())
    assert refused.status is Code.PERMISSION_DENIED
    assert refused.code == "access-rule-missing"


@pytest.mark.parametrize("caller", CALLERS)
def test_every_method_and_route_by_every_caller(guarded: Guarded, caller: str) -> None:
    role = caller if caller in credentials.ROLES else ""
    seen = dict(credentials.methods(guarded.server.channel, role, guarded.metadata(caller)))
    seen |= dict(credentials.routes(guarded.server.http, role, guarded.metadata(caller)))
    assert len(seen) > 50
    assert {name: wrong for name, wrong in seen.items() if wrong} == {}


def test_health_tells_strangers_of_the_whole_alone(guarded: Guarded) -> None:
    def check(service: str, caller: str) -> Any:
        requested = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        return guarded.server.call("/grpc.health.v1.Health/Check", requested, metadata=guarded.metadata(caller))

    for caller in ("none", "bad", "expired"):
        assert check("", caller) == check("liveness", caller) == b"\x08\x01"
        for named in ("toy", "nobody", "inference.GRPCInferenceService"):
            with refused(grpc.StatusCode.UNAUTHENTICATED):
                check(named, caller)
    assert check("toy", "read") == b"\x08\x01"


def test_a_call_runs_and_its_line_names_who_asked(guarded: Guarded) -> None:
    rows = np.zeros((2, 3), np.float32)
    data = guarded.server.call(
        f"{INFERENCE}ModelInfer", request(rows).SerializeToString(), metadata=guarded.metadata("infer")
    )
    assert len(pb.ModelInferResponse.FromString(data).raw_output_contents[0]) == 2 * 2 * 4
    with pytest.raises(grpc.RpcError):
        guarded.server.call(f"{INFERENCE}ModelInfer", b"\xff", metadata=guarded.metadata("infer"))
    until(lambda: any(line.get("caller") == "infer" for line in guarded.server.lines()))
    log = guarded.server.log.read_text()
    assert not any(token in log for token in guarded.tokens.values())


def test_what_is_no_token(guarded: Guarded) -> None:
    good = f"Bearer {guarded.tokens['read']}"
    assert http_client.ask(guarded.server, "/v2", method="GET", authorization=good).status == 200
    wrong = ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer short", f"Bearer {'a' * 600}"]
    wrong += [f"bearer \u00e9{'a' * 50}", *(good + more for more in ("\u00a0", "\u0085", " x", "\tx"))]
    for value in wrong:
        reply = http_client.ask(guarded.server, "/v2", method="GET", authorization=value)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer"), value
        assert value.strip() in ("", "Bearer") or value.split()[-1] not in reply.body.decode(), value
    twice = (*guarded.metadata("admin"), *guarded.metadata("infer"))
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        guarded.server.call(f"{INFERENCE}ServerMetadata", b"", metadata=twice)


@pytest.mark.parametrize(("caller", "status"), [("read", b"403"), ("none", b"401")])
def test_a_refusal_over_http_does_not_wait_for_the_body(guarded: Guarded, caller: str, status: bytes) -> None:
    shown = "".join(f"{name}: {value}\r\n" for name, value in guarded.metadata(caller))
    head = f"POST /v2/models/toy/infer HTTP/1.1\r\nHost: a\r\n{shown}Content-Length: 1000000\r\n\r\n"
    host, _, port = guarded.server.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as peer:
        peer.sendall(head.encode())
        assert status in peer.recv(4096).split(b"\r\n")[0]


def test_a_refusal_over_grpc_does_not_wait_for_the_body(guarded: Guarded) -> None:
    peer = Peer(guarded.server.port)
    with peer.socket:
        assert peer.headers(peer.open())["grpc-status"] == "16"
