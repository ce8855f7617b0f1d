"""Makes answers that take seconds and are the same for all callers: once at a time, and keeps them for a while.

Callers with the same request wait for the same work. The work ends if the last of them leaves. So a client that sends
a request and disconnects does not keep the server busy.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from kanserve.errors import QueueFull, TookTooLong
from kanserve.web.exchange import Answer


@dataclass(frozen=True, slots=True)
class Bound:
    """`seconds`: time limit of one answer; `together`: answers that are made at once; `waiting`: answers that are made
    or wait for their turn; `kept`: bytes of kept answers."""

    seconds: float = 60.0
    together: int = 2
    waiting: int = 16
    kept: int = 16 * 2**20


class Abandoned(Exception):
    """Raised in a thread by work that no caller waits for any more."""


# Makes an answer. `Once` sets the event if no caller waits any more, because a thread cannot be cancelled.
Make = Callable[[threading.Event], Awaitable[Answer]]


class _Work:
    """One answer in the making. `of`: the object that it is about."""

    def __init__(self, of: object) -> None:
        self.of = weakref.ref(of)
        self.gone = threading.Event()
        self.task: asyncio.Task[Answer]
        self._callers = 0

    async def answer(self) -> Answer:
        """The answer, for one more caller. If the last caller is cancelled, the work is cancelled too."""
        self._callers += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._callers -= 1
            if not self._callers:
                self.gone.set()
                self.task.cancel()

    @property
    def left(self) -> bool:
        """Whether the work was abandoned, and will give no answer."""
        return self.gone.is_set() and not self.task.done()


class Once:
    """Use from one event loop."""

    def __init__(self, bound: Bound) -> None:
        self._bound, self._turn = bound, asyncio.Semaphore(bound.together)
        self._making: dict[Hashable, _Work] = {}
        self._kept: OrderedDict[Hashable, tuple[weakref.ref[object], Answer]] = OrderedDict()
        self._size = 0

    async def get(self, key: Hashable, of: object, make: Make) -> Answer:
        """The answer for this key about `of`. If another object was there before, the answer is made again. Raises what
        `make` does, TookTooLong, and QueueFull if too many others are made."""
        kept = self._kept.get(key)
        if kept is not None and kept[0]() is of:
            self._kept.move_to_end(key)
            return kept[1]
        work = self._making.get(key)
        if work is None or work.left or work.of() is not of:
            if len(self._making) >= self._bound.waiting:
                raise QueueFull
            work = self._begin(key, of, make)
        return await work.answer()

    def _begin(self, key: Hashable, of: object, make: Make) -> _Work:
        work = _Work(of)
        work.task = asyncio.ensure_future(self._made(make, work.gone))
        self._making[key] = work

        def done(task: asyncio.Task[Answer]) -> None:
            if self._making.get(key) is work:
                del self._making[key]
            if not task.cancelled() and task.exception() is None and (found := work.of()) is not None:
                self._keep(key, found, task.result())

        work.task.add_done_callback(done)
        return work

    async def _made(self, make: Make, gone: threading.Event) -> Answer:
        async with self._turn:
            try:
                async with asyncio.timeout(self._bound.seconds):
                    return await make(gone)
            except TimeoutError:
                raise TookTooLong(self._bound.seconds) from None
            finally:
                gone.set()

    def _keep(self, key: Hashable, of: object, answer: Answer) -> None:
        """Keep the answer, and drop the least recently used ones if they do not fit `kept` bytes."""
        before = self._kept.pop(key, None)
        self._size += len(answer) - (0 if before is None else len(before[1]))
        self._kept[key] = weakref.ref(of), answer
        while self._size > self._bound.kept:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._size -= len(dropped)
