"""Calls over ASGI: `Request`, while it arrives, `Response`, while it is sent, and the registry of open calls."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable, MutableMapping
from typing import Any, TypeVar

from kanserve.auth import authenticator
from kanserve.errors import RequestBufferLimited
from kanserve.grpc_api import interceptor
from kanserve.grpc_api.call_context import PUSHBACK, CallFailed, Code, RequestMetadata
from kanserve.grpc_api.interceptor import ClientDisconnected
from kanserve.grpc_api.unfinished_requests import IncomingRequest
from kanserve.transport import framing
from kanserve.transport.framing import Headers, Messages

T = TypeVar("T")
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]

GRPC = b"application/grpc"
TRAILERS = "http.response.trailers"
HEADERS: Headers = [(b"content-type", GRPC), (b"grpc-accept-encoding", framing.ACCEPTED)]
START: Event = {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
REQUEST, DISCONNECT, BODY = "http.request", "http.disconnect", "http.response.body"
TIMEOUT, ENCODING = b"grpc-timeout", b"grpc-encoding"
METADATA_HEADERS = tuple(name.encode() for name in interceptor.HEADERS)
CREDENTIAL_HEADER = authenticator.HEADER.encode()
NO_METADATA = RequestMetadata((), None)
OK: Event = {"type": TRAILERS, "headers": framing.status(Code.OK), "more_trailers": False}
PART = 2**18  # bytes that are given to the server at a time: it copies them, and nothing else runs meanwhile
GRAIN = 0.02  # seconds between two checks for calls that do not arrive
SMALL = 4096  # bytes of a response that are not worth counting while it is sent


def replay(events: list[Event], receive: Receive, waiting: Awaitable[Event] | None = None) -> Receive:
    """A `receive` that returns first the events that have arrived already, then the one that is `waiting`."""
    left = [] if waiting is None else [waiting]

    async def replay() -> Event:
        if events:
            return events.pop(0)
        return await (left.pop() if left else receive())

    return replay


class Resumed(Generator[Any, Any, Event]):
    """Awaitable of the rest of an iterator that has yielded `yielded` already."""

    def __init__(self, iterator: Generator[Any, Any, Event], yielded: object) -> None:
        self._iterator, self._yielded = iterator, [yielded]

    def __await__(self) -> Generator[Any, Any, Event]:
        return self

    def send(self, value: Any) -> Any:
        """See Generator."""
        return self._yielded.pop() if self._yielded else self._iterator.send(value)

    def throw(self, *error: Any) -> Any:
        """See Generator."""
        return self._iterator.throw(*error)


class Response:
    """Response side of a call. `hold` counts the bytes of responses that a client is slow to read."""

    __slots__ = ("_hold", "_send", "_started")

    def __init__(self, send: Send, hold: Callable[[int], None], *, started: bool = False) -> None:
        self._send, self._hold, self._started = send, hold, started

    async def only(self, data: bytes) -> None:
        """Send the one message of a unary call, and end the response."""
        self._started = True
        await self._send(START)
        if len(data) <= SMALL:
            await self._send({"type": BODY, "body": framing.frame(data), "more_body": False})
        else:
            await self._body(data, more=False)
        await self._send(OK)

    async def message(self, data: bytes) -> None:
        """Send one message of a stream."""
        if not self._started:
            self._started = True
            await self._send(START)
        await self._body(data, more=True)

    async def _body(self, data: bytes, *, more: bool) -> None:
        """Send a message. A server takes some bytes of each connection ahead; a larger message waits here until they
        are taken."""
        if len(data) <= SMALL:
            await self._send({"type": BODY, "body": framing.frame(data), "more_body": more})
            return
        self._hold(len(data))
        try:
            for part, last in framing.parts(data, PART):
                await self._send({"type": BODY, "body": part, "more_body": more or not last})
        finally:
            self._hold(-len(data))

    async def end(self) -> None:
        """End the response after all messages."""
        if not self._started:
            await self._send(START)
        await self._send({"type": BODY, "body": b"", "more_body": False})
        await self._send(OK)

    async def fail(self, failure: CallFailed) -> None:
        """End the response with a failure. It is sent in trailers even without a message, because servers treat a
        response that has only headers differently."""
        if not self._started:
            await self._send(START)
        last = framing.status(failure.status, failure.text, failure.trailers)
        await self._send({"type": BODY, "body": b"", "more_body": False})
        await self._send({"type": TRAILERS, "headers": last, "more_trailers": False})


class Request:
    """Request side of a call, while it arrives."""

    __slots__ = ("_began", "_open_request", "_packed", "_scope", "arrival", "guarded", "path", "receive")

    def __init__(
        self,
        scope: Event,
        receive: Receive,
        part: Callable[[Hashable, str, RequestMetadata], IncomingRequest],
        began: float,
    ) -> None:
        """`began`: time of the arrival on the monotonic clock."""
        self._began = began
        self._scope, self.path, self.receive, self._open_request = scope, scope["path"], receive, part
        self._packed: bytes | None = None
        self.arrival, self.guarded = NO_METADATA, False

    def read(self, headers: dict[bytes, bytes]) -> None:
        """Read the headers in READ. Raises CallFailed for an invalid header."""
        seconds = None
        if TIMEOUT in headers:
            seconds = framing.timeout(headers[TIMEOUT]) - (time.monotonic() - self._began)
        self._packed = framing.encoding(headers.get(ENCODING))
        pairs = [(name, headers[name]) for name in METADATA_HEADERS if name in headers]
        if CREDENTIAL_HEADER in headers:  # each of them, so that a second credential is seen
            pairs += [
                header for header in self._scope["headers"] if header[0] == CREDENTIAL_HEADER and header not in pairs
            ]
        self.arrival = RequestMetadata(
            tuple(framing.metadata(pairs)) if pairs else (), seconds, authenticator.presented(self._scope)
        )

    async def message(self, limit: int) -> bytes:
        """The one message of a unary call. Raises CallFailed, or ClientDisconnected."""
        first = await self.receive()
        alone = framing.alone(first.get("body", b""), limit)
        if alone is None:
            return await self._only(limit, first)
        if not first.get("more_body", False):
            return alone
        last = await self.receive()
        if last["type"] != REQUEST or last.get("body") or last.get("more_body", False):
            return await self._only(limit, first, last)
        return alone

    async def _only(self, limit: int, *begun: Event) -> bytes:
        payloads: list[bytes] = []
        async with contextlib.aclosing(self.messages(limit, *begun)) as messages:
            async for data in messages:
                if payloads:
                    raise CallFailed(
                        Code.INTERNAL,
                        "a unary call has more than one message, expected one",
                        code="grpc-message-count",
                        hint=framing.CLIENT_HINT,
                    )
                payloads.append(data)
        if not payloads:
            raise framing.no_message()
        return payloads[0]

    async def messages(self, limit: int, *begun: Event) -> AsyncGenerator[bytes]:
        """All messages, until the client is done; `begun` are events that arrived already. The transport counts the
        bytes of an incomplete message. Raises CallFailed, or ClientDisconnected."""
        messages = Messages(limit, self._packed)
        more, before = True, list(begun)
        client = self._scope.get("client")
        with self._open_request(client, client[0] if client else "", self.arrival) as part:
            try:
                while more:
                    event = before.pop(0) if before else await part.more(self.receive())
                    if event["type"] != REQUEST:
                        raise ClientDisconnected
                    more = event.get("more_body", False)
                    for message in messages.take(event.get("body", b"")):
                        part.holds(messages.size)
                        yield message if isinstance(message, bytes) else await message.unpacked()
                    part.holds(messages.size)
            except RequestBufferLimited as error:
                raise CallFailed(
                    Code.RESOURCE_EXHAUSTED, str(error), (PUSHBACK,), code=error.code, hint=error.hint
                ) from None
        if not messages.whole:
            raise CallFailed(
                Code.INTERNAL,
                "the call ends inside a message",
                code="grpc-message-incomplete",
                hint="send the call again",
            )


async def unless_disconnected(running: Awaitable[T], receive: Receive, read: asyncio.Event | None) -> T:
    """Return the result of `running`, unless the client disconnects first. The transport watches for that once all is
    `read`. Raises ClientDisconnected."""

    async def wait_disconnected() -> None:
        if read is not None:
            await read.wait()
        while (await receive())["type"] != DISCONNECT:
            pass

    work, gone = asyncio.ensure_future(running), asyncio.ensure_future(wait_disconnected())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnected
        return work.result()
    finally:
        gone.cancel()
        work.cancel()


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

    def cut(self) -> int:
        """Cancel every call: the server no longer waits. Returns their number."""
        for task in tuple(self._since):
            self._cut.add(task)
            task.cancel()
        return len(self._since)

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
            late = CallFailed(
                Code.DEADLINE_EXCEEDED,
                f"the request did not arrive completely within {self._seconds:g} s",
                code="request-too-slow",
                hint="send a smaller request, or raise request_read_timeout on the server",
            )
            self._give_up(task, late)
