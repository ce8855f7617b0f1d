"""What an ASGI application waits for beside its work: a request that does not come, a caller that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from kanserve.doors import framing
from kanserve.rpc.status import Code

T = TypeVar("T")
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]


class Watched:
    """An application that is cancelled when its caller goes away, once the request is whole."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        whole = asyncio.Event()

        async def noted() -> Event:
            event = await receive()
            if not event.get("more_body", False):
                whole.set()
            return event

        async def gone() -> None:
            await whole.wait()
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.ensure_future(self._application(scope, noted, send))
        watch = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            watch.cancel()


class Patience:
    """Waits for what has to be there within so many seconds. One timer looks after all calls, since each is there
    at once, as a rule."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, coming: Awaitable[T]) -> T:
        """What comes. Raises CallFailed where it takes too long."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._begun[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look, loop)
        try:
            return await coming
        except asyncio.CancelledError:
            if task in self._overdue and task.uncancel() == 0:
                words = f"the request did not arrive whole within {self._seconds:g} s"
                raise framing.failed(Code.DEADLINE_EXCEEDED, words) from None
            raise
        finally:
            del self._begun[task]
            self._overdue.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Those that began first come first."""
        self._timer = None
        now = loop.time()
        for task, begun in self._begun.items():
            if begun + self._seconds > now:
                self._timer = loop.call_at(begun + self._seconds, self._look, loop)
                return
            if task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
