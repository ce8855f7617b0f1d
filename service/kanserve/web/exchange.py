"""One HTTP request as a guarded call: its body read within bounds, its answer packed, its errors as JSON."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import orjson
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from kanserve import compression
from kanserve.access import names
from kanserve.errors import TooManyUnfinished
from kanserve.observe.metrics import Metrics
from kanserve.rpc.call import ID_HEADER, Arrival, Call
from kanserve.rpc.guard import PUSHBACK, CallFailed, Guard
from kanserve.rpc.status import Code
from kanserve.rpc.unfinished import Buffer, Part
from kanserve.web import refusal
from kanserve.web.refusal import Refused

JSON = "application/json"
ENCODINGS = ", ".join(compression.WINDOWS)
WORTH = 1024  # bytes of an answer that is packed
CHALLENGE = {"www-authenticate": "Bearer"}
AHEAD = 2**22  # bytes of a chunked HTTP/1 body that h2corn reads ahead; with a content length it reads none
NOSNIFF = {"x-content-type-options": "nosniff"}  # in every response: a browser must not guess the type


@dataclass(frozen=True, slots=True)
class Bounds:
    """`body`: bytes, as sent and unpacked; `arrival`: seconds for it to be there; `typed`: bytes of one tensor
    as numbers in JSON."""

    body: int
    arrival: float
    typed: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, whole. `broken`: why it is none. `query`: where a route has one."""

    path: Mapping[str, str]
    headers: Headers
    body: bytes = b""
    broken: Refused | None = None
    query: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. `packs`: compressed where the caller takes that, and it has not been."""

    body: bytes = b""
    kind: str = JSON
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    packs: bool = True

    def __len__(self) -> int:
        return len(self.body)


Method = Callable[[Asked, Call], Awaitable[Answer]]


def json_answer(value: object) -> Answer:
    """Any value of dicts, lists, strings and numbers."""
    return Answer(orjson.dumps(value))


class Exchange:
    """What answers the requests of one route. `verb` and `route` are the labels of its metrics."""

    def __init__(
        self, guard: Guard, metrics: Metrics, bounds: Bounds, labels: tuple[str, str], method: Method, *, probe: bool
    ) -> None:
        async def whole(asked: Asked, call: Call) -> Answer:
            if asked.broken is not None:
                raise asked.broken
            return await method(asked, call)

        self._bounds, self._part = bounds, guard.part
        self._strange = guard.strange(" ".join(labels))
        self._guarded = guard.around(Series(metrics, *labels), whole, probe=probe)

    async def answer(self, request: Request) -> Response:
        """The response, also to what is wrong. Of those whom the guard refuses nothing is read."""
        if self._strange is not None and self._strange(arrival(request)):
            return await self._answered(request, Asked(request.path_params, request.headers))
        return await self._answered(request, await self._asked(request))

    async def refuse(self, request: Request, error: Refused) -> Response:
        """The response to a request whose body nobody reads."""
        return await self._answered(request, Asked({}, request.headers, broken=error))

    async def _answered(self, request: Request, asked: Asked) -> Response:
        try:
            answer = await self._guarded(asked, arrival(request))
        except CallFailed as failure:
            answer = failed(failure)
            failure.forget()
        return await response(answer, request.headers.get("accept-encoding", ""))

    async def _asked(self, request: Request) -> Asked:
        body, broken = b"", None
        try:
            if request.method == "POST":
                body = await self._body(request)
        except Refused as error:
            broken = error
        return Asked(request.path_params, request.headers, body, broken)

    async def _body(self, request: Request) -> bytes:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", *compression.WINDOWS):
            raise Refused(
                HTTPStatus.NOT_IMPLEMENTED,
                f"content-encoding {encoding[:40]!r} is not supported; {ENCODINGS} are",
                {"accept-encoding": ENCODINGS},
            )
        shown = arrival(request)
        with self._part(request.client, request.client.host if request.client else "", shown) as part:
            try:
                async with asyncio.timeout(self._bounds.arrival):
                    body = await self._arrived(request, part)
            except TimeoutError:
                seconds = f"{self._bounds.arrival:g} s"
                text = f"the request did not arrive whole within {seconds}"
                raise Refused(HTTPStatus.REQUEST_TIMEOUT, text) from None
            except TooManyUnfinished as error:
                raise Refused(HTTPStatus.TOO_MANY_REQUESTS, str(error), {"retry-after": "1"}) from None
            return body if encoding == "identity" else await self._unpacked(body, encoding)

    async def _arrived(self, request: Request, part: Part) -> bytes:
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
            raise Refused(refusal.CLIENT_GONE, "the caller went away before the request was whole") from None
        return body.take()

    async def _unpacked(self, body: bytes, encoding: str) -> bytes:
        try:
            return await compression.aside(body, encoding, self._bounds.body)
        except compression.TooLong:
            raise self._too_large("more when unpacked") from None
        except compression.Corrupt:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body is no whole {encoding} stream") from None

    def _too_large(self, size: str) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the request is larger than the limit of {self._bounds.body} bytes: it has {size}; send fewer rows in one",
        )


def arrival(request: Request) -> Arrival:
    """What a request shows of its caller."""
    return Arrival(request.headers.items(), None, names.presented(request.scope))


class Series:
    """The counters of one route, looked up once."""

    def __init__(self, metrics: Metrics, verb: str, route: str) -> None:
        self.path = f"{verb} {route}"
        self._labels = (verb, route)
        self._requests = metrics.number("http_requests_total")
        self._seconds = metrics.spread("http_request_duration_seconds").labels(*self._labels)
        self._ok = self._requests.labels(*self._labels, str(int(HTTPStatus.OK)))

    def begun(self) -> None:
        """Requests are counted when they end, as is usual for HTTP."""

    def ended(self, outcome: Code, error: BaseException | None, seconds: float) -> None:
        if outcome is Code.OK:
            self._ok.inc()
        else:
            self._requests.labels(*self._labels, str(refusal.status(outcome, error))).inc()
        self._seconds.observe(seconds)


def failed(failure: CallFailed) -> Answer:
    """The answer to a call that the guard or its method refused."""
    error = failure.__cause__
    trailers = dict(failure.trailers)
    headers = {ID_HEADER: trailers[ID_HEADER]}
    if PUSHBACK[0] in trailers:
        headers["retry-after"] = str(max(1, math.ceil(int(trailers[PUSHBACK[0]]) / 1000)))  # seconds; HTTP has no less
    if failure.code is Code.UNAUTHENTICATED:
        headers |= CHALLENGE
    if isinstance(error, Refused):
        headers |= error.headers
    body = orjson.dumps({"error": failure.text, "request_id": trailers[ID_HEADER]})
    return Answer(body, JSON, refusal.status(failure.code, error), headers)


async def response(answer: Answer, accepted: str) -> Response:
    """`accepted`: Accept-Encoding."""
    headers = {"content-type": answer.kind, **NOSNIFF, **answer.headers}
    body, encoding = answer.body, compression.chosen(accepted)
    if encoding and len(body) >= WORTH and answer.packs:
        if len(body) < compression.BLOCKING:
            body = compression.packed(body, encoding)
        else:
            body = await asyncio.to_thread(compression.packed, body, encoding)
        headers |= {"content-encoding": encoding, "vary": "accept-encoding"}
    return Response(body, answer.status, headers)
