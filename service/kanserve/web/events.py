"""One HTTP request whose answer is a stream of server-sent events, as a guarded call.

Until the first event there is nothing on the wire, so that what is refused has its own status and JSON, as everywhere.
What goes wrong later is an event of the type `error`, with the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from http import HTTPStatus
from typing import cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kanserve.observe.metrics import Metrics
from kanserve.rpc.call import Call
from kanserve.rpc.guard import CallFailed, Guard
from kanserve.web import exchange
from kanserve.web.exchange import Asked, Bounds
from kanserve.web.refusal import Refused

# Nobody on the way keeps events, nor holds them back until there are more (nginx's word).
HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    **exchange.NOSNIFF,
}
BEAT, COMMENT = 5.0, b":\n\n"  # seconds between two of these
Source = Callable[[Asked, Call], AsyncGenerator[bytes]]


class Events:
    """What answers the requests of one route. `source`: the data of each event, on one line. `labels` of its
    metrics: verb and route."""

    def __init__(self, guard: Guard, metrics: Metrics, bounds: Bounds, labels: tuple[str, str], source: Source) -> None:
        async def events(requests: AsyncIterator[Asked], call: Call) -> AsyncGenerator[bytes]:
            asked = await anext(requests)
            if asked.broken is not None:
                raise asked.broken
            async with contextlib.aclosing(source(asked, call)) as found:
                async for data in found:
                    yield data

        self._seconds = bounds.arrival
        self._flow = guard.flow(exchange.Series(metrics, *labels), events)

    async def answer(self, request: Request) -> Response:
        """The response, also to what is wrong."""
        asked = Asked(request.path_params, request.headers, b"", await self._whole(request), request.query_params)
        events = cast(AsyncGenerator[bytes], self._flow(_alone(asked), exchange.arrival(request)))
        try:
            first = await anext(events, b"")
        except CallFailed as failure:
            answer = exchange.failed(failure)
            failure.forget()
            return await exchange.response(answer, request.headers.get("accept-encoding", ""))
        return _Stream(_lines(first, events))

    async def _whole(self, request: Request) -> Refused | None:
        """Once it is, a door cancels the answer when the caller goes away."""
        try:
            async with asyncio.timeout(self._seconds):
                await request.receive()
        except TimeoutError:
            return Refused(HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive whole within {self._seconds:g} s")
        return None


class _Stream(Response):
    """Sent by the task that answers the request: what a method's generator knows is of its task (`logs.CALL`).

    Between events a comment now and then: a server that carries this may see that the caller of HTTP/1 is gone only
    when it has something to send, and what stands between may take silence for an end.
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


async def _alone(asked: Asked) -> AsyncIterator[Asked]:
    yield asked


async def _lines(first: bytes, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(events):
        yield _event(first)
        try:
            async for data in events:
                yield _event(data)
        except CallFailed as failure:
            answer = exchange.failed(failure)
            failure.forget()
            yield b"event: error\n" + _event(answer.body)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
