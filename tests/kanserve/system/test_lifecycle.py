"""Tests of `system/lifecycle.py`."""

import asyncio

from kanserve.system.lifecycle import Lifecycle


async def test_the_last_of_two_holds_releases_the_calls() -> None:
    state = Lifecycle()
    async with state.hold(0):
        async with state.hold(0):
            waiting = asyncio.create_task(state.wait_released())
        await asyncio.sleep(0)
        assert state.held
        assert not waiting.done()
    await asyncio.wait_for(waiting, 60)
    assert not state.held


async def test_a_hold_that_ends_during_a_shutdown_leaves_the_release_to_it() -> None:
    state = Lifecycle()
    async with state.hold(0):
        state.close()
        state.held = True
    assert state.held
    state.release()
    await asyncio.wait_for(state.wait_released(), 60)
