"""Transport behavior with real clients and raw bytes: deadlines, cancellation, compression, bursts, odd peers.

The other files test methods and their errors, with a `server` on each transport.
"""

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.support import toy_model
from tests.support.bad_requests import refused
from tests.support.http_client import FOREIGN, INFER, PEER_ROWS, Code, Peer, body, code, framed, way
from tests.support.http_client import lone as lone
from tests.support.http_client import peer as peer
from tests.support.reload_tools import shown
from tests.support.server_process import Server, serving
from tests.support.tiers import full
from tests.support.wait import until

BURST = 2000
DEADLINE = 0.5  # seconds
WATCH = "/grpc.health.v1.Health/Watch"


# gRPC core ends such a call by itself.
@pytest.mark.parametrize("lone", ["asgi", FOREIGN], indirect=True)
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
    with refused(Code.DEADLINE_EXCEEDED):
        list(lone.channel.unary_stream(WATCH)(b"", timeout=DEADLINE))


# hypercorn resets a stream that was served before its request was whole, and gRPC core may report the reset.
@pytest.mark.parametrize("lone", ["asgi", "grpcio"], indirect=True)
def test_a_request_beyond_the_limit_is_refused(lone: Server) -> None:
    assert code(lone, bytes(5 * 2**20)) is Code.RESOURCE_EXHAUSTED
    assert code(lone, body()) is Code.OK


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
