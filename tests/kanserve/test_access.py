"""Who may call what: the table holds every method and route, and both doors and HTTP refuse by it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kanserve.access.roles import INCLUDES, Role
from kanserve.access.table import ANYONE, NEEDS
from kanserve.app import App
from kanserve.config import Settings
from kanserve.lifecycle import Lifecycle
from kanserve.observe.metrics import UNKNOWN, Metrics
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.rpc.call import Arrival, Call
from kanserve.rpc.guard import AccessLog, CallFailed, Guard
from kanserve.rpc.status import Code
from tests.kanserve import httpdoors, tokenfile, toy
from tests.kanserve.running import INFERENCE, Server, request, serving

SERVICES = [
    *(pb.DESCRIPTOR.services_by_name.values()),
    *(kan_pb2.DESCRIPTOR.services_by_name.values()),
    *(health_pb2.DESCRIPTOR.services_by_name.values()),
    *(reflection_pb2.DESCRIPTOR.services_by_name.values()),
]
METHODS = {f"{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}
METHODS["grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] = next(
    method for method in METHODS.values() if method.name == "ServerReflectionInfo"
)
METHODS.pop("grpc.health.v1.Health/List", None)  # not offered: an unknown method
NOWHERE = "no.Such/Method"
CALLERS = ("none", "bad", "expired", *tokenfile.ROLES)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server with tokens, and these by caller."""

    server: Server
    tokens: dict[str, str]

    def metadata(self, caller: str) -> tuple[tuple[str, str], ...]:
        return tokenfile.bearer(self.tokens[caller]) if caller in self.tokens else ()


@pytest.fixture(scope="module", params=["asgi", "grpcio"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    pytest.importorskip("h2corn")
    folder = tmp_path_factory.mktemp("access")
    made = tokenfile.write(folder / "tokens.toml") | {"bad": "kan_" + "a" * 43}
    toy.write(folder / "models")
    port = {} if request.param == "asgi" else {"http_port": 0}
    settings = {"tokens": str(folder / "tokens.toml"), "reflection": True, "transport": request.param, **port}
    with serving(folder / "models", **settings) as running:
        yield Guarded(running, made)


def test_every_method_and_route_is_in_the_table_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    toy.write(tmp_path)

    async def wired() -> set[str]:
        app = App(Settings(repository=tmp_path, grpc_port=0, metrics_port=0, reflection=True))
        return app.guard.names

    there = asyncio.run(wired())
    assert there == set(NEEDS)
    assert set(METHODS) <= there


def test_what_the_table_does_not_have_is_refused_by_any_server() -> None:
    async def answer(data: bytes, call: Call) -> bytes:
        return b"never"

    async def ask() -> CallFailed:
        guard = Guard(Metrics(), Lifecycle(), AccessLog("none"), None, max_calls=9, max_bytes=10**6)
        with pytest.raises(CallFailed) as caught:
            await guard.unary("new.Service", "Method", answer).answer(b"", Arrival((), None))
        with pytest.raises(CallFailed) as probed:
            await guard.unary("new.Service", "Method", answer, probe=True).answer(b"", Arrival((), None))
        assert probed.value.code is Code.PERMISSION_DENIED
        return caught.value

    refused = asyncio.run(ask())
    assert refused.code is Code.PERMISSION_DENIED
    assert "table of access" in refused.text


def test_who_includes_whom() -> None:
    assert {role: set(INCLUDES[role]) for role in Role} == {
        Role.READ: {Role.READ},
        Role.INFER: {Role.INFER, Role.READ},
        Role.INTERPRET: {Role.INTERPRET, Role.READ},
        Role.ADMIN: {*Role},
    }


@pytest.mark.parametrize("caller", CALLERS)
def test_every_method_by_every_caller(guarded: Guarded, caller: str) -> None:
    for name in [*METHODS, NOWHERE]:
        need = NEEDS[name if name != NOWHERE else f"{UNKNOWN}/{UNKNOWN}"]
        code, text = outcome(guarded, name, caller)
        if need is ANYONE or (caller in INCLUDES and need in INCLUDES[Role(caller)]):
            assert code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED), (name, text)
        elif caller in INCLUDES:
            assert code is grpc.StatusCode.PERMISSION_DENIED, (name, text)
            assert f"the role {need}" in text
        else:
            assert code is grpc.StatusCode.UNAUTHENTICATED, (name, text)
            assert (caller != "none") or f"the role {need}" in text
        assert not any(token in text for token in guarded.tokens.values())


def outcome(guarded: Guarded, name: str, caller: str) -> tuple[grpc.StatusCode, str]:
    """Of a call with an empty message."""
    channel, how = guarded.server.channel, METHODS.get(name)
    options: dict[str, Any] = {"timeout": 20, "metadata": guarded.metadata(caller)}
    try:
        if how is None or not how.server_streaming:
            channel.unary_unary(f"/{name}")(b"", **options)
        elif how.client_streaming:
            list(channel.stream_stream(f"/{name}")(iter([b""]), **options))
        else:
            call = channel.unary_stream(f"/{name}")(b"", **options)
            next(call)
            call.cancel()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("caller", CALLERS)
def test_every_route_by_every_caller(guarded: Guarded, caller: str) -> None:
    for name, need in NEEDS.items():
        verb, _, route = name.partition(" ")
        if not route.startswith("/") and verb != UNKNOWN:
            continue
        path = "/nowhere" if route == UNKNOWN else route
        for key, value in {"name": "toy", "version": "1", "repository": "r", "rest:path": "x"}.items():
            path = path.replace(f"{{{key}}}", value)
        body = b"{}" if verb == "POST" else None
        reply = httpdoors.ask(guarded.server, path, body, **dict(guarded.metadata(caller)))
        if need is ANYONE or (caller in INCLUDES and need in INCLUDES[Role(caller)]):
            assert reply.status not in (401, 403), name
        elif caller in INCLUDES:
            assert (reply.status, f"the role {need}" in reply.json["error"]) == (403, True), name
        else:
            assert (reply.status, reply.headers.get("www-authenticate")) == (401, "Bearer"), name


def test_health_tells_strangers_of_the_whole_alone(guarded: Guarded) -> None:
    def check(service: str, caller: str) -> Any:
        asked = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        return guarded.server.call("/grpc.health.v1.Health/Check", asked, metadata=guarded.metadata(caller))

    for caller in ("none", "bad", "expired"):
        assert check("", caller) == check("liveness", caller) == b"\x08\x01"
        for named in ("toy", "nobody", "inference.GRPCInferenceService"):
            with pytest.raises(grpc.RpcError) as caught:
                check(named, caller)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert check("toy", "read") == b"\x08\x01"


def test_a_call_runs_and_its_line_names_who_asked(guarded: Guarded) -> None:
    rows = np.zeros((2, 3), np.float32)
    data = guarded.server.call(
        f"{INFERENCE}ModelInfer", request(rows).SerializeToString(), metadata=guarded.metadata("infer")
    )
    assert len(pb.ModelInferResponse.FromString(data).raw_output_contents[0]) == 2 * 2 * 4
    with pytest.raises(grpc.RpcError):
        guarded.server.call(f"{INFERENCE}ModelInfer", b"\xff", metadata=guarded.metadata("infer"))
    named = [line for line in guarded.server.lines() if line.get("caller") == "infer"]
    assert named
    log = guarded.server.log.read_text()
    assert not any(token in log for token in guarded.tokens.values())


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer ", "Basic abc", "Bearer short", "Bearer " + "a" * 600, "bearer \u00e9" + "a" * 50, ""]
)
def test_what_is_no_token(guarded: Guarded, value: str) -> None:
    for verb in ("GET",):
        reply = httpdoors.ask(guarded.server, "/v2", method=verb, authorization=value)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert value.strip() in ("", "Bearer") or value[7:] not in reply.body.decode()


def test_two_credentials_are_none(guarded: Guarded) -> None:
    twice = (*guarded.metadata("admin"), *guarded.metadata("infer"))
    with pytest.raises(grpc.RpcError) as caught:
        guarded.server.call(f"{INFERENCE}ServerMetadata", b"", metadata=twice)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
