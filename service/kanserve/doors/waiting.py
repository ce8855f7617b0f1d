"""What an ASGI application waits for beside its work: a request that does not come, a caller that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from kanserve.doors import framing
from kanserve.rpc.guard import PUSHBACK, CallFailed
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
    """The calls of a door, of which each has to be there whole within so many `seconds`; one timer looks after all,
    since each is there at once, as a rule. `most`: that may be on their way at once: each takes memory. Where there
    are more, the one that is on its way for longest is given up, so that nobody can shut others out."""

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds, self._most = seconds, most
        self._all: set[asyncio.Task[Any]] = set()
        self._coming: dict[asyncio.Task[Any], float] = {}  # since when, the first first
        self._given_up: dict[asyncio.Task[Any], CallFailed] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._cut: set[asyncio.Task[Any]] = set()

    def begin(self) -> asyncio.Task[Any]:
        """The task that runs, as a call that comes in."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._all.add(task)
        self._coming[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look, loop)
        if len(self._coming) > self._most:
            words = f"more than {self._most} requests are on their way, and this one is the slowest; try again later"
            self._give_up(next(iter(self._coming)), CallFailed(Code.RESOURCE_EXHAUSTED, words, (PUSHBACK,)))
        return task

    def whole(self, task: asyncio.Task[Any]) -> None:
        """It is there, or may take as long as it likes."""
        self._coming.pop(task, None)

    def end(self, task: asyncio.Task[Any]) -> None:
        """It is answered."""
        self._all.discard(task)
        self._coming.pop(task, None)
        self._given_up.pop(task, None)
        self._cut.discard(task)

    def given_up(self, task: asyncio.Task[Any]) -> CallFailed | None:
        """What to say where the task was cancelled because its call did not come."""
        return self._given_up.get(task) if task in self._given_up and task.uncancel() == 0 else None

    def cut(self) -> None:
        """Cancel every call: the server no longer waits."""
        for task in tuple(self._all):
            self._cut.add(task)
            task.cancel()

    def was_cut(self, task: asyncio.Task[Any]) -> bool:
        """Whether `cut` has cancelled the task. The first query clears the cancellation, so the task can send its
        status."""
        if task not in self._cut:
            return False
        self._cut.discard(task)
        return task.uncancel() == 0

    def _give_up(self, task: asyncio.Task[Any], failure: CallFailed) -> None:
        del self._coming[task]
        self._given_up[task] = failure
        task.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Those that began first come first."""
        self._timer, now = None, loop.time()
        words = f"the request did not arrive whole within {self._seconds:g} s"
        for task, since in tuple(self._coming.items()):
            if since + self._seconds > now:
                # Each look takes time for all: not one at every single one's own moment.
                self._timer = loop.call_at(max(since + self._seconds, now + GRAIN), self._look, loop)
                return
            self._give_up(task, framing.failed(Code.DEADLINE_EXCEEDED, words))
