"""ASGI application for gRPC, which runs on any HTTP/2 server that sends trailers.

GrpcApp(services, limits, pages) is the application: `await app(scope, receive, send)`.

It serves requests with gRPC's content types, and passes all others to `pages`, an HTTP application.

One call is one HTTP request. `call_io` turns its body into messages, the guarded method returns bytes, and the
transport sends them as a body and trailers. A client that disconnects cancels its call: some servers cancel the
application's task. For other servers (`watch`) the transport waits for the next event while the method runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar, cast

from kanserve.grpc_api.call_context import (
    ID_HEADER,
    CallFailed,
    Code,
    RequestMetadata,
    begin_call,
    error_body,
    with_trailers,
)
from kanserve.grpc_api.interceptor import ClientDisconnected, Guarded, Kind, Stream, Unary, alone
from kanserve.grpc_api.services import HOT, Services
from kanserve.observability import logs
from kanserve.transport.call_io import (
    BODY,
    CREDENTIAL_HEADER,
    ENCODING,
    GRPC,
    METADATA_HEADERS,
    NO_METADATA,
    OK,
    PREFIX,
    SMALL,
    START,
    TIMEOUT,
    Application,
    Calls,
    Event,
    Headers,
    Receive,
    Request,
    Response,
    Resumed,
    Send,
    decoded_metadata,
    replay,
    unless_disconnected,
)

T = TypeVar("T")

NOSNIFF = (b"x-content-type-options", b"nosniff")
CLOSE = (b"connection", b"close")
UPGRADE = b"http2-settings"  # header of a request that has upgraded its connection to h2c
ID = ID_HEADER.encode()
READ = frozenset((TIMEOUT, ENCODING, *METADATA_HEADERS))
SPECIAL = READ - {TIMEOUT} | {UPGRADE}
HTTP2 = "2"
SOCKET = "websocket."  # prefix of the event types that reject a WebSocket
ARRIVING = ("arriving", "ending", "begun")  # stages of a call without a response
LAST = 1.0  # seconds in which a client reads that
CANCELLED = 1.0  # seconds in which a server cancels the task of a client that has disconnected
LATE = "Deadline Exceeded"  # gRPC's own words


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a transport on incoming calls.

    message_bytes  size of one message
    arrival        seconds within which a unary request must arrive completely
    coming         number of calls that may arrive at the same time
    """

    message_bytes: int
    arrival: float
    coming: int


class GrpcApp:
    """ASGI application of the guarded methods, for gRPC's content types."""

    def __init__(
        self,
        services: Services,
        limits: Limits,
        pages: Application,
        *,
        watch: bool = True,
        one_head: bool = False,
        certified: bool = False,
    ) -> None:
        """`one_head`: see Response. `certified`: the certificate of a connection identifies the caller."""
        self._services, self._limits, self._watch, self._certified = services, limits, watch, certified
        self._one_head = one_head
        self._pages = pages
        self._calls = Calls(limits.arrival, limits.coming)
        self._grace: float | None = None
        self.closes = False  # whether the connections close soon, which each response of HTTP/1 says
        self.application: Application = self.__call__  # the same, with native code for hot calls if there is some
        self.task_factory: Any = None  # of the event loop, without which native code handles no call
        hot, account, native = services.hot, services.hot.account, services.hot.native
        self._hot = None if native is None or watch else services.methods[HOT]
        if self._hot is not None:
            facts = (
                limits.message_bytes,
                SMALL,
                hot.queues,
                account.callers,
                services.guard.gate is not None,
                certified,
                hot.sampled,
            )
            self.application = native.Application(HOT, self.__call__, self._resume, START, OK, *facts)
            self.task_factory = native.start

    async def _resume(
        self,
        stage: str,
        scope: Event,
        receive: Receive,
        send: Send,
        arrived: int,
        events: tuple[Any, ...] | None,
        iterator: Generator[Any, Any, Event],
        yielded: object,
    ) -> None:
        """Go on with a call of the native module, from one of the stages in kernel/src/calls.cpp. `arrived`:
        nanoseconds of the monotonic clock. `events`: those of the request, or the one that is being sent. `iterator`
        has yielded `yielded` and is to be awaited."""
        if stage in ARRIVING:
            waiting = None if stage == "begun" else Resumed(iterator, yielded)
            await self._respond(scope, replay(list(events or ()), receive, waiting), send, arrived / 1e9)
        elif stage == "disconnected":
            await asyncio.sleep(CANCELLED)
        else:
            await self._finish(stage, send, (events or (b"",))[0], Resumed(iterator, yielded))

    async def _finish(self, stage: str, send: Send, last: Any, waiting: Awaitable[Event]) -> None:
        """Send the rest of a response, whose client reads slowly."""
        began = time.monotonic()
        task = self._calls.begin(began)
        self._calls.whole(task)
        try:
            if stage == "large":
                await Response(send, self._services.guard.hold).only(last[PREFIX.size :])
                return
            await waiting
            for event in {"started": (last, OK), "sent": (OK,)}.get(stage, ()):
                await send(event)
        except asyncio.CancelledError:
            if not self._calls.was_cut(task):
                raise
            async with asyncio.timeout(LAST):
                await Response(send, self._services.guard.hold, started=True).fail(_cut_off(self._grace))
        except OSError:  # in ASGI, a `send` to a client that has disconnected
            await asyncio.sleep(CANCELLED)
        finally:
            self._calls.end(task)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Respond to one request. Raises only cancellation."""
        await self._respond(scope, receive, send, time.monotonic())

    async def _respond(self, scope: Event, receive: Receive, send: Send, began: float) -> None:
        """Respond to a request that arrived at `began` on the monotonic clock."""
        task = self._calls.begin(began)
        try:
            headers = dict(scope["headers"])
            if scope["type"] != "http" or UPGRADE in headers:
                # For every caller: the transport does not read the request, and checks no credential.
                self._calls.whole(task)
                upgrade = CallFailed(
                    Code.UNIMPLEMENTED,
                    "this server does not upgrade a connection to websocket or h2c",
                    code="upgrade-not-supported",
                    hint="send gRPC or HTTP requests directly",
                )
                failure = self._services.unknown.refused(upgrade, _named(headers))
                await _refuse(send, HTTPStatus.NOT_IMPLEMENTED, failure, "" if scope["type"] == "http" else SOCKET)
            elif scope["method"] != "POST" or not _is_grpc(headers.get(b"content-type", b"")):
                self._calls.whole(task)
                await self._page(task, scope, receive, send)
            elif scope["http_version"] != HTTP2:
                method = self._services.methods.get(scope["path"], self._services.unknown)
                old = CallFailed(
                    Code.UNIMPLEMENTED,
                    "gRPC needs HTTP/2, but this request uses HTTP/1",
                    code="grpc-needs-http2",
                    hint="use a client with HTTP/2, or the REST API",
                )
                await _refuse(send, HTTPStatus.UPGRADE_REQUIRED, method.refused(old, _named(headers)))
            else:
                await self._call(
                    task,
                    Request(scope, receive, self._services.guard.open_request, began),
                    headers,
                    Response(send, self._services.guard.hold, one_head=self._one_head),
                )
        except (ClientDisconnected, OSError):  # OSError: in ASGI, a `send` to a client that has disconnected
            # A server that cancels the task does so now. It would log a call that returns before that as a failure.
            await asyncio.sleep(0 if self._watch else CANCELLED)
        finally:
            self._calls.end(task)

    def cut(self, grace: float | None = None) -> int:
        """End every call with UNAVAILABLE. Returns their number. `grace`: seconds that they had to end after their
        connection was closed for new calls; None: the server shuts down."""
        self._grace = grace
        return self._calls.cut()

    async def _page(self, task: asyncio.Task[Any], scope: Event, receive: Receive, send: Send) -> None:
        started = False

        async def noted(event: Event) -> None:
            nonlocal started
            if self.closes and not started and scope["http_version"].startswith("1"):
                event = {**event, "headers": [*event["headers"], CLOSE]}
            started = True
            await send(event)

        whole = asyncio.Event()

        async def arriving() -> Event:
            event = await receive()
            if not event.get("more_body", False):
                whole.set()
            return event

        try:
            if self._watch:
                await unless_disconnected(self._pages(scope, arriving, noted), receive, whole)
            else:
                await self._pages(scope, receive, noted)
        except asyncio.CancelledError:
            if not self._calls.was_cut(task):
                raise
            async with asyncio.timeout(LAST):
                if started:
                    await send({"type": BODY, "body": b"", "more_body": False})
                else:
                    await _refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, _cut_off(self._grace))

    async def _call(self, task: asyncio.Task[Any], call: Request, headers: dict[bytes, bytes], wire: Response) -> None:
        method = self._services.methods.get(call.path, self._services.unknown)
        try:
            if self._certified or not READ.isdisjoint(headers):
                try:
                    call.read(headers)
                except CallFailed as failure:
                    raise method.refused(failure, _named(headers)) from None
            if call.arrival.remaining is None:
                await self._run(method, task, call, wire)
            else:
                async with asyncio.timeout(call.arrival.remaining):
                    await self._run(method, task, call, wire)
            if method is self._hot:
                self._services.hot.account.learn(headers.get(CREDENTIAL_HEADER), call.arrival)
        except CallFailed as failure:
            failure.forget()
            await wire.fail(failure)
        except TimeoutError:
            await wire.fail(_late(method, call))
        except asyncio.CancelledError:
            if not self._calls.was_cut(task):
                raise
            async with asyncio.timeout(LAST):
                await wire.fail(_cut_off(self._grace))

    async def _run(self, method: Guarded, task: asyncio.Task[Any], call: Request, wire: Response) -> None:
        if isinstance(method, Unary):
            data = b"" if method is self._services.unknown else await self._message(method, task, call)
            call.guarded = True
            work = method.respond(data, call.arrival)
            await wire.only(await (unless_disconnected(work, call.receive, None) if self._watch else work))
        elif method.kind is Kind.SERVER_STREAM:
            data = await self._message(method, task, call)
            call.guarded = True
            flow = _stream(method, alone(data), call.arrival, wire)
            await (unless_disconnected(flow, call.receive, None) if self._watch else flow)
        else:
            self._calls.whole(task)
            call.guarded, read = True, asyncio.Event()
            flow = _stream(method, _until(call.messages(self._limits.message_bytes), read), call.arrival, wire)
            await (unless_disconnected(flow, call.receive, read) if self._watch else flow)

    async def _message(self, method: Guarded, task: asyncio.Task[Any], call: Request) -> bytes:
        """The only message of a call; empty if the method rejects the caller. Raises CallFailed, also for a message
        that does not arrive."""
        if method.rejects_caller is not None and method.rejects_caller(call.arrival):
            self._calls.whole(task)
            return b""
        try:
            data = await call.message(self._limits.message_bytes)
        except CallFailed as failure:
            raise method.refused(failure, call.arrival) from None
        except asyncio.CancelledError:
            if (late := self._calls.given_up(task)) is not None:
                raise method.refused(late, call.arrival) from None
            raise
        self._calls.whole(task)
        return data


def _named(headers: dict[bytes, bytes]) -> RequestMetadata:
    """The metadata of a call that ends here: its id only."""
    return RequestMetadata(tuple(decoded_metadata([(ID, headers[ID])])) if ID in headers else (), None)


def _late(method: Guarded, call: Request) -> CallFailed:
    """The failure of a call whose deadline passed. The guard has logged it, unless the call never got that far."""
    failure = CallFailed(
        Code.DEADLINE_EXCEEDED, LATE, code="deadline-exceeded", hint="set a longer timeout in the client"
    )
    if not call.guarded:
        return method.refused(failure, call.arrival)
    return with_trailers(failure, logs.CALL.get() or begin_call(call.arrival))


def _cut_off(grace: float | None) -> CallFailed:
    """The status of a call that the server ends; see `GrpcApp.cut`. The guard has logged it already."""
    if grace is None:
        failure = CallFailed(
            Code.UNAVAILABLE,
            "the server is shutting down and has ended this call",
            code="server-shutting-down",
            hint="send the request to another server, or again later",
        )
    else:
        failure = CallFailed(
            Code.UNAVAILABLE,
            f"the server has closed this connection, and the call did not end within {grace:g} s",
            code="connection-closed-by-age",
            hint="send the request again, which opens a new connection; a longer "
            "max_connection_age_grace_seconds gives calls more time",
        )
    return with_trailers(failure, logs.CALL.get() or begin_call(NO_METADATA))


async def _stream(method: Stream, messages: AsyncIterator[bytes], arrival: RequestMetadata, wire: Response) -> None:
    async with contextlib.aclosing(cast(AsyncGenerator[bytes], method.respond(messages, arrival))) as responses:
        async for message in responses:
            await wire.message(message)
    await wire.end()


async def _until(messages: AsyncIterator[bytes], read: asyncio.Event) -> AsyncIterator[bytes]:
    async for data in messages:
        yield data
    read.set()


def _is_grpc(kind: bytes) -> bool:
    return kind == GRPC or kind.startswith(GRPC + b"+") or kind.partition(b";")[0].strip() == GRPC


async def _refuse(send: Send, status: HTTPStatus, failure: CallFailed, before: str = "") -> None:
    trailers = dict(failure.trailers)
    body = json.dumps(error_body(failure)).encode()
    headers: Headers = [(b"content-type", b"application/json"), NOSNIFF, (b"content-length", str(len(body)).encode())]
    headers.append((ID, trailers[ID_HEADER].encode()))
    await send({"type": f"{before}http.response.start", "status": status, "headers": headers})
    await send({"type": f"{before}http.response.body", "body": body})
