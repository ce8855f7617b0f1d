"""The two sides of one gRPC call over ASGI: `Request`, while it arrives, and `Response`, while it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable
from typing import Any, TypeVar

from kanserve.auth import authenticator
from kanserve.errors import RequestBufferLimited
from kanserve.grpc_api import interceptor
from kanserve.grpc_api.call_context import Code, RequestMetadata
from kanserve.grpc_api.failures import PUSHBACK, CallFailed
from kanserve.grpc_api.interceptor import ClientDisconnected
from kanserve.grpc_api.unfinished_requests import IncomingRequest
from kanserve.transport import framing
from kanserve.transport.framing import Headers, Messages
from kanserve.transport.open_calls import Event, Receive, Send

T = TypeVar("T")

GRPC = b"application/grpc"
TRAILERS = "http.response.trailers"
HEADERS: Headers = [(b"content-type", GRPC), (b"grpc-accept-encoding", framing.ACCEPTED)]
START: Event = {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
REQUEST, BODY = "http.request", "http.response.body"
TIMEOUT, ENCODING = b"grpc-timeout", b"grpc-encoding"
METADATA_HEADERS = tuple(name.encode() for name in interceptor.HEADERS)
CREDENTIAL_HEADER = authenticator.HEADER.encode()
NO_METADATA = RequestMetadata((), None)
OK: Event = {"type": TRAILERS, "headers": framing.status(Code.OK), "more_trailers": False}
PART = 2**18  # bytes that are given to the server at a time: it copies them, and nothing else runs meanwhile
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

    __slots__ = ("_began", "_open_request", "_packed", "_receive", "_scope", "arrival", "guarded", "path")

    def __init__(
        self,
        scope: Event,
        receive: Receive,
        part: Callable[[Hashable, str, RequestMetadata], IncomingRequest],
        began: float,
    ) -> None:
        """`began`: time of the arrival on the monotonic clock."""
        self._began = began
        self._scope, self.path, self._receive, self._open_request = scope, scope["path"], receive, part
        self._packed: bytes | None = None
        self.arrival, self.guarded = NO_METADATA, False

    def read(self, headers: dict[bytes, bytes]) -> None:
        """Read the headers in READ. Raises CallFailed for an invalid header."""
        seconds = self._seconds(headers[TIMEOUT]) if TIMEOUT in headers else None
        self._packed = framing.encoding(headers[ENCODING]) if ENCODING in headers else None
        pairs = [(name, headers[name]) for name in METADATA_HEADERS if name in headers]
        if CREDENTIAL_HEADER in headers:  # each of them, so that a second credential is seen
            pairs += [
                header for header in self._scope["headers"] if header[0] == CREDENTIAL_HEADER and header not in pairs
            ]
        self.arrival = RequestMetadata(
            tuple(framing.metadata(pairs)) if pairs else (), seconds, authenticator.presented(self._scope)
        )

    def _seconds(self, timeout: bytes) -> float:
        """Seconds until the deadline of a call with this header. Raises CallFailed for an invalid one."""
        return framing.timeout(timeout) - (time.monotonic() - self._began)

    async def message(self, limit: int) -> bytes:
        """The one message of a unary call. Raises CallFailed, or ClientDisconnected."""
        first = await self._receive()
        alone = framing.alone(first.get("body", b""), limit)
        if alone is None:
            return await self._only(limit, first)
        if not first.get("more_body", False):
            return alone
        last = await self._receive()
        if last["type"] != REQUEST or last.get("body") or last.get("more_body", False):
            return await self._only(limit, first, last)
        return alone

    async def _only(self, limit: int, *begun: Event) -> bytes:
        payloads: list[bytes] = []
        async with contextlib.aclosing(self.messages(limit, *begun)) as messages:
            async for data in messages:
                if payloads:
                    raise framing.failed(
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
                    event = before.pop(0) if before else await part.more(self._receive())
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
            raise framing.failed(
                Code.INTERNAL,
                "the call ends inside a message",
                code="grpc-message-incomplete",
                hint="send the call again",
            )

    async def _after(self, read: asyncio.Event | None) -> None:
        if read is not None:
            await read.wait()
        await self._receive()

    async def unless_disconnected(self, answering: Awaitable[T], read: asyncio.Event | None) -> T:
        """Return the result of `answering`, unless the client disconnects first. The transport watches for that once
        all is `read`. Raises ClientDisconnected."""
        work = asyncio.ensure_future(answering)
        gone = asyncio.ensure_future(self._after(read))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnected
            return work.result()
        finally:
            gone.cancel()
            work.cancel()
