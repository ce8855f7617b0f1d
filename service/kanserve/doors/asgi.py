"""gRPC as an ASGI application: any server of HTTP/2 that sends trailers can carry it.

    GrpcApp(services, limits, pages)      await app(scope, receive, send)

Requests of gRPC's content types are its own, all others go to `pages`, an application of HTTP.

One call is one HTTP request. Its body becomes messages (`framing`), the guarded method answers bytes,
and these go back as a body and trailers. A
caller that goes away cancels its call: servers that cancel the application's task then do so by
themselves; for others (`watch`) the next event is waited for beside the method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kanserve.doors import framing
from kanserve.doors.framing import Headers, Messages
from kanserve.rpc.guard import Arrival, CallFailed, Kind, Stream, Unary
from kanserve.rpc.services import Services
from kanserve.rpc.status import Code

T = TypeVar("T")
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]

GRPC = b"application/grpc"
TRAILERS = "http.response.trailers"
HEADERS: Headers = [(b"content-type", GRPC), (b"grpc-accept-encoding", framing.ACCEPTED)]
START: Event = {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
OK: Event = {"type": TRAILERS, "headers": framing.status(Code.OK), "more_trailers": False}
HTTP2 = "2"
OLD = b'{"error":"gRPC needs HTTP/2, and this request came by HTTP/1"}'
LATE = "Deadline Exceeded"  # gRPC's own words


class Gone(Exception):
    """The caller went away."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`message_bytes`: of one message; `arrival`: seconds for a unary request to be there whole."""

    message_bytes: int
    arrival: float


class GrpcApp:
    """The guarded methods as an ASGI application, for gRPC's content types."""

    def __init__(self, services: Services, limits: Limits, pages: Application, *, watch: bool = True) -> None:
        self._services, self._limits, self._watch = services, limits, watch
        self._pages = _Watched(pages) if watch else pages
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request. Raises nothing but cancellation."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        wire = _Wire(send)
        try:
            if not _is_grpc(scope):
                await self._pages(scope, receive, send)
                return
            if scope["http_version"] != HTTP2:
                await _refuse(send)
                return
            call = _Request.of(scope, receive, self._limits)
            async with asyncio.timeout(call.arrival.remaining):
                await self._answer(call, wire)
        except CallFailed as failure:
            failure.forget()
            await wire.fail(failure)
        except TimeoutError:
            await wire.fail(CallFailed(Code.DEADLINE_EXCEEDED, LATE, ()))
        except Gone:
            pass
        finally:
            self._tasks.discard(task)

    def cut(self) -> None:
        """Cancel every call in flight."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _answer(self, call: _Request, wire: _Wire) -> None:
        method = self._services.methods.get(call.path, self._services.unknown)
        if isinstance(method, Unary):
            data = await call.message() if method is not self._services.unknown else b""
            await wire.only(await self._beside(call, method.answer(data, call.arrival)))
        elif method.kind is Kind.SERVER_STREAM:
            await self._beside(call, _stream(method, _alone(await call.message()), call.arrival, wire))
        else:
            await _stream(method, call.messages(), call.arrival, wire)

    async def _beside(self, call: _Request, work: Awaitable[T]) -> T:
        return await (call.beside(work) if self._watch else work)


async def _stream(method: Stream, messages: AsyncIterator[bytes], arrival: Arrival, wire: _Wire) -> None:
    async for answer in method.answers(messages, arrival):
        await wire.message(answer)
    await wire.end()


async def _alone(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _is_grpc(scope: Event) -> bool:
    if scope["method"] != "POST":
        return False
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return bytes(kind).partition(b";")[0].strip() == GRPC or bytes(kind).startswith(GRPC + b"+")


async def _refuse(send: Send) -> None:
    headers: Headers = [(b"content-type", b"application/json"), (b"content-length", str(len(OLD)).encode())]
    await send({"type": "http.response.start", "status": 426, "headers": headers})
    await send({"type": "http.response.body", "body": OLD})


class _Watched:
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


class _Wire:
    """What goes back to the caller."""

    __slots__ = ("_send", "_started")

    def __init__(self, send: Send) -> None:
        self._send, self._started = send, False

    async def only(self, data: bytes) -> None:
        """The one answer of a unary call, and the end."""
        self._started = True
        await self._send(START)
        await self._send({"type": "http.response.body", "body": framing.frame(data)})
        await self._send(OK)

    async def message(self, data: bytes) -> None:
        """One of a stream's."""
        if not self._started:
            self._started = True
            await self._send(START)
        await self._send({"type": "http.response.body", "body": framing.frame(data), "more_body": True})

    async def end(self) -> None:
        """After all messages."""
        if not self._started:
            await self._send(START)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        await self._send(OK)

    async def fail(self, failure: CallFailed) -> None:
        """Instead of `end`. In trailers even where there was no answer: what servers make of headers alone differs."""
        if not self._started:
            await self._send(START)
        last = framing.status(failure.code, failure.text, failure.trailers)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        await self._send({"type": TRAILERS, "headers": last, "more_trailers": False})


class _Request:
    """One call as it comes in."""

    __slots__ = ("_limits", "_messages", "_receive", "arrival", "path")

    def __init__(self, path: str, receive: Receive, limits: Limits, messages: Messages, arrival: Arrival) -> None:
        self.path, self.arrival = path, arrival
        self._receive, self._limits, self._messages = receive, limits, messages

    @classmethod
    def of(cls, scope: Event, receive: Receive, limits: Limits) -> _Request:
        """Raises CallFailed for headers that mean nothing."""
        headers: Headers = scope["headers"]
        seconds = packed = None
        for name, value in headers:
            if name == b"grpc-timeout":
                seconds = framing.timeout(bytes(value))
            elif name == b"grpc-encoding":
                packed = framing.encoding(bytes(value))
        arrival = Arrival(framing.metadata(headers), seconds)
        return cls(scope["path"], receive, limits, Messages(limits.message_bytes, packed), arrival)

    async def message(self) -> bytes:
        """The one message of a unary call. Raises CallFailed, or Gone."""
        found: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.arrival):
                async for data in self.messages():
                    found.append(data)
                    if len(found) > 1:
                        break
        except TimeoutError:
            seconds = f"{self._limits.arrival:g} s"
            raise framing.failed(Code.DEADLINE_EXCEEDED, f"the request did not arrive whole within {seconds}") from None
        if len(found) != 1:
            raise framing.failed(Code.INTERNAL, f"a unary call has one message, this one {len(found) or 'none'}")
        return found[0]

    async def messages(self) -> AsyncIterator[bytes]:
        """All messages, until the caller is done. Raises CallFailed, or Gone."""
        more = True
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Gone
            more = event.get("more_body", False)
            for message in self._messages.take(event.get("body", b"")):
                yield message
        if not self._messages.whole:
            raise framing.failed(Code.INTERNAL, "the call ends inside of a message")

    async def beside(self, answering: Awaitable[T]) -> T:
        """What comes of it, unless the caller goes away before. Raises Gone."""
        work = asyncio.ensure_future(answering)
        gone = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Gone
            return work.result()
        finally:
            gone.cancel()
            work.cancel()
