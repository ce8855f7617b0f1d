"""When to look at a repository: every so often, and at once when asked.

Looking at times and sizes is all there is. File events (inotify) would save a second or two, and are silent where they
are needed most: on NFS, and on volumes that another host or a storage initialiser fills.
"""

from __future__ import annotations

import asyncio
import contextlib

SHARE = 10  # of the time at most one such part is spent on looking


def pause(poll: float, took: float) -> float | None:
    """Seconds until the next look, after one that took so many; None where `poll` is 0: only when asked."""
    return max(poll, SHARE * took) if poll > 0 else None


async def due(asked: asyncio.Event, seconds: float | None) -> bool:
    """Wait so long, or until `asked`, which is taken back; whether it was asked for."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asked.wait(), seconds)
    found = asked.is_set()
    asked.clear()
    return found
