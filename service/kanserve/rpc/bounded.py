"""How long one call may take, whatever its caller allows: the setting `max_deadline`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kanserve.access.roles import Role
from kanserve.access.table import NEEDS
from kanserve.errors import TookTooLong
from kanserve.rpc.call import Call

Q = TypeVar("Q")
A = TypeVar("A")
Method = Callable[[Q, Call], Awaitable[A]]


def within(method: Method[Q, A], seconds: float | None, name: str) -> Method[Q, A]:
    """The method with a deadline of so many seconds where the caller's is later, or absent. What administers is not
    bounded: loading a model takes as long as it takes. `name`: as in the table of access."""
    if seconds is None or NEEDS.get(name) is Role.ADMIN:
        return method

    async def bounded(data: Q, call: Call) -> A:
        end = time.monotonic() + seconds
        if call.deadline is not None and call.deadline <= end:
            return await method(data, call)
        call.deadline = end
        try:
            async with asyncio.timeout(seconds):
                return await method(data, call)
        except TimeoutError:
            raise TookTooLong(seconds) from None

    return bounded
