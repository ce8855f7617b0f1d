"""Bytes of unfinished requests count as they arrive; above the limit the server rejects the newest request."""

import asyncio
import contextlib
import selectors
import socket
from collections import Counter

import grpc
import numpy as np
import pytest

from kanserve.errors import RequestBufferLimited
from kanserve.grpc_api.unfinished_requests import SMALL, Buffer, IncomingRequest, Unfinished
from tests.kanserve.conftest import TRANSPORTS
from tests.support.attacks import callers
from tests.support.http_client import served
from tests.support.server_process import INFERENCE, Server, request, resident
from tests.support.tiers import full
from tests.support.wait import turns, until

MIB = 2**20
SENT = 15 * MIB // 4  # bytes that arrive of each body
GROWN = 100  # MiB that the server may grow by: 6 of bodies, and 11 to 53 of buffers in 20 runs
ROWS = np.zeros((1, 3), np.float32)


def account(most: int) -> tuple[Unfinished, list[int]]:
    """An account with a limit of so many bytes, and the total that the guard counts."""
    held = [0]

    def hold(size: int) -> None:
        held[0] += size

    created = Unfinished(hold, 4 * most)
    created.most = most
    return created, held


async def waiting(part: IncomingRequest, size: int, ends: Counter[str], name: str) -> None:
    """A request with only so many bytes sent."""
    with part:
        try:
            part.holds(size)
            await part.more(asyncio.get_running_loop().create_future())
        except RequestBufferLimited:
            ends[name] += 1


async def test_over_the_limit_the_newest_request_of_the_heaviest_connection_goes() -> None:
    created, held = account(100)
    ends: Counter[str] = Counter()
    greedy = [
        asyncio.create_task(waiting(IncomingRequest(created, "a", "x"), 30, ends, f"greedy {number}"))
        for number in range(3)
    ]
    await asyncio.sleep(0)
    small = asyncio.create_task(waiting(IncomingRequest(created, "b", "x"), 20, ends, "small"))
    await turns()
    assert ends == {"greedy 2": 1}
    assert held[0] == created.total == 80
    for task in (*greedy, small):
        task.cancel()
    await asyncio.gather(*greedy, small, return_exceptions=True)
    assert held[0] == created.total == 0


async def test_a_caller_with_many_connections_loses_its_own() -> None:
    created, held = account(100)
    ends: Counter[str] = Counter()
    parts = [(IncomingRequest(created, number, "many"), 20, f"many {number}") for number in range(5)]
    tasks = [asyncio.create_task(waiting(part, size, ends, name)) for part, size, name in parts]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(waiting(IncomingRequest(created, "one", "other"), 50, ends, "other")))
    await turns()
    assert "other" not in ends
    assert ends.total() == 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert held[0] == 0


def test_one_caller_may_use_all_of_the_limit_and_not_more() -> None:
    created, held = account(100)
    with IncomingRequest(created, "a", "x") as part:
        part.holds(100)
        with pytest.raises(RequestBufferLimited):
            part.holds(101)
    assert held[0] == created.total == 0


@pytest.mark.parametrize("piece", [1, 100, SMALL, 3 * SMALL])
def test_pieces_become_the_bytes_that_came(piece: int) -> None:
    data = np.random.default_rng(piece).bytes(5 * SMALL)
    buffer = Buffer()
    for at in range(0, len(data), piece):
        buffer.add(data[at : at + piece])
    assert buffer.size == len(data)
    assert buffer.take() == data
    assert (buffer.size, buffer.take()) == (0, b"")


server = served(TRANSPORTS, max_inflight_bytes=16 * MIB, access_log="none")


@pytest.mark.parametrize(
    ("kind", "connections", "streams", "status"),
    [("grpc", 6, 10, "8"), pytest.param("http", 60, 1, "429", marks=full("load"))],
)
def test_unfinished_bodies_take_no_more_than_their_limit(
    server: Server, kind: str, connections: int, streams: int, status: str
) -> None:
    """60 bodies would bring 225 MiB: the server completes other requests meanwhile, and later accepts a large one."""
    server.infer(ROWS)
    most = max(resident(server) + GROWN, resident(server, peak=True))  # the peak may be of the previous test
    with callers(server, kind, connections, streams, SENT) as ends:
        until(lambda: ends[status] >= 40)
        assert server.infer(ROWS).shape == (1, 2)
        assert resident(server, peak=True) <= most
    until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())
    large = request(ROWS, id="x" * 4_000_000).SerializeToString()
    until(lambda: served(server, large))


def test_a_chunked_body_counts_what_is_read_ahead_of_the_server(server: Server) -> None:
    """At most three of ten unfinished bodies fit in 6 MiB; later the server accepts one."""
    host, port = server.http.removeprefix("http://").rsplit(":", 1)
    head = b"POST /v2/models/toy/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    with contextlib.ExitStack() as held:
        peers = [held.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(10)]
        for peer in peers:
            peer.sendall(head)
        seen = selectors.DefaultSelector()
        for peer in peers:
            seen.register(peer, selectors.EVENT_READ)
        until(lambda: len(seen.select(0)) >= 7)
        assert {key.fileobj.recv(12) for key, _ in seen.select(0) if isinstance(key.fileobj, socket.socket)} == {
            b"HTTP/1.1 429"
        }

    def whole() -> bytes:
        with socket.create_connection((host, int(port)), timeout=30) as peer:
            peer.sendall(head + b"1\r\n}\r\n0\r\n\r\n")
            return peer.recv(12)

    until(lambda: whole() == b"HTTP/1.1 400")  # the server notices a little later that the other clients left


def served(server: Server, data: bytes) -> bool:
    try:
        server.call(f"{INFERENCE}ModelInfer", data)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True
