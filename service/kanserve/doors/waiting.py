"""What an ASGI application waits for beside its work: a request that does not come, a caller that goes away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from kanserve.doors import framing
from kanserve.rpc.guard import CallFailed
from kanserve.rpc.status import Code

T = TypeVar("T")
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
GRAIN = 0.02  # seconds between two looks at what does not come
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


class Calls:
    """The calls of a door, of which each has to be there whole within so many `seconds`. One timer looks after all,
    since each is there at once, as a rule."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[asyncio.Task[Any], float] = {}  # until it is whole
        self._overdue: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[Any]:
        """The task that runs, as a call that comes in."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._since[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look, loop)
        return task

    def whole(self, task: asyncio.Task[Any]) -> None:
        """It is there, or may take as long as it likes."""
        self._since[task] = math.inf

    def end(self, task: asyncio.Task[Any]) -> None:
        """It is answered."""
        del self._since[task]
        self._overdue.discard(task)

    def given_up(self, task: asyncio.Task[Any]) -> CallFailed | None:
        """What to say where the task was cancelled because its call did not come."""
        if task not in self._overdue or task.uncancel() > 0:
            return None
        words = f"the request did not arrive whole within {self._seconds:g} s"
        return framing.failed(Code.DEADLINE_EXCEEDED, words)

    def cut(self) -> None:
        """Cancel every one."""
        for task in tuple(self._since):
            task.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        coming = [(task, since) for task, since in self._since.items() if since < math.inf]
        late = [task for task, since in coming if since + self._seconds <= now and task not in self._overdue]
        self._overdue.update(late)
        for task in late:
            task.cancel()
        next_at = min((since + self._seconds for task, since in coming if task not in self._overdue), default=math.inf)
        # Looking at all of them takes time: not at each one's own.
        at = max(next_at, now + GRAIN)
        self._timer = None if at == math.inf else loop.call_at(at, self._look, loop)
