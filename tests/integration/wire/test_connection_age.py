"""Maximum age of a connection: the server closes it in words, a client that goes on loses nothing."""

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve import AsyncClient, Client
from tests.integration.wire.test_connections import comes
from tests.support import attacks, credentials, toy_model
from tests.support.server_process import INFERENCE, request, serving
from tests.support.tiers import full
from tests.support.wait import until

DATA = request(np.zeros((1, 3), np.float32)).SerializeToString()
AGE: dict[str, Any] = {"max_connection_age_seconds": 0.3, "max_connection_age_grace_seconds": 60.0}
AGES = 2  # that a load lasts
ENOUGH = 21  # calls, or pages, of a load
LOST = 20  # connections in a row
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


async def _load(open_channel: Callable[[], grpc.aio.Channel], ended: threading.Event) -> tuple[int, list[str]]:
    """Calls that ended well until `ended` is set, and the errors of the others. Each of two channels has four loops."""
    done, errors = 0, list[str]()

    async def loop(channel: grpc.aio.Channel) -> None:
        nonlocal done
        infer: Any = channel.unary_unary(f"{INFERENCE}ModelInfer")
        while not errors and (not ended.is_set() or done < ENOUGH):
            try:
                await infer(DATA, timeout=60)
                done += 1
            except grpc.aio.AioRpcError as error:
                errors.append(f"{error.code().name}: {error.details()}")

    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(open_channel()) for _ in range(2)]
        await asyncio.gather(*(loop(channel) for channel in channels for _ in range(4)))
    return done, errors


def _ages(port: int, ended: threading.Event, context: ssl.SSLContext | None = None) -> bool:
    """Whether AGES idle connections, one after the other, get a GOAWAY; then `ended` is set."""
    try:
        for _ in range(AGES):
            with contextlib.ExitStack() as stack:
                peer = stack.enter_context(attacks.connect(port) if context is None else _secure(port, context))
                peer.sendall(attacks.frame(attacks.SETTINGS, 1, 0, b""))
                if not comes(peer, attacks.GOAWAY):
                    return False
        return True
    finally:
        ended.set()


def _secure(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    context.set_alpn_protocols(["h2"])
    peer = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=60), server_hostname="127.0.0.1")
    peer.sendall(attacks.PREFACE + attacks.frame(attacks.SETTINGS, 0, 0, b""))
    return peer


def test_a_client_that_goes_on_loses_nothing(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, **AGE) as server:

        async def both() -> tuple[tuple[int, list[str]], bool]:
            ended = threading.Event()
            load = _load(lambda: grpc.aio.insecure_channel(server.address, OPTIONS), ended)
            return await asyncio.gather(load, asyncio.to_thread(_ages, server.port, ended))

        (done, errors), closed = asyncio.run(both())
        assert not errors
        assert done >= ENOUGH
        assert closed


def test_the_last_response_on_a_busy_http_1_connection_says_so(tmp_path: Path) -> None:
    pytest.importorskip("h2corn")
    toy_model.write(tmp_path)
    with serving(tmp_path, transport="asgi", **AGE) as server:
        connection = http.client.HTTPConnection(server.http, timeout=60)

        def last() -> bool:
            try:
                connection.request("GET", "/v2/health/live")
                reply = connection.getresponse()
            except (OSError, http.client.HTTPException):
                connection.close()  # this test was slow, and the connection idle
                raise
            reply.read()
            return reply.getheader("connection") == "close"

        with contextlib.closing(connection):
            until(last, errors=(OSError, http.client.HTTPException))
            assert connection.sock is None
            connection.request("GET", "/v2/health/live")
            assert connection.getresponse().status == 200


@full("combination")
def test_every_worker_closes_them_with_tls_and_pages_too(tmp_path: Path) -> None:
    pytest.importorskip("h2corn")
    toy_model.write(tmp_path / "models")
    files = credentials.write_certificates(tmp_path)
    pair: dict[str, Any] = {"tls_cert": str(files / "server.pem"), "tls_key": str(files / "server.key")}
    trusted = (files / "ca.pem").read_bytes()
    with serving(tmp_path / "models", transport="asgi", workers=2, threads=2, **AGE, **pair) as server:

        async def all_three() -> tuple[tuple[int, list[str]], bool, int]:
            ended, secure = threading.Event(), grpc.ssl_channel_credentials(trusted)
            contexts = [ssl.create_default_context(cadata=trusted.decode()) for _ in range(2)]
            return await asyncio.gather(
                _load(lambda: grpc.aio.secure_channel(server.address, secure, OPTIONS), ended),
                asyncio.to_thread(_ages, server.port, ended, contexts[0]),
                asyncio.to_thread(_pages, server.port, ended, contexts[1]),
            )

        (done, errors), closed, pages = asyncio.run(all_three())
        assert not errors
        assert min(done, pages) >= ENOUGH
        assert closed


def _pages(port: int, ended: threading.Event, context: ssl.SSLContext) -> int:
    """The number of pages that were read, each on a separate connection. h2corn closes a connection that is in its TLS
    handshake when the age is over, which is often here; then one of the next connections has to be good."""
    read = lost = 0
    while not ended.is_set() or read < ENOUGH:
        try:
            assert _status(port, context) == 200
        except (OSError, http.client.HTTPException):
            lost += 1
            assert lost < LOST
            continue
        read, lost = read + 1, 0
    return read


def _status(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status


def test_a_stream_that_outlives_the_grace_gets_a_status(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    ages: dict[str, Any] = {"max_connection_age_seconds": 0.3, "max_connection_age_grace_seconds": 0.2}
    with serving(tmp_path, transport=transport, **ages) as server:
        watch: Any = server.channel.unary_stream("/grpc.health.v1.Health/Watch")
        with pytest.raises(grpc.RpcError) as caught:
            list(watch(b"", timeout=60))  # without a status, it ends with DEADLINE_EXCEEDED
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        if transport == "asgi":
            assert "did not end within 0.2 s" in error.details()
            assert dict(error.trailing_metadata())["kan-error-code"] == "connection-closed-by-age"
            assert server.logged("calls_aborted")


def test_a_watch_goes_on_with_the_next_connection(tmp_path: Path) -> None:
    pytest.importorskip("h2corn")
    toy_model.write(tmp_path)
    ages: dict[str, Any] = {"max_connection_age_seconds": 0.3, "max_connection_age_grace_seconds": 0.1}
    with serving(tmp_path, transport="asgi", **ages) as server:

        async def watch() -> int:
            async with AsyncClient(server.address) as client:
                return len([update async for update in client.watch_statistics("toy", interval=3.0, updates=3)])

        def watch_in_thread() -> int:
            with Client(server.address) as client:
                return len(list(client.watch_statistics("toy", interval=3.0, updates=3)))

        async def both() -> list[int]:
            return await asyncio.gather(watch(), asyncio.to_thread(watch_in_thread))

        assert asyncio.run(both()) == [3, 3]
        assert server.logged("calls_aborted")
