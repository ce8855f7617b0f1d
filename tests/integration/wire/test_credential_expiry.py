"""If a client's credential is revoked or expires, each open stream of the client ends, on both transports."""

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kanserve.auth import authenticator, token_file
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.permissions import HEALTH, INFERENCE, KAN, NEEDS, REFLECTION
from kanserve.config.settings import Settings
from kanserve.grpc_api.call_context import Call, CallFailed, Code, RequestMetadata
from kanserve.grpc_api.interceptor import AccessLog, Interceptor, Kind
from kanserve.observability.metrics import Metrics
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.server.app import App
from kanserve.system.lifecycle import Lifecycle
from tests.support import credentials, toy_model, wait
from tests.support.server_process import SHARED, Server, request, serving
from tests.support.tiers import full

WIDTH, ROWS = 256, 128  # of responses that exceed the buffers of the transports
ALL = ["read", "infer", "interpret"]
ENDED = ("credential-revoked", "token-expired")
WATCHED = ("/v1/kan/models/toy/watch", "/v1/kan/models/toy/versions/1/watch")
ROUTES = {path.replace("toy", "{name}").replace("versions/1", "versions/{version}"): path for path in WATCHED}
# The first message of each stream. The stream lasts longer than this test, or has more than a reader takes at once.
FIRST: dict[str, Any] = {
    f"{KAN}/WatchStatistics": kan_pb2.WatchStatisticsRequest(model_name="toy", interval=3600),
    f"{KAN}/GetCurves": kan_pb2.GetCurvesRequest(model_name="wide", layers=[0], points=200),
    f"{KAN}/StreamEdges": kan_pb2.QueryEdgesRequest(
        model_name="wide", row_count=ROWS, rows=np.zeros((ROWS, WIDTH), "<f4").tobytes(), layers=[0]
    ),
    f"{HEALTH}/Watch": health_pb2.HealthCheckRequest(service="toy"),
    f"{INFERENCE}/ModelStreamInfer": request(np.zeros((1, 3), np.float32)),
    **{f"{name}/ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(list_services="") for name in REFLECTION},
}
# A channel with its own connection, whose window stays at 64 KiB: the reader takes no more ahead.
SMALL_WINDOW = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
ENDING = {f"{KAN}/GetCurves", f"{KAN}/StreamEdges"}


class Held(threading.Thread):
    """Reads the first message of a stream, and the rest to its end once `more` is set. `messages`: "" for each, and the
    error of the stream."""

    def __init__(self, messages: Iterator[str]) -> None:
        super().__init__(daemon=True)
        self._messages, self.outcome = messages, ""
        self.begun, self.more = threading.Event(), threading.Event()

    def run(self) -> None:
        end = "OK"
        try:
            for error in self._messages:
                end = error or end
                self.begun.set()
                self.more.wait(wait.SECONDS)
        except (OSError, http.client.HTTPException, AssertionError) as error:
            end = repr(error)
        finally:
            self.outcome = end
            self.begun.set()

    def to_its_end(self) -> str:
        """How the stream ends, or "still open"."""
        self.more.set()
        self.join(wait.SECONDS)
        return "still open" if self.is_alive() else self.outcome


def over_grpc(server: Server, name: str, token: str) -> Iterator[str]:
    first, many, over = FIRST[name].SerializeToString(), credentials.METHODS[name].client_streaming, threading.Event()

    def sent() -> Iterator[bytes]:
        yield first
        over.wait(wait.SECONDS)

    with grpc.insecure_channel(server.address, SMALL_WINDOW) as channel:
        make = channel.stream_stream if many else channel.unary_stream
        try:
            for _ in make(f"/{name}")(sent() if many else first, timeout=250, metadata=credentials.bearer(token)):
                yield ""
        except grpc.RpcError as error:
            yield f"{error.code().name}: {error.details()}"
        finally:
            over.set()


def over_http(server: Server, route: str, token: str) -> Iterator[str]:
    with contextlib.closing(http.client.HTTPConnection(server.http, timeout=250)) as connection:
        connection.request("GET", f"{ROUTES[route]}?interval=3600", headers=dict(credentials.bearer(token)))
        response, kind = connection.getresponse(), ""
        for line in response:
            kind = line.decode().partition("event: ")[2].strip() or kind
            if line.startswith(b"data: ") and kind == "error":
                assert not response.read().strip(b":\n"), "nothing follows the error"
                said = json.loads(line[6:])
                yield "UNAUTHENTICATED" if said["code"] in ENDED else said["error"]
                return
            if line.startswith(b"data: "):
                yield ""


def streams(tmp_path: Path) -> set[str]:
    """Every method and route of the server that returns a stream."""

    async def wired() -> set[str]:
        app = App(Settings(repository=tmp_path, grpc_port=0, metrics_port=0, reflection=True))
        return app.guard.streams

    return asyncio.run(wired())


def test_the_table_of_streams_is_that_of_the_server(tmp_path: Path) -> None:
    """A new stream needs a test below."""
    pytest.importorskip("starlette")
    toy_model.write(tmp_path)
    assert streams(tmp_path) == {*FIRST, *(f"GET {route}" for route in ROUTES)}
    offered = {name for name, how in credentials.METHODS.items() if how.server_streaming}
    assert offered == set(FIRST)
    assert streams(tmp_path) <= set(NEEDS)


def opened(server: Server, token: str) -> dict[str, Held]:
    """All streams, each on its own connection."""
    held = {name: Held(over_grpc(server, name, token)) for name in FIRST}
    held |= {f"GET {route}": Held(over_http(server, route, token)) for route in ROUTES}
    for item in held.values():
        item.start()
    return held


class Guarded:
    """A server, and the token file that it follows."""

    def __init__(self, server: Server, path: Path, usual: str) -> None:
        self.server, self._path, self._usual = server, path, usual

    def save(self, *blocks: str) -> None:
        """Save the file; return when the server has read it."""
        before = self._taken()
        self.write(*blocks)
        wait.until(lambda: self._taken() > before)

    def write(self, *blocks: str) -> None:
        """Write the file in one step, as `kanserve token` does."""
        created = self._path.with_name("made")
        credentials.save_tokens(created, "\n".join([self._usual, *blocks]))
        created.rename(self._path)

    def _taken(self) -> int:
        return sum(line["event"] == "token_file_loaded" for line in self.server.lines())


@pytest.fixture(scope="module", params=SHARED)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    for name in ("starlette", "h2corn"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("streams")
    toy_model.write(folder / "models")
    toy_model.write_wide(folder / "models", WIDTH)
    usual = credentials.block("usual", token_file.make(), "admin")
    credentials.save_tokens(folder / "tokens", usual)
    limits = {"max_response_bytes": 2**26, "credential_poll_seconds": 0.1}
    port = {} if request.param == "asgi" else {"http_port": 0}
    followed = {"tokens": str(folder / "tokens"), "reflection": True, "transport": request.param}
    with serving(folder / "models", **followed, **limits, **port) as server:
        yield Guarded(server, folder / "tokens", usual)


@full("combination")
def test_every_stream_ends_when_its_token_is_revoked(guarded: Guarded) -> None:
    revoked, kept = token_file.make(), token_file.make()
    other = credentials.block("kept", kept, *ALL)
    guarded.save(credentials.block("revoked", revoked, *ALL), other)
    ending, going = opened(guarded.server, revoked), opened(guarded.server, kept)
    for held in (ending, going):
        assert all(item.begun.wait(wait.SECONDS) for item in held.values())
        assert not {name: item.outcome for name, item in held.items() if item.outcome}
    guarded.save(other)
    ends = {name: item.to_its_end() for name, item in ending.items()}
    assert not {name: end for name, end in ends.items() if not end.startswith("UNAUTHENTICATED")}
    assert not {name: item.outcome for name, item in going.items() if item.outcome}, "streams of others go on"
    assert {name: going[name].to_its_end() for name in ENDING} == dict.fromkeys(ENDING, "OK")
    guarded.save()
    for item in going.values():
        item.to_its_end()


def test_another_token_under_the_same_name_ends_a_stream_of_requests(guarded: Guarded) -> None:
    """The server ends the stream at the next request. For other errors of a request it sends an error and goes on."""
    token, requested = token_file.make(), threading.Semaphore(0)
    guarded.save(credentials.block("one", token, "infer"))

    def messages() -> Iterator[bytes]:
        while True:
            yield FIRST[f"{INFERENCE}/ModelStreamInfer"].SerializeToString()
            requested.acquire(timeout=60)

    make = guarded.server.channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")
    responses = make(messages(), timeout=120, metadata=credentials.bearer(token))
    next(responses)
    guarded.write(credentials.block("one", token_file.make(), "infer"))
    requested.release()
    with pytest.raises(grpc.RpcError) as caught:
        assert not any(item.error_message for item in paced(responses, requested))
    requested.release()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def paced(responses: Iterator[bytes], query: threading.Semaphore) -> Iterator[pb.ModelStreamInferResponse]:
    """The responses. The next request goes out after each of them."""
    for response in responses:
        query.release()
        yield pb.ModelStreamInferResponse.FromString(response)


class Standing:
    """A guard with a gate, and a stream that sends one message and then waits for ever."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self.gate = Authenticator(self.credentials(text), lambda _: ())
        self.cleaned = 0
        guard = Interceptor(
            Metrics(), Lifecycle(), AccessLog("none"), self.gate, max_inflight_requests=9, max_inflight_bytes=10**6
        )
        self.stream = guard.stream(HEALTH, "Watch", Kind.SERVER_STREAM, self.method)

    def credentials(self, text: str) -> token_file.Credentials:
        credentials.save_tokens(self._path, text)
        return token_file.load(self._path)

    async def method(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            self.cleaned += 1


async def nothing() -> AsyncIterator[bytes]:
    for _ in ():
        yield b""


async def begun(standing: Standing, token: str) -> tuple[AsyncIterator[bytes], asyncio.Future[bytes]]:
    """A stream after its first message, and its wait for the next one."""
    responses = standing.stream.respond(nothing(), RequestMetadata(credentials.bearer(token), None))
    assert await anext(responses) == b"first"
    waiting = asyncio.ensure_future(anext(responses))
    await asyncio.sleep(0)
    return responses, waiting


def test_an_open_stream_ends_when_its_token_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for its next message, and the token file stays as it is."""
    token, now = token_file.make(), [2e9]
    monkeypatch.setattr(authenticator, "GLANCE", 0)
    monkeypatch.setattr("time.time", lambda: now[0])

    async def cut() -> None:
        standing = Standing(tmp_path / "t", credentials.block("mine", token, "read", expires="2040-01-01T00:00:00Z"))
        _, waiting = await begun(standing, token)
        await wait.turns()
        assert not waiting.done(), "the token is valid"
        now[0] = 3e9
        with pytest.raises(CallFailed, match="the token of mine has expired") as caught:
            await asyncio.wait_for(waiting, wait.SECONDS)
        assert (caught.value.status, standing.cleaned) == (Code.UNAUTHENTICATED, 1)

    asyncio.run(cut())


def test_what_an_open_stream_is_cut_by(tmp_path: Path) -> None:
    token, other = token_file.make(), token_file.make()
    text, both = (credentials.block(name, other, "read") for name in ("other", "more"))
    mine = credentials.block("mine", token, "read")

    async def cut() -> None:
        standing = Standing(tmp_path / "t", mine + text)

        # A stream that waits ends at once, also if the file has other entries.
        _, waiting = await begun(standing, token)
        standing.gate.take(standing.credentials(mine + both))
        await wait.turns()
        assert not waiting.done(), "it has not changed"
        standing.gate.take(standing.credentials(text))
        with pytest.raises(CallFailed) as caught:
            await asyncio.wait_for(waiting, wait.SECONDS)
        assert (caught.value.status, standing.cleaned) == (Code.UNAUTHENTICATED, 1)
        assert not standing.gate.permits

        # If the caller leaves at the same moment, the call is cancelled.
        standing.gate.take(standing.credentials(mine))
        _, waiting = await begun(standing, token)
        waiting.cancel()
        standing.gate.take(standing.credentials(text))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not standing.gate.permits

        # A stream that is sending ends with the next message.
        standing.gate.take(standing.credentials(mine))
        responses = standing.stream.respond(nothing(), RequestMetadata(credentials.bearer(token), None))
        await anext(responses)
        standing.gate.take(standing.credentials(text))
        with pytest.raises(CallFailed, match="the credential of mine was revoked"):
            await anext(responses)
        assert not standing.gate.permits

    asyncio.run(cut())
