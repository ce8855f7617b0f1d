"""Calls over ASGI: `Request`, while it arrives, `Response`, while it is sent, and the registry of open calls.

Message frames, timeouts, metadata and status are those of the gRPC project's PROTOCOL-HTTP2.md ("gRPC over HTTP2") and
compression.md.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable, Iterable, Iterator, MutableMapping
from typing import Any, TypeVar

from kanserve.auth import authenticator
from kanserve.errors import RequestBufferLimited
from kanserve.grpc_api import interceptor
from kanserve.grpc_api.call_context import PUSHBACK, CallFailed, Code, RequestMetadata, percent_encoded
from kanserve.grpc_api.interceptor import ClientDisconnected
from kanserve.grpc_api.unfinished_requests import Buffer, IncomingRequest
from kanserve.system import compression

T = TypeVar("T")
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

PREFIX = struct.Struct(">BI")  # compressed or not, length
DURATION = re.compile(rb"(\d{1,8})([HMSmun])")
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
ENCODINGS = {name.encode(): name for name in compression.WINDOWS}
ACCEPTED = b"identity, deflate, gzip"
BINARY = "-bin"

TOO_LARGE_HINT = "send fewer rows in one request, or raise max_request_bytes on the server"
CLIENT_HINT = "send the call with a gRPC library"

GRPC = b"application/grpc"
TRAILERS = "http.response.trailers"
HEADERS: Headers = [(b"content-type", GRPC), (b"grpc-accept-encoding", ACCEPTED)]
START: Event = {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
REQUEST, DISCONNECT, BODY = "http.request", "http.disconnect", "http.response.body"
TIMEOUT, ENCODING = b"grpc-timeout", b"grpc-encoding"
METADATA_HEADERS = tuple(name.encode() for name in interceptor.HEADERS)
CREDENTIAL_HEADER = authenticator.HEADER.encode()
NO_METADATA = RequestMetadata((), None)
OK: Event = {"type": TRAILERS, "headers": [(b"grpc-status", b"0")], "more_trailers": False}
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
    """Response side of a call.

    hold      counts the bytes of responses that a client is slow to read
    one_head  whether the server sends a response without a body as one head that ends the stream
    """

    __slots__ = ("_hold", "_one_head", "_send", "_started")

    def __init__(
        self, send: Send, hold: Callable[[int], None], *, one_head: bool = False, started: bool = False
    ) -> None:
        self._send, self._hold, self._one_head, self._started = send, hold, one_head, started

    async def only(self, data: bytes) -> None:
        """Send the one message of a unary call, and end the response."""
        self._started = True
        await self._send(START)
        if len(data) <= SMALL:
            await self._send({"type": BODY, "body": frame(data), "more_body": False})
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
            await self._send({"type": BODY, "body": frame(data), "more_body": more})
            return
        self._hold(len(data))
        try:
            for part, last in frame_parts(data, PART):
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
        """End the response with a failure. If nothing is sent before, the head has the status (gRPC's "Trailers-Only"):
        a client with a retry policy repeats a call only until it receives a head without status (gRFC A6). Most servers
        cannot send that, and get trailers."""
        last = status_headers(failure.status, failure.text, failure.trailers)
        if self._one_head and not self._started:
            await self._send({"type": START["type"], "status": 200, "headers": HEADERS + last, "trailers": False})
            await self._send({"type": BODY, "body": b"", "more_body": False})
            return
        if not self._started:
            await self._send(START)
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
            seconds = timeout_seconds(headers[TIMEOUT]) - (time.monotonic() - self._began)
        self._packed = known_encoding(headers.get(ENCODING))
        pairs = [(name, headers[name]) for name in METADATA_HEADERS if name in headers]
        if CREDENTIAL_HEADER in headers:  # each of them, so that a second credential is seen
            pairs += [
                header for header in self._scope["headers"] if header[0] == CREDENTIAL_HEADER and header not in pairs
            ]
        self.arrival = RequestMetadata(
            tuple(decoded_metadata(pairs)) if pairs else (), seconds, authenticator.presented(self._scope)
        )

    async def message(self, limit: int) -> bytes:
        """The one message of a unary call. Raises CallFailed, or ClientDisconnected."""
        first = await self.receive()
        alone = single_message(first.get("body", b""), limit)
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
                        hint=CLIENT_HINT,
                    )
                payloads.append(data)
        if not payloads:
            raise no_message()
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
                    for message, packed in messages.take(event.get("body", b"")):
                        part.holds(messages.size)
                        yield await messages.unpacked(message) if packed else message
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


def frame(message: bytes) -> bytes:
    """The frame of an uncompressed message, as bytes on the wire."""
    return PREFIX.pack(0, len(message)) + message


def frame_parts(message: bytes, size: int) -> Iterator[tuple[bytes, bool]]:
    """The frame of a message in parts of `size` bytes, and whether each part is the last one."""
    if len(message) <= size:
        yield frame(message), True
        return
    yield PREFIX.pack(0, len(message)) + message[:size], False
    for at in range(size, len(message), size):
        yield message[at : at + size], at + size >= len(message)


def single_message(data: bytes, limit: int) -> bytes | None:
    """The message if `data` is exactly its frame; None otherwise, and for a compressed or too large message."""
    if len(data) < PREFIX.size or data[0]:
        return None
    length = int.from_bytes(data[1 : PREFIX.size], "big")
    return bytes(data[PREFIX.size :]) if len(data) == PREFIX.size + length and length <= limit else None


class Messages:
    """Decoder from the bytes of one call to its messages.

    limit     bytes of one message, unpacked
    encoding  the call's grpc-encoding; None without compression
    """

    __slots__ = ("_buffer", "_encoding", "_limit", "_plain", "_wanted", "size")

    def __init__(self, limit: int, encoding: bytes | None) -> None:
        self._limit, self._encoding = limit, encoding
        self._buffer, self._wanted = Buffer(), PREFIX.size
        self._plain = False  # whether the buffer begins with an uncompressed message of a known length
        self.size = 0  # bytes of messages that are not taken yet

    def take(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The messages that are complete now, and whether each is compressed. Raises CallFailed for one that is too
        large, as soon as its length is known."""
        self._buffer.add(data)
        self.size = self._buffer.size
        if self.size < self._wanted:
            return
        if self._plain and self.size == self._wanted:  # the usual case, with one copy instead of two
            self.size, self._wanted, self._plain = 0, PREFIX.size, False
            yield self._buffer.take(PREFIX.size), False
            return
        content, at = self._buffer.take(), 0
        while (end := at + self._end(content, at)) <= len(content):
            message = content[at + PREFIX.size : end]
            packed, at = content[at], end
            self.size = len(content) - at
            yield message, bool(packed)
        self._wanted, self._plain = end - at, end - at > PREFIX.size and not content[at]
        self._buffer.add(content[at:])

    def _end(self, content: bytes, at: int) -> int:
        """Bytes of the frame that begins at `at`, or of its prefix if that is not complete. Raises CallFailed."""
        if len(content) - at < PREFIX.size:
            return PREFIX.size
        packed, length = PREFIX.unpack_from(content, at)
        if length > self._limit:
            raise CallFailed(
                Code.RESOURCE_EXHAUSTED,
                f"received message larger than max ({length} vs. {self._limit})",
                code="message-too-large",
                hint=TOO_LARGE_HINT,
            )
        if packed > 1:
            raise CallFailed(
                Code.INTERNAL,
                f"a message begins with the byte {packed}, expected 0 or 1",
                code="grpc-frame-invalid",
                hint=CLIENT_HINT,
            )
        return PREFIX.size + int(length)

    @property
    def whole(self) -> bool:
        """Whether no message is unfinished."""
        return not self.size

    async def unpacked(self, message: bytes) -> bytes:
        """The content of a compressed message. Unpacking runs on a thread if it takes long. Raises CallFailed."""
        if self._encoding not in ENCODINGS:
            raise CallFailed(
                Code.INTERNAL,
                "a message is compressed, but the call has no header grpc-encoding",
                code="grpc-encoding-missing",
                hint="set the header grpc-encoding, or send uncompressed messages",
            )
        encoding = ENCODINGS[self._encoding]
        try:
            return await compression.aside(message, encoding, self._limit)
        except compression.Corrupt:
            raise CallFailed(
                Code.INTERNAL,
                f"a message is not a valid {encoding} stream",
                code="grpc-message-corrupt",
                hint="send the message again, or send it uncompressed",
            ) from None
        except compression.TooLong:
            raise CallFailed(
                Code.RESOURCE_EXHAUSTED,
                f"received message larger than max ({self._limit}) when unpacked",
                code="message-too-large",
                hint=TOO_LARGE_HINT,
            ) from None


def no_message() -> CallFailed:
    """The failure of a unary call without a message."""
    return CallFailed(
        Code.INTERNAL,
        "a unary call has no message, expected one",
        code="grpc-message-count",
        hint=CLIENT_HINT,
    )


def timeout_seconds(value: bytes) -> float:
    """The seconds of a grpc-timeout. Raises CallFailed for an invalid one."""
    match = DURATION.fullmatch(value)
    if match is None:
        raise CallFailed(
            Code.INTERNAL,
            "invalid grpc-timeout: expected up to eight digits and one of H, M, S, m, u, n",
            code="grpc-timeout-invalid",
            hint="let a gRPC library set the deadline of the call",
        )
    return int(match[1]) * UNITS[match[2]]


def known_encoding(value: bytes | None) -> bytes | None:
    """The compression of a call; None without compression. Raises CallFailed for an unknown one."""
    if value is None or value == b"identity":
        return None
    if value not in ENCODINGS:
        named = value[:40].decode("ascii", "replace")
        raise CallFailed(
            Code.UNIMPLEMENTED,
            f"grpc-encoding {named} is not supported, expected one of {ACCEPTED.decode()}",
            code="encoding-not-supported",
            hint="compress messages with gzip, or send them uncompressed",
        )
    return value


def decoded_metadata(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str | bytes]]:
    """Names and values. Values of names that end in -bin are bytes; invalid base64 is left out."""
    for name, value in headers:
        key = name.decode("ascii", "replace")
        if not key.endswith(BINARY):
            yield key, value.decode("ascii", "replace")
            continue
        for part in value.split(b","):
            try:
                yield key, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
            except binascii.Error:
                continue


def status_headers(code: Code, text: str = "", trailers: Iterable[tuple[str, str]] = ()) -> Headers:
    """The headers that end a call."""
    headers: Headers = [(b"grpc-status", str(int(code)).encode())]
    if text:
        headers.append((b"grpc-message", percent_encoded(text).encode()))
    headers += [(name.encode(), value.encode()) for name, value in trailers]
    return headers
