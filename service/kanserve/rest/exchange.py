"""Exchange of one HTTP request and its response as a guarded call: bounded body, compression, and errors as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import TypeVar, cast

import orjson
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kanserve.auth import authenticator
from kanserve.errors import BadRequest, LimitReached, RequestBufferLimited
from kanserve.grpc_api.call_context import ID_HEADER, PUSHBACK, Call, CallFailed, Code, RequestMetadata, error_body
from kanserve.grpc_api.interceptor import Interceptor
from kanserve.grpc_api.unfinished_requests import Buffer, IncomingRequest
from kanserve.observability.metrics import Metrics, Spread
from kanserve.system import compression

T = TypeVar("T")
JSON = "application/json"
ENCODINGS = ", ".join(compression.WINDOWS)
WORTH = 1024  # bytes of a response that is packed
CHALLENGE = {"www-authenticate": "Bearer"}
AHEAD = 2**22  # bytes of a chunked HTTP/1 body that h2corn reads ahead; with a content length it reads none
NOSNIFF = {"x-content-type-options": "nosniff"}  # in every response: a browser must not guess the type


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a request."""

    body: int  # bytes of the body, as sent and unpacked
    arrival: float  # seconds within which the body must arrive
    typed: int  # bytes of one tensor as numbers in JSON


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """HTTP request that has arrived completely."""

    path: Mapping[str, str]  # parameters of the path
    headers: Headers
    body: bytes = b""  # bytes of the body, unpacked
    broken: Refused | None = None  # error of a request that cannot be read
    query: Mapping[str, str] = field(default_factory=dict)  # parameters of the query, only for some routes

    def __len__(self) -> int:
        return len(self.body)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """HTTP response of a method."""

    body: bytes = b""
    kind: str = JSON  # content type
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)  # further headers
    packs: bool = True  # whether the response is compressed if the client accepts that

    def __len__(self) -> int:
        return len(self.body)


Method = Callable[[HttpRequest, Call], Awaitable[HttpResponse]]


def json_response(value: object) -> HttpResponse:
    """Any value of dicts, lists, strings and numbers."""
    return HttpResponse(orjson.dumps(value))


class Exchange:
    """Handler of the requests of one route. `verb` and `route` are the labels of its metrics."""

    def __init__(
        self,
        guard: Interceptor,
        metrics: Metrics,
        bounds: Bounds,
        labels: tuple[str, str],
        method: Method,
        *,
        probe: bool,
    ) -> None:
        async def whole(request: HttpRequest, call: Call) -> HttpResponse:
            if request.broken is not None:
                raise request.broken
            return await method(request, call)

        self._bounds, self._open_request = bounds, guard.open_request
        self._rejects_caller = guard.rejects_caller(" ".join(labels))
        self._guarded = guard.wrap_unary(Series(metrics, *labels), whole, probe=probe)

    async def respond(self, request: Request) -> Response:
        """The response, also for an invalid request. If the interceptor rejects the caller, the body is not read."""
        if self._rejects_caller is not None and self._rejects_caller(arrival(request)):
            return await self._respond(request, HttpRequest(request.path_params, request.headers))
        body, broken = b"", None
        try:
            if request.method == "POST":
                body = await self._body(request)
        except Refused as error:
            broken = error
        return await self._respond(request, HttpRequest(request.path_params, request.headers, body, broken))

    async def refuse(self, request: Request, error: Refused) -> Response:
        """The response to a request whose body the server does not read."""
        return await self._respond(request, HttpRequest({}, request.headers, broken=error))

    async def _respond(self, request: Request, http_request: HttpRequest) -> Response:
        try:
            response = await self._guarded(http_request, arrival(request))
        except CallFailed as failure:
            response = failed(failure)
        return await encoded(response, request)

    async def _body(self, request: Request) -> bytes:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", *compression.WINDOWS):
            raise Refused(
                HTTPStatus.NOT_IMPLEMENTED,
                f"content-encoding {encoding[:40]!r} is not supported, expected one of {ENCODINGS}",
                {"accept-encoding": ENCODINGS},
                code="encoding-not-supported",
                hint="compress the body with gzip, or send it uncompressed",
            )
        shown = arrival(request)
        with self._open_request(request.client, request.client.host if request.client else "", shown) as part:
            try:
                async with asyncio.timeout(self._bounds.arrival):
                    body = await self._arrived(request, part)
            except TimeoutError:
                raise _slow(self._bounds.arrival) from None
            except RequestBufferLimited as error:
                raise Refused(
                    HTTPStatus.TOO_MANY_REQUESTS, str(error), {"retry-after": "1"}, code=error.code, hint=error.hint
                ) from None
        if encoding == "identity":
            return body
        try:
            return await compression.aside(body, encoding, self._bounds.body)
        except compression.TooLong:
            raise self._too_large("more when unpacked") from None
        except compression.Corrupt:
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                f"the body is not a complete {encoding} stream",
                code="body-corrupt",
                hint="send the request again, or send it uncompressed",
            ) from None

    async def _arrived(self, request: Request, part: IncomingRequest) -> bytes:
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._bounds.body:
            raise self._too_large(f"{length[:20]} bytes")
        body, parts = Buffer(), request.stream()
        chunked = not length and request.scope["http_version"].startswith("1")
        ahead = max(0, min(AHEAD, part.most - self._bounds.body)) if chunked else 0
        part.holds(ahead)
        try:
            while (data := await part.more(anext(parts, None))) is not None:
                body.add(data)
                if body.size > self._bounds.body:
                    raise self._too_large("more")
                part.holds(body.size + ahead)
        except ClientDisconnect:
            raise Refused(
                CLIENT_GONE, "the client disconnected before the request was complete", code="client-disconnected"
            ) from None
        return body.take()

    def _too_large(self, size: str) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the request is larger than the limit of {self._bounds.body} bytes: it has {size}",
            code="message-too-large",
            hint="send fewer rows in one request, or raise max_request_bytes on the server",
        )


def _slow(seconds: float) -> Refused:
    return Refused(
        HTTPStatus.REQUEST_TIMEOUT,
        f"the request did not arrive completely within {seconds:g} s",
        code="request-too-slow",
        hint="send a smaller request, or raise request_read_timeout on the server",
    )


def arrival(request: Request) -> RequestMetadata:
    """The metadata of a request."""
    return RequestMetadata(request.headers.items(), None, authenticator.presented(request.scope))


class Series:
    """Counters of one route, looked up once. Its histogram begins with the first request, to keep the page small."""

    def __init__(self, metrics: Metrics, verb: str, route: str) -> None:
        self.path = f"{verb} {route}"
        self._labels = (verb, route)
        self._metrics = metrics
        self._requests = metrics.number("http_requests_total")
        self._ok = self._requests.labels(*self._labels, str(int(HTTPStatus.OK)))

    @cached_property
    def _seconds(self) -> Spread:
        return self._metrics.spread("http_request_duration_seconds").labels(*self._labels)

    def begun(self) -> None:
        """Requests are counted when they end, as is usual for HTTP."""

    def ended(self, outcome: Code, error: BaseException | None, seconds: float) -> None:
        if outcome is Code.OK:
            self._ok.inc()
        else:
            self._requests.labels(*self._labels, str(status(outcome, error))).inc()
        self._seconds.observe(seconds)


def failed(failure: CallFailed) -> HttpResponse:
    """The response to a call that the guard or its method rejected. It ends the use of the failure."""
    error = failure.__cause__
    trailers = dict(failure.trailers)
    headers = {ID_HEADER: trailers[ID_HEADER]}
    if PUSHBACK[0] in trailers:
        headers["retry-after"] = str(max(1, math.ceil(int(trailers[PUSHBACK[0]]) / 1000)))  # seconds; HTTP has no less
    if failure.status is Code.UNAUTHENTICATED:
        headers |= CHALLENGE
    if isinstance(error, Refused):
        headers |= error.headers
    response = HttpResponse(orjson.dumps(error_body(failure)), JSON, status(failure.status, error), headers)
    failure.forget()
    return response


async def encoded(response: HttpResponse, request: Request) -> Response:
    """The response in Starlette's form, compressed if the request accepts that."""
    headers = {"content-type": response.kind, **NOSNIFF, **response.headers}
    body, encoding = response.body, compression.chosen(request.headers.get("accept-encoding", ""))
    if encoding and len(body) >= WORTH and response.packs:
        if len(body) < compression.BLOCKING:
            body = compression.packed(body, encoding)
        else:
            body = await asyncio.to_thread(compression.packed, body, encoding)
        headers |= {"content-encoding": encoding, "vary": "accept-encoding"}
    return Response(body, response.status, headers)


CLIENT_GONE = 499  # as in nginx, for a client that did not wait

# Triton's for the codes that it has; google.rpc.Code's for the rest.
STATUS: dict[Code, int] = {
    Code.OK: HTTPStatus.OK,
    Code.CANCELLED: CLIENT_GONE,
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Refused(BadRequest):
    """Error with a specific HTTP status. `headers` add details, such as Allow."""

    def __init__(
        self, status: int, text: str, headers: dict[str, str] | None = None, *, code: str, hint: str = ""
    ) -> None:
        super().__init__(text, code=code, hint=hint)
        self.status, self.headers = int(status), headers or {}


def status(outcome: Code, error: BaseException | None) -> int:
    """The HTTP status of a call that ended with `outcome`, for `error`."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, LimitReached):  # a limit on all requests: the same one may pass later
        return int(HTTPStatus.TOO_MANY_REQUESTS)
    return int(STATUS[outcome])


# Proxies do not store events, and do not buffer them (nginx reads x-accel-buffering).
HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    **NOSNIFF,
}
BEAT, COMMENT = 5.0, b":\n\n"  # seconds between two of these
Source = Callable[[HttpRequest, Call], AsyncGenerator[bytes]]


class Events:
    """Handler of server-sent events for one route.

    labels  verb and route, for the metrics
    source  yields the data of each event, on one line
    """

    def __init__(
        self, guard: Interceptor, metrics: Metrics, bounds: Bounds, labels: tuple[str, str], source: Source
    ) -> None:
        async def events(requests: AsyncIterator[HttpRequest], call: Call) -> AsyncGenerator[bytes]:
            request = await anext(requests)
            if request.broken is not None:
                raise request.broken
            async with contextlib.aclosing(source(request, call)) as stream:
                async for data in stream:
                    yield data

        self._seconds = bounds.arrival
        self._flow = guard.wrap_stream(Series(metrics, *labels), events)

    async def respond(self, request: Request) -> Response:
        """The response, also for an invalid request."""
        broken = None
        try:
            # When the request is complete, the transport cancels the response if the client disconnects.
            async with asyncio.timeout(self._seconds):
                await request.receive()
        except TimeoutError:
            broken = _slow(self._seconds)
        http_request = HttpRequest(request.path_params, request.headers, b"", broken, request.query_params)
        events = cast(AsyncGenerator[bytes], self._flow(single(http_request), arrival(request)))
        try:
            first = await anext(events, b"")
        except CallFailed as failure:
            return await encoded(failed(failure), request)
        return _Stream(_lines(first, events))


class _Stream(Response):
    """Response with server-sent events. The task of the request sends it, because the context of a method's generator
    belongs to its task (`logs.CALL`).

    It sends a comment between events from time to time. A server notices a disconnected HTTP/1 client only when it
    sends something, and proxies may close a silent connection.
    """

    def __init__(self, parts: AsyncGenerator[bytes]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._parts, self._free = parts, asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        beats = asyncio.ensure_future(self._beat(send))
        try:
            async with contextlib.aclosing(self._parts):
                async with self._free:
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for part in self._parts:
                    await self._body(send, part)
        finally:
            beats.cancel()
        async with self._free:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        while True:
            await asyncio.sleep(BEAT)
            await self._body(send, COMMENT)

    async def _body(self, send: Send, part: bytes) -> None:
        async with self._free:
            await send({"type": "http.response.body", "body": part, "more_body": True})


async def single(item: T) -> AsyncIterator[T]:
    """A stream of one item."""
    yield item


async def _lines(first: bytes, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(events):
        yield _event(first)
        try:
            async for data in events:
                yield _event(data)
        except CallFailed as failure:
            yield b"event: error\n" + _event(failed(failure).body)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
