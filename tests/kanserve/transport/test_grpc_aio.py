"""Tests of `transport/grpc_aio.py`."""

from __future__ import annotations

import asyncio

from kanserve.transport.grpc_aio import Readers


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
