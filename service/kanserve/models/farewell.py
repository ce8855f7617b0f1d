"""A version that serves no more: what is in flight ends on it, then its memory goes back.

A request has the model that it found until it is answered, so nothing is closed under it; when the last one lets go,
the runtime's part is dropped on a thread, since that takes its time.
"""

from __future__ import annotations

import asyncio
import time

from kanserve import memory
from kanserve.models.model import Leaving
from kanserve.observe import logs

SOONEST, LATEST = 0.01, 0.5  # seconds between two looks at who still uses it
LONG = 60.0  # seconds after which it is said that somebody does

log = logs.get_logger("models")


async def see_off(left: Leaving) -> float:
    """Until nobody uses it and its memory is free. Returns the seconds that it took."""
    begun, pause, told = time.monotonic(), SOONEST, False
    while any(user() is not None for user in left.users):
        await asyncio.sleep(pause)
        pause = min(2 * pause, LATEST)
        if not told and time.monotonic() - begun > LONG:
            told = True
            log.warning("a version that left is still in use", model=left.name, version=left.version)
            memory.thaw()
    await asyncio.to_thread(_free, left.parts)
    return time.monotonic() - begun


def _free(parts: list[object]) -> None:
    parts.clear()
    memory.trim()
