"""Open calls of an ASGI transport: their registry, and a watch for clients that disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from kanserve.grpc_api.call_context import Code
from kanserve.grpc_api.failures import PUSHBACK, CallFailed
from kanserve.transport import framing

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]
GRAIN = 0.02  # seconds between two checks for calls that do not arrive


class Calls:
    """Registry of the calls of a transport, with a time limit for the arrival of each.

        seconds  time within which each call must arrive completely; one timer checks all calls
        most     number of calls that may arrive at the same time, since each takes memory

    If more than `most` calls arrive, the server rejects the call that has been arriving for the longest time. So one
    client cannot shut out others.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds, self._most = seconds, most
        self._since: dict[asyncio.Task[Any], float | None] = {}  # begin of the arrival, the oldest first; None: arrived
        self._coming = 0  # of these, not arrived
        self._given_up: dict[asyncio.Task[Any], CallFailed] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._cut: set[asyncio.Task[Any]] = set()

    def begin(self, now: float) -> asyncio.Task[Any]:
        """Register the running task as a call that arrives. `now`: on the monotonic clock."""
        task = asyncio.current_task()
        assert task is not None
        self._since[task] = now
        self._coming += 1
        if self._timer is None:
            loop = task.get_loop()
            self._timer = loop.call_later(self._seconds, self._reject_late, loop)
        if self._coming > self._most:
            failure = CallFailed(
                Code.RESOURCE_EXHAUSTED,
                f"more than {self._most} requests arrive at the same time, and this one is the slowest",
                (PUSHBACK,),
                code="too-many-incomplete-requests",
                hint="send the request again later",
            )
            self._give_up(next(task for task, since in self._since.items() if since is not None), failure)
        return task

    def whole(self, task: asyncio.Task[Any]) -> None:
        """The call has arrived completely, or has no time limit."""
        if self._since.get(task) is not None:
            self._since[task] = None
            self._coming -= 1

    def end(self, task: asyncio.Task[Any]) -> None:
        """Forget a call that has ended."""
        if self._since.pop(task, None) is not None:
            self._coming -= 1
        if self._given_up:
            self._given_up.pop(task, None)
        if self._cut:
            self._cut.discard(task)

    def given_up(self, task: asyncio.Task[Any]) -> CallFailed | None:
        """The failure to report if the task was cancelled because its call did not arrive."""
        return self._given_up.get(task) if task in self._given_up and task.uncancel() == 0 else None

    def cut(self) -> None:
        """Cancel every call: the server no longer waits."""
        for task in tuple(self._since):
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
        self.whole(task)
        self._given_up[task] = failure
        task.cancel()

    def _reject_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reject the calls that have not arrived in time, the oldest first."""
        self._timer, now = None, loop.time()
        for task, since in tuple(self._since.items()):
            if since is None:
                continue
            if since + self._seconds > now:
                # Each check takes time for all calls, so that calls do not get one check each.
                self._timer = loop.call_at(max(since + self._seconds, now + GRAIN), self._reject_late, loop)
                return
            late = framing.failed(
                Code.DEADLINE_EXCEEDED,
                f"the request did not arrive completely within {self._seconds:g} s",
                code="request-too-slow",
                hint="send a smaller request, or raise request_read_timeout on the server",
            )
            self._give_up(task, late)


class Watched:
    """ASGI application that is cancelled if its client disconnects after the complete request."""

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
