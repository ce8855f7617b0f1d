"""Decides which calls of gRPC core read their message now.

While a call reads a message, gRPC core keeps the bytes that arrive, up to the whole message, and reports no size. If no
call reads the message yet, core keeps one window. So only a limited number of calls read at once. The others wait for
their turn, connection by connection. If a call waits while others read for longer than `PATIENCE`, the transport
rejects one of these. It takes the slowest reader of the connection with most of them, so no client can shut others out.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kanserve.rpc.guard import PUSHBACK, CallFailed
from kanserve.rpc.status import Code

PATIENCE = 0.5  # seconds in which a message arrives whole if others wait
SLOW = "the message did not arrive whole within {:g} s, and other calls wait to be read; try again later"
MANY = "{} calls wait until their message is read, which is the server's limit; try again later"
T = TypeVar("T")


class Readers:
    """At most `most` calls read at once, and `waiting` more wait. The methods need a running event loop."""

    def __init__(self, most: int, waiting: int) -> None:
        self._free, self._waiting = most, waiting
        self._reading: dict[asyncio.Task[object], _Reader] = {}  # the longest reader first
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # by connection; the next one's first
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, connection: str, message: Callable[[], Awaitable[T]]) -> T:
        """The only message of a call, which `message` reads. Raises CallFailed."""
        if self._free:
            self._free -= 1
        else:
            await self._turn(connection)
        task = asyncio.current_task()
        assert task is not None
        reader = self._reading[task] = _Reader(connection, task.get_loop().time())
        try:
            return await message()
        except asyncio.CancelledError:
            if reader.refused and task.uncancel() == 0:
                raise _refused(SLOW.format(PATIENCE)) from None
            raise
        finally:
            del self._reading[task], task
            self._next()

    async def _turn(self, connection: str) -> None:
        loop = asyncio.get_running_loop()
        if self._count >= self._waiting:
            self._shed(connection)
        turn = loop.create_future()
        self._queues.setdefault(connection, deque()).append(turn)
        self._count += 1
        if self._timer is None:
            self._timer = loop.call_later(PATIENCE, self._look, loop)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._next()
            else:
                self._forget(connection, turn)
            raise

    def _next(self) -> None:
        """A reader is done: give the turn to the next call, connection by connection. A call that was cancelled while
        it waits stays in its queue until its task runs again, and gets no turn."""
        while self._queues:
            connection, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            del self._queues[connection]
            if queue:
                self._queues[connection] = queue  # again, behind all others
            self._count -= 1
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, connection: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(connection)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._count -= 1
            if not queue:
                del self._queues[connection]

    def _shed(self, connection: str) -> None:
        """Reject the newest waiting call of the connection with most of them. Raises CallFailed if that is the
        connection of the new call."""
        heaviest, queue = max(self._queues.items(), key=lambda item: len(item[1]))
        failure = _refused(MANY.format(self._waiting))
        if heaviest == connection:
            raise failure
        turn = queue[-1]
        self._forget(heaviest, turn)
        if not turn.done():
            turn.set_exception(failure)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reject calls that read for too long, at most one for each waiting call."""
        self._timer, now = None, loop.time()
        if not self._count:
            return
        late = [(task, one) for task, one in self._reading.items() if now >= one.since + PATIENCE and not one.refused]
        many = Counter(reader.connection for _, reader in late)
        for _ in range(min(self._count, len(late))):
            ((heaviest, _),) = many.most_common(1)
            many[heaviest] -= 1
            _give_up(late, heaviest)
        self._timer = loop.call_later(PATIENCE / 10, self._look, loop)


class _Reader:
    """A call that reads its message since `since`."""

    __slots__ = ("connection", "refused", "since")

    def __init__(self, connection: str, since: float) -> None:
        self.connection, self.since, self.refused = connection, since, False


def _give_up(late: list[tuple[asyncio.Task[object], _Reader]], connection: str) -> None:
    """Reject the slowest reader of that connection."""
    task, reader = next((task, one) for task, one in late if one.connection == connection and not one.refused)
    reader.refused = True
    task.cancel()


def _refused(text: str) -> CallFailed:
    return CallFailed(Code.RESOURCE_EXHAUSTED, text, (PUSHBACK,))
