"""Work on a thread that nobody has to wait for: a load that never ends must not keep the process from ending."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_running: set[Future[Any]] = set()


def unfinished() -> bool:
    """Whether something is still at work. The interpreter would wait for it: `os._exit` does not."""
    return bool(_running)


async def aside(work: Callable[[], T]) -> T:
    """What `work` gives or raises. Cancelled, it is left alone and ends, if ever, unheard; the end of an event loop
    does not wait for it, as it does for `asyncio.to_thread`."""
    own = ThreadPoolExecutor(1, thread_name_prefix="aside")
    found = own.submit(work)
    own.shutdown(wait=False)
    _running.add(found)
    found.add_done_callback(_running.discard)
    return await asyncio.wrap_future(found)
