"""Tests of `transport/grpc_aio.py`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kanserve.config.settings import Settings
from kanserve.transport.grpc_aio import Readers, options


def test_calls_that_leave_while_they_wait_take_no_turn_with_them() -> None:
    async def run() -> None:
        readers, release = Readers(1, 10), asyncio.Event()
        calls = [asyncio.create_task(readers.read(f"connection {n % 2}", release.wait)) for n in range(6)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()  # the reader and all waiting calls, before any of them runs again
        await asyncio.wait(calls)
        release.set()
        assert await asyncio.wait_for(readers.read("another", release.wait), 5)

    asyncio.run(run())


def test_no_limit_of_the_age_is_the_default_of_grpc(tmp_path: Path) -> None:
    name = "grpc.max_connection_age_ms"
    limited, unlimited = (
        dict(options(Settings(repository=tmp_path, max_connection_age_seconds=age), 10)) for age in (2.0, 0.0)
    )
    assert limited[name] == 2000
    assert name not in unlimited
