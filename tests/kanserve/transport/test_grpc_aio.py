"""Tests of `transport/grpc_aio.py`."""

import asyncio
from pathlib import Path

import pytest

from kanserve.config.settings import Settings
from kanserve.transport import grpc_aio
from kanserve.transport.grpc_aio import Readers, options


async def test_calls_that_leave_while_they_wait_take_no_turn_with_them() -> None:
    readers, release = Readers(1, 10), asyncio.Event()
    calls = [asyncio.create_task(readers.read(f"connection {n % 2}", release.wait)) for n in range(6)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()  # the reader and all waiting calls, before any of them runs again
    await asyncio.wait(calls)
    release.set()
    assert await asyncio.wait_for(readers.read("another", release.wait), 60)


async def test_a_connection_without_a_reader_waits_for_none_of_many_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two connections send many messages that never arrive, and one of them has more readers than the other."""
    monkeypatch.setattr(grpc_aio, "PATIENCE", 4.0)
    readers, never = Readers(5, 100), asyncio.Event()
    slow = [asyncio.create_task(readers.read(f"slow {n % 2}", never.wait)) for n in range(20)]
    await asyncio.sleep(0)
    for _ in range(3):
        assert await readers.read("quick", lambda: asyncio.sleep(0, "message")) == "message"
    ended = [call.exception() for call in slow if call.done()]
    assert len(ended) >= 3, "one for each call of the other connection"
    assert all("within 0.1 s while other calls waited" in str(error) for error in ended)
    for call in slow:
        call.cancel()
    await asyncio.wait(slow)


async def test_the_only_reader_of_a_connection_has_the_whole_time() -> None:
    readers, never = Readers(2, 100), asyncio.Event()
    slow = [asyncio.create_task(readers.read(f"slow {n}", never.wait)) for n in range(2)]
    await asyncio.sleep(0)
    await readers.read("quick", lambda: asyncio.sleep(0))
    (ended,) = (call for call in slow if call.done())
    assert "within 0.5 s while other calls waited" in str(ended.exception())
    for call in slow:
        call.cancel()
    await asyncio.wait(slow)


def test_limits_of_time_are_options_of_grpc(tmp_path: Path) -> None:
    limited = Settings(repository=tmp_path, max_connection_age_seconds=2.0, handshake_timeout=3.0)
    found = dict(options(limited, 10))
    assert (found["grpc.max_connection_age_ms"], found["grpc.server_handshake_timeout_ms"]) == (2000, 3000)
    unlimited = dict(options(Settings(repository=tmp_path, max_connection_age_seconds=0.0), 10))
    assert "grpc.max_connection_age_ms" not in unlimited, "the default of gRPC is none"
