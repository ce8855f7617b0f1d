"""The single wrapper around every method: id, deadline, counts, one log line, error translation.

Methods take bytes and return bytes. gRPC's own deserialisation would answer a
malformed message with UNKNOWN and the name of a Python class.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from structlog.contextvars import bind_contextvars

from kanserve.errors import Draining, KanserveError, QueueFull, Unsupported
from kanserve.lifecycle import Lifecycle
from kanserve.observe import logs
from kanserve.observe.metrics import UNKNOWN, Metrics
from kanserve.rpc import status

ID = re.compile(r"[\x21-\x7e]{1,128}")
ID_HEADER = "x-request-id"
# gRPC's own way to say "come back, but not at once"; its retry policies honour it.
PUSHBACK = ("grpc-retry-pushback-ms", "500")

log = logs.get_logger("rpc")


@dataclass(slots=True)
class Call:
    """One RPC in progress. `facts` end up in its log line; never put tensor contents there."""

    request_id: str
    given: bool  # the id came with the call
    deadline: float | None  # monotonic
    facts: dict[str, object] = field(default_factory=dict)

    def adopt(self, message_id: str) -> None:
        """Use the id inside the message, unless the metadata named one."""
        if not self.given and ID.fullmatch(message_id):
            self.request_id = message_id
            bind_contextvars(request_id=message_id)


Method = Callable[[bytes, Call], Awaitable[bytes]]
Context = grpc.aio.ServicerContext[Any, Any]


class Guard:
    """Wraps methods of one server."""

    def __init__(self, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._inflight = metrics.gauge("kanserve_inflight_requests")

    def unary(self, service: str, name: str, method: Method) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler for a method that exists."""
        series = _Series(self._metrics, "unary", service, name)

        async def handle(data: bytes, context: Context) -> bytes:
            return await self._handle(series, method, data, context)

        return grpc.unary_unary_rpc_method_handler(handle)

    def refusal(self, service: str, name: str, *, streaming: bool = False) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler that answers UNIMPLEMENTED with a sentence."""

        async def refuse(data: bytes, call: Call) -> bytes:
            raise Unsupported(
                "this server has no such method" if name == UNKNOWN else f"{name} is not supported by kanserve"
            )

        if not streaming:
            return self.unary(service, name, refuse)
        series = _Series(self._metrics, "bidi_stream", service, name)

        async def stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            yield await self._handle(series, refuse, b"", context)

        return grpc.stream_stream_rpc_method_handler(stream)

    async def _handle(self, series: _Series, method: Method, data: bytes, context: Context) -> bytes:
        started = time.perf_counter()
        call = _call(context)
        bind_contextvars(request_id=call.request_id)
        series.started.inc()
        self._inflight.inc()
        answer = b""
        failure: Exception | None = None
        outcome = grpc.StatusCode.OK
        try:
            answer = await (_turn_away if self._lifecycle.closed else method)(data, call)
        except asyncio.CancelledError:
            late = call.deadline is not None and time.monotonic() >= call.deadline
            outcome = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception as error:  # the process boundary: a bug must not reach the wire as text
            failure = error
            outcome = status.code(error)
        finally:
            self._inflight.dec()
            seconds = time.perf_counter() - started
            series.ended(outcome, seconds)
            _write(series, call, outcome, failure, seconds=seconds, sizes=(len(data), len(answer)))
        if failure is not None:
            await _abort(context, failure, call)
        return answer


async def _turn_away(data: bytes, call: Call) -> bytes:
    raise Draining


class _Series:
    """The counters of one method, looked up once."""

    def __init__(self, metrics: Metrics, kind: str, service: str, name: str) -> None:
        self.path = f"{service}/{name}"
        self._labels = (kind, service, name)
        self._handled = metrics.counter("grpc_server_handled_total")
        self._seconds = metrics.histogram("grpc_server_handling_seconds").labels(*self._labels)
        self.started = metrics.counter("grpc_server_started_total").labels(*self._labels)
        self._ok = self._handled.labels(*self._labels, "OK")

    def ended(self, outcome: grpc.StatusCode, seconds: float) -> None:
        counter = self._ok
        if outcome is not grpc.StatusCode.OK:
            counter = self._handled.labels(*self._labels, outcome.name)
        counter.inc()
        self._seconds.observe(seconds)


def _call(context: Context) -> Call:
    given = ""
    for key, value in context.invocation_metadata() or ():
        if key == ID_HEADER and isinstance(value, str) and ID.fullmatch(value):
            given = value
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(given or secrets.token_hex(8), bool(given), deadline)


def _write(
    series: _Series,
    call: Call,
    outcome: grpc.StatusCode,
    failure: Exception | None,
    *,
    seconds: float,
    sizes: tuple[int, int],
) -> None:
    facts: dict[str, Any] = {
        "method": series.path,
        "code": outcome.name,
        "ms": round(seconds * 1e3, 3),
        "request_bytes": sizes[0],
        "response_bytes": sizes[1],
        **call.facts,
    }
    if outcome is grpc.StatusCode.INTERNAL:
        log.error("rpc", **facts, exc_info=failure)
    elif isinstance(failure, KanserveError):
        log.info("rpc", **facts, reason=status.text(failure, call.request_id))
    else:
        log.info("rpc", **facts)


async def _abort(context: Context, failure: Exception, call: Call) -> None:
    trailers: list[tuple[str, str]] = [(ID_HEADER, call.request_id)]
    if isinstance(failure, QueueFull | Draining):
        trailers.append(PUSHBACK)
    await context.abort(status.code(failure), status.text(failure, call.request_id), trailing_metadata=tuple(trailers))
