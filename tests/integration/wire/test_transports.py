"""Transport behavior with real clients and raw bytes: deadlines, cancellation, compression, bursts, odd peers.

The other files test methods and their errors, with a `server` on each transport.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.support import toy_model
from tests.support.http_client import FOREIGN, INFER, PEER_ROWS, Code, Peer, body, code, framed, way
from tests.support.http_client import hasty as hasty
from tests.support.http_client import hasty_peer as hasty_peer
from tests.support.http_client import lone as lone
from tests.support.http_client import peer as peer
from tests.support.reload_tools import handled, shown
from tests.support.server_process import Server, serving
from tests.support.tiers import full
from tests.support.wait import until

BURST = 2000
DEADLINE = 0.5  # seconds
WATCH = "/grpc.health.v1.Health/Watch"


ASGI = pytest.mark.parametrize("lone", ["asgi", FOREIGN], indirect=True)


@ASGI  # gRPC core ends such a call by itself
def test_a_deadline_that_has_passed_is_not_worked_for(peer: Peer, lone: Server) -> None:
    lone.infer(PEER_ROWS)
    line = 'nv_inference_request_success{model="toy",version="1"}'
    until(lambda: shown(lone, line) > 0 and "kanserve_inflight_requests 0.0" in lone.metrics())  # all calls are counted
    before = shown(lone, line)
    stream = peer.open(("grpc-timeout", "1n"))
    peer.send(stream, framed(body()))
    assert peer.headers(stream)["grpc-status"] == str(Code.DEADLINE_EXCEEDED.value[0])
    assert shown(lone, line) == before


def test_a_call_that_outlives_its_deadline_ends_with_it(lone: Server) -> None:
    """Watch responds once and then waits for changes."""
    with pytest.raises(grpc.RpcError) as caught:
        list(lone.channel.unary_stream(WATCH)(b"", timeout=DEADLINE))
    assert caught.value.code() is Code.DEADLINE_EXCEEDED


def test_a_caller_that_goes_away_cancels_its_call(lone: Server) -> None:
    before = handled(lone, "CANCELLED", "Watch")
    for _ in range(5):
        call = lone.channel.unary_stream(WATCH)(b"")
        next(call)
        call.cancel()
    until(lambda: handled(lone, "CANCELLED", "Watch") >= before + 5)


# hypercorn resets a stream that was answered before its request was whole, and gRPC core may report the reset.
@pytest.mark.parametrize("lone", ["asgi", "grpcio"], indirect=True)
def test_a_request_beyond_the_limit_is_refused(lone: Server) -> None:
    assert code(lone, bytes(5 * 2**20)) is Code.RESOURCE_EXHAUSTED
    assert code(lone, body()) is Code.OK


# gRPC core ends the connection.
@ASGI
def test_an_unknown_encoding_is_refused_with_those_that_are_known(peer: Peer) -> None:
    stream = peer.open(("grpc-encoding", "snappy"))
    peer.send(stream, framed(b"x", 1))
    result = peer.headers(stream)
    assert result["grpc-status"] == str(Code.UNIMPLEMENTED.value[0])
    assert "gzip" in result["grpc-accept-encoding"]


# grpc.aio waits until the connection is old.
@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        (False, Code.DEADLINE_EXCEEDED, "the request did not arrive completely within 1 s"),
        (True, Code.INTERNAL, "the call ends inside a message"),
    ],
)
def test_a_message_that_is_not_whole_is_given_up(
    hasty_peer: Peer, end: bool, status: grpc.StatusCode, words: str
) -> None:
    stream = hasty_peer.open()
    hasty_peer.send(stream, framed(body())[:-1], end=end)
    result = hasty_peer.headers(stream)
    assert (result["grpc-status"], result["grpc-message"]) == (str(status.value[0]), words)


# grpc.aio takes any content type for its own.
@ASGI
def test_another_content_type_is_turned_away(peer: Peer) -> None:
    stream = peer.open(kind="text/plain")
    peer.send(stream, framed(body()))
    result = peer.headers(stream)
    assert result[":status"] == "415"


def test_status_messages_survive_the_wire(lone: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        lone.call(INFER, body(model="ünknöwn % model"))
    assert "ünknöwn % model" in caught.value.details()


def test_binary_metadata_is_taken(lone: Server) -> None:
    assert code(lone, body(), metadata=(("some-bin", b"\x00\xff"), ("x-request-id", "mine"))) is Code.OK
    assert lone.logged("request_completed", request_id="mine")


@full("load")
def test_a_burst_on_a_fresh_channel_loses_nothing(lone: Server) -> None:
    """Completed, or rejected with a status that is counted; RST_STREAM is neither."""

    async def burst() -> dict[str, int]:
        outcomes: dict[str, int] = {}
        async with grpc.aio.insecure_channel(lone.address) as channel:
            infer = channel.unary_unary(INFER)

            async def one() -> None:
                try:
                    await infer(body(), timeout=60)
                    name = "OK"
                except grpc.aio.AioRpcError as error:
                    name = f"{error.code().name}: {error.details()}"
                outcomes[name] = outcomes.get(name, 0) + 1

            await asyncio.gather(*(one() for _ in range(BURST)))
        return outcomes

    outcomes = asyncio.run(burst())
    assert sum(outcomes.values()) == BURST
    lost = {name: count for name, count in outcomes.items() if not name.startswith(("OK", "RESOURCE_EXHAUSTED"))}
    assert not lost
    assert not any("RST_STREAM" in name for name in outcomes)


@full("load")
def test_many_calls_without_a_body_lock_nobody_out(lone: Server) -> None:
    peers = [Peer(lone.port) for _ in range(9)]
    try:
        for item in peers:
            for _ in range(100):
                item.open()
        assert code(lone, b"\n\x08liveness", "/grpc.health.v1.Health/Check", timeout=30) is Code.OK
    finally:
        for item in peers:
            item.socket.close()


# hypercorn loses the connection where a call is answered before its message is there.
@pytest.mark.parametrize("hasty", ["asgi"], indirect=True)
def test_what_ends_in_the_transport_is_counted_and_told(hasty_peer: Peer, hasty: Server) -> None:
    def counts() -> list[float]:
        return [handled(hasty, status, "ModelInfer") for status in ("UNIMPLEMENTED", "DEADLINE_EXCEEDED", "INTERNAL")]

    before = counts()
    packed, cut, slow = hasty_peer.open(("grpc-encoding", "snappy")), hasty_peer.open(), hasty_peer.open()
    hasty_peer.send(packed, framed(b"x", 1))
    hasty_peer.send(cut, framed(body())[:-1])
    hasty_peer.headers(slow)
    until(lambda: counts() == [count + 1 for count in before])
    until(lambda: any("did not arrive completely" in str(line.get("reason")) for line in hasty.lines()))


@pytest.mark.parametrize("name", ["asgi", FOREIGN])
def test_where_too_many_are_on_their_way_the_slowest_is_given_up(tmp_path: Path, name: str) -> None:
    toy_model.write(tmp_path)
    transport, chosen = way(name)
    with serving(tmp_path, transport, max_inflight_requests=8, request_read_timeout=60.0, **chosen) as server:
        crowd = Peer(server.port)
        first, *_ = [crowd.open() for _ in range(20)]
        result = crowd.headers(first)
        assert result["grpc-status"] == str(Code.RESOURCE_EXHAUSTED.value[0])
        assert result["grpc-message"].startswith("more than 8 requests arrive at the same time")
        assert server.infer(PEER_ROWS).shape == (2, 2)
        crowd.socket.close()
