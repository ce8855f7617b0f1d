"""Interceptor of every call: request id, deadline, authentication, counters, access log, and error translation.

It treats unary and streaming methods alike, health and reflection included. A transport passes bytes and
`RequestMetadata`, and receives bytes or `CallFailed`. Nothing here knows a transport.

Methods take and return bytes, because gRPC's deserialization would respond to a malformed message with UNKNOWN and the
name of a Python class.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Sequence, Sized
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar

from kanserve.auth import authenticator as access
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.roles import Principal
from kanserve.errors import (
    ConcurrencyLimited,
    Draining,
    InflightBytesLimited,
    KanserveError,
    LimitReached,
    RateLimited,
    Unsupported,
)
from kanserve.grpc_api import access_log, call_context, failures
from kanserve.grpc_api.access_log import AccessLog
from kanserve.grpc_api.call_context import ID_HEADER, Call, Code, RequestMetadata, begin_call
from kanserve.grpc_api.failures import CallFailed, with_trailers
from kanserve.grpc_api.unfinished_requests import IncomingRequest, Unfinished
from kanserve.observability import logs
from kanserve.observability.metrics import LIMITED, STREAM, STREAM_REQUESTS, UNKNOWN, Metrics
from kanserve.observability.series import Family, Number
from kanserve.system.lifecycle import Lifecycle

STRICT_HEADER = "triton_grpc_error"  # of a stream of requests: what is wrong with one ends it
TRACE_HEADERS = ("traceparent", "tracestate")
HEADERS = (ID_HEADER, STRICT_HEADER, *TRACE_HEADERS, access.HEADER)  # all that is read of a call's metadata


class Kind(enum.StrEnum):
    """Direction of streaming, which is the metric label `grpc_type`."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    BIDI_STREAM = "bidi_stream"


class ClientDisconnected(Exception):
    """Signal that the client has disconnected. A transport raises it instead of the next message, and the call ends
    like a cancelled call."""


Q = TypeVar("Q", bound=Sized)
A = TypeVar("A", bound=Sized)
UnaryMethod = Callable[[bytes, Call], Awaitable[bytes]]
StreamMethod = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Unary:
    """Guarded method with one request and one response.

    answer          raises CallFailed
    refused         counts a call that ended in the transport, and returns the failure to send
    rejects_caller  whether `answer` rejects this caller, so that the transport need not read the message; None: it
                    rejects no caller
    """

    answer: Callable[[bytes, RequestMetadata], Awaitable[bytes]]
    refused: Callable[[CallFailed, RequestMetadata], CallFailed]
    rejects_caller: Callable[[RequestMetadata], bool] | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """Guarded method that responds to one message, or to a stream of messages, with a stream.

    kind            direction of streaming
    answers         raises CallFailed
    refused         as in `Unary`
    rejects_caller  as in `Unary`
    """

    kind: Kind
    answers: Callable[[AsyncIterator[bytes], RequestMetadata], AsyncIterator[bytes]]
    refused: Callable[[CallFailed, RequestMetadata], CallFailed]
    rejects_caller: Callable[[RequestMetadata], bool] | None = None


Guarded = Unary | Stream


class Series(Protocol):
    """Counters of one method. `path` names it in the log."""

    path: str

    def begun(self) -> None:
        """Count the start of a call."""
        ...

    def ended(self, outcome: Code, error: BaseException | None, seconds: float) -> None:
        """Count the end of a call, with the error that it raised."""
        ...


class Tracing(Protocol):
    """Interface of distributed tracing, which wraps methods."""

    def samples(self, name: str, traceparent: bytes | None) -> bool:
        """Whether a call to this method with this header gets a span."""
        ...

    def unary(
        self, name: str, answer: Callable[[Q, RequestMetadata], Awaitable[A]]
    ) -> Callable[[Q, RequestMetadata], Awaitable[A]]:
        """Trace a method with one request and one response."""
        ...

    def stream(
        self, name: str, answers: Callable[[AsyncIterator[Q], RequestMetadata], AsyncIterator[bytes]]
    ) -> Callable[[AsyncIterator[Q], RequestMetadata], AsyncIterator[bytes]]:
        """Trace a method that responds with a stream."""
        ...


class Interceptor:
    """Interceptor for the methods of one server.

    max_inflight_requests  number of calls in progress, without probes
    max_inflight_bytes     bytes of their messages
    largest                bytes of the largest message
    lines                  selects the calls with an access log line
    gate                   authenticator; None: all callers are allowed
    max_seconds            time limit of a call with one response; None: no limit
    """

    def __init__(
        self,
        metrics: Metrics,
        lifecycle: Lifecycle,
        lines: AccessLog,
        gate: Authenticator | None,
        *,
        tracing: Tracing | None = None,
        max_inflight_requests: int,
        max_inflight_bytes: int,
        largest: int = 0,
        max_seconds: float | None = None,
    ) -> None:
        self.lines, self.gate, self.tracing, self.max_seconds = lines, gate, tracing, max_seconds
        self.names: set[str] = set()  # of all that it guards, as the table of access has them
        self.streams: set[str] = set()  # of these, that answer with a stream
        self._metrics = metrics
        self.max_inflight_requests, self.calls = max_inflight_requests, 0
        self.max_inflight_bytes, self.bytes = max_inflight_bytes, 0
        self._unfinished = Unfinished(self.hold, max_inflight_bytes, largest)
        self.lifecycle = lifecycle
        self.inflight = metrics.number("kanserve_inflight_requests").labels()

    def unary(self, service: str, name: str, method: UnaryMethod, *, probe: bool = False) -> Unary:
        """A method with one request and one response. `probe`: a method such as health, which responds while the server
        shuts down. It does not count as work in flight, and only its failures are logged."""
        series = self.series(Kind.UNARY, service, name)
        refused = functools.partial(self._reject_in_transport, series)
        return Unary(self.wrap_unary(series, method, probe=probe), refused, self.rejects_caller(series.path))

    def series(self, kind: Kind, service: str, name: str) -> MethodSeries:
        """The counters of a gRPC method."""
        return MethodSeries(self._metrics, kind, service, name)

    def wrap_unary(
        self, series: Series, method: Callable[[Q, Call], Awaitable[A]], *, probe: bool = False
    ) -> Callable[[Q, RequestMetadata], Awaitable[A]]:
        """Guard a method like `unary`, for requests and responses of any type whose length is their bytes. `probe`:
        as there. The result raises CallFailed, from the error that the method raised."""
        admitted = self._admission(series.path)
        method = call_context.with_deadline(method, None if probe else self.max_seconds, series.path)

        async def answer(data: Q, arrival: RequestMetadata) -> A:
            started, size = time.perf_counter(), len(data)
            call = begin_call(arrival)
            self.enter(series, size, probe=probe)
            try:
                if admitted is not None:
                    call.caller = admitted(arrival)
                self.admit(probe=probe)
                response = await method(data, call)
            except BaseException as error:
                if self.lifecycle.held and isinstance(error, Exception):
                    await self.lifecycle.wait_released()
                self.leave(size, probe=probe)
                self.ended(series, call, error, time.perf_counter() - started, (size, 0), probe=probe)
                raise
            if self.lifecycle.held:
                await self.lifecycle.wait_released()
            self.leave(size, probe=probe)
            self.ended(series, call, None, time.perf_counter() - started, (size, len(response)), probe=probe)
            return response

        if self.tracing is not None and not probe:
            return self.tracing.unary(series.path, answer)
        return answer

    def stream(self, service: str, name: str, kind: Kind, method: StreamMethod, *, probe: bool = False) -> Stream:
        """A method that responds with a stream. `probe`: as for `unary`."""
        series = self.series(kind, service, name)
        refused = functools.partial(self._reject_in_transport, series)
        return Stream(kind, self.wrap_stream(series, method, probe=probe), refused, self.rejects_caller(series.path))

    def wrap_stream(
        self, series: Series, method: Callable[[AsyncIterator[Q], Call], AsyncIterator[bytes]], *, probe: bool = False
    ) -> Callable[[AsyncIterator[Q], RequestMetadata], AsyncIterator[bytes]]:
        """The same as `stream`, for requests of any kind whose length is their bytes. The guard authorizes the caller
        again before each outgoing message, and while the stream waits for one: see `auth.authenticator.Permit`."""
        admitted = self._admission(series.path)
        self.streams.add(series.path)

        async def answers(messages: AsyncIterator[Q], arrival: RequestMetadata) -> AsyncIterator[bytes]:
            metadata = tuple(arrival.metadata)
            shown = RequestMetadata(metadata, arrival.remaining, arrival.certificate)
            call = begin_call(shown)
            call.metadata = metadata
            with _Watch(self, series, call, probe=probe) as watch:
                if admitted is not None:
                    call.caller = admitted(shown)
                self.admit(probe=probe)
                with self._permitted(call.caller) as permit:
                    steps = aiter(method(_counted(messages, watch), call))
                    while True:
                        with permit:
                            response = await anext(steps, None)
                        if response is None:
                            return
                        watch.response_bytes += len(response)
                        yield response

        if self.tracing is not None and not probe:
            return self.tracing.stream(series.path, answers)
        return answers

    @contextlib.contextmanager
    def _permitted(self, caller: Principal) -> Iterator[AbstractContextManager[object]]:
        """The context for each wait of a stream of this caller."""
        if self.gate is None or not caller.known:
            yield contextlib.nullcontext()
            return
        permit = self.gate.permit(caller)
        try:
            yield permit
        finally:
            permit.close()

    def rejects_caller(self, name: str) -> Callable[[RequestMetadata], bool] | None:
        """A check whether a method rejects a caller before its request is read. `name`: as in the table of
        permissions."""
        return access.credential_check(self.gate, name)

    def _admission(self, name: str) -> Callable[[RequestMetadata], Principal] | None:
        self.names.add(name)
        return access.admission(self.gate, name)

    def _reject_in_transport(self, series: Series, failure: CallFailed, arrival: RequestMetadata) -> CallFailed:
        """Count and log a call that ended in the transport, like any other call."""
        call = begin_call(arrival)
        series.begun()
        series.ended(failure.status, failure, 0.0)
        if self.lines.refused:
            access_log.write(series.path, call, failure.status, failure, seconds=0.0, sizes=(0, 0))
        return with_trailers(failure, call)

    def refusal(self, service: str, name: str, *, streaming: bool = False) -> Guarded:
        """A method that responds with UNIMPLEMENTED and a sentence."""

        async def refuse(data: bytes, call: Call) -> bytes:
            if name == UNKNOWN:
                raise Unsupported(
                    "this server has no such method",
                    code="method-unknown",
                    hint="call a method of inference.GRPCInferenceService or kanserve.v1.KanService",
                )
            raise Unsupported(
                f"{name} is not supported by kanserve",
                code="method-not-supported",
                hint="see the page 'Triton compatibility' for the methods that kanserve supports",
            )

        async def refuse_stream(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
            yield await refuse(b"", call)

        if streaming:
            return self.stream(service, name, Kind.BIDI_STREAM, refuse_stream)
        return self.unary(service, name, refuse)

    def stream_request(self, size: int, call: Call) -> StreamRequest:
        """A message of a stream, of `size` bytes, which counts as its own call."""
        return StreamRequest(self, size, call.caller, self._metrics.number(STREAM_REQUESTS))

    def admit_next_message(self, caller: Principal) -> None:
        """Check whether a stream of this caller may send one more request. Raises the reason if not."""
        if self.gate is not None:
            self.gate.admit_next(caller)
        self.admit(probe=False)

    @property
    def closing(self) -> asyncio.Event:
        """Set when the server rejects everything that is new."""
        return self.lifecycle.closing

    def hold_responses(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """A context during which calls that end wait, as in `Lifecycle.hold`."""
        return self.lifecycle.hold(seconds)

    def enter(self, series: Series, size: int, *, probe: bool) -> None:
        """Begin a call. Its `size` bytes count until it ends."""
        series.begun()
        self.bytes += size
        if not probe:
            self.calls += 1
            self.inflight.value += 1

    def leave(self, size: int, *, probe: bool) -> None:
        """End a call; the counterpart of `enter`."""
        self.bytes -= size
        if not probe:
            self.calls -= 1
            self.inflight.value -= 1

    def ended(
        self,
        series: Series,
        call: Call,
        error: BaseException | None,
        seconds: float,
        sizes: tuple[int, int],
        *,
        probe: bool,
    ) -> None:
        """Count a call that has ended, and write its log line. Raises CallFailed from an error, unless the client has
        disconnected. `sizes`: bytes of the request and of the response."""
        if self.lifecycle.draining and not probe:
            self.lifecycle.ended(error)
        if error is None and not self.lines.every:
            series.ended(Code.OK, None, seconds)
            return
        outcome = Code.OK if error is None else _outcome(error, call)
        series.ended(outcome, error, seconds)
        self.count_limited(series.path, error)
        failure = error if isinstance(error, Exception) and not isinstance(error, ClientDisconnected) else None
        if self.lines.wants(outcome, probe=probe):
            access_log.write(series.path, call, outcome, failure, seconds=seconds, sizes=sizes)
        if failure is not None:  # the process boundary: a bug must not reach the wire as text
            raise failures.from_error(failure, call) from failure

    def count_limited(self, path: str, error: BaseException | None) -> None:
        """Count a request that a limit on all requests rejected. A limit on one caller does not count."""
        if isinstance(error, LimitReached) and not isinstance(error, RateLimited):
            self._metrics.number(LIMITED).labels(path).inc()

    def limit(self, max_inflight_requests: int, max_inflight_bytes: int) -> None:
        """Use these limits from now on."""
        self.max_inflight_requests, self.max_inflight_bytes = max_inflight_requests, max_inflight_bytes
        self._unfinished.limit(max_inflight_bytes)

    def open_request(self, connection: Hashable, peer: str, arrival: RequestMetadata) -> IncomingRequest:
        """The account of a request that has not arrived completely. It counts for the principal that calls. If the
        caller has no known name, it counts for `peer`, the address."""
        return self._unfinished.open_request(connection, access.name(self.gate, arrival) or peer)

    def hold(self, size: int) -> None:
        """Add `size` bytes to those of messages; negative to subtract."""
        self.bytes += size

    def admit(self, *, probe: bool) -> None:
        """Check the limits before a call runs. Raises the reason if the call is rejected."""
        if probe:
            return
        if self.lifecycle.closed:
            raise Draining
        if self.calls > self.max_inflight_requests:
            raise ConcurrencyLimited(self.max_inflight_requests)
        if self.bytes > self.max_inflight_bytes:
            raise InflightBytesLimited(self.max_inflight_bytes)


class StreamRequest:
    """Request of a stream, from its arrival until its response is sent."""

    __slots__ = ("_caller", "_guard", "_outcomes", "_size")

    def __init__(self, guard: Interceptor, size: int, caller: Principal, outcomes: Family[Number]) -> None:
        self._guard, self._size, self._caller, self._outcomes = guard, size, caller, outcomes
        guard.calls += 1
        guard.inflight.inc()
        guard.hold(size)

    def admit(self) -> None:
        """Check the limits. Raises the reason if the request is rejected."""
        self._guard.admit_next_message(self._caller)

    def answered(self, size: int) -> None:
        """The response of `size` bytes is complete and waits to be sent."""
        self._guard.hold(size - self._size)
        self._size = size
        self._outcomes.labels("OK").inc()

    def failed(self, error: KanserveError) -> None:
        """The request has failed."""
        self._outcomes.labels(call_context.code(error).name).inc()
        self._guard.count_limited(STREAM, error)

    def close(self) -> None:
        """End the account; call this once."""
        self._guard.calls -= 1
        self._guard.inflight.dec()
        self._guard.hold(-self._size)


class _Watch:
    """Context of a stream, from its arrival to its status. Errors leave it as CallFailed, except if the client has
    disconnected."""

    __slots__ = ("_call", "_guard", "_probe", "_series", "_started", "request_bytes", "response_bytes")

    def __init__(self, guard: Interceptor, series: Series, call: Call, *, probe: bool) -> None:
        self._guard, self._series, self._call, self._probe = guard, series, call, probe
        self.request_bytes = self.response_bytes = 0

    def __enter__(self) -> _Watch:
        self._started = time.perf_counter()
        self._guard.enter(self._series, 0, probe=self._probe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.leave(0, probe=self._probe)
        seconds, sizes = time.perf_counter() - self._started, (self.request_bytes, self.response_bytes)
        self._guard.ended(self._series, self._call, error, seconds, sizes, probe=self._probe)


def outcome(error: BaseException) -> str:
    """The name of the code that the call in progress ends with, by what its guarded method raised."""
    call = logs.CALL.get()
    return _outcome(error, call).name if isinstance(call, Call) else Code.CANCELLED.name


def _outcome(error: BaseException, call: Call) -> Code:
    if isinstance(error, CallFailed):  # by the transport, while a stream was read
        return error.status
    if isinstance(error, Exception) and not isinstance(error, ClientDisconnected):
        return call_context.code(error)
    return Code.DEADLINE_EXCEEDED if call.late() else Code.CANCELLED


class MethodSeries:
    """Counters of one gRPC method, looked up once."""

    def __init__(self, metrics: Metrics, kind: Kind, service: str, name: str) -> None:
        self.path = f"{service}/{name}"
        self._labels = (str(kind), service, name)
        self._handled = metrics.number("grpc_server_handled_total")
        self._seconds = metrics.spread("grpc_server_handling_seconds").labels(*self._labels)
        self.begun = metrics.number("grpc_server_started_total").labels(*self._labels).inc
        self._ok = self._handled.labels(*self._labels, "OK")

    def succeeded(self, seconds: Sequence[float]) -> None:
        """Count successful calls, each with its duration."""
        self.begun(len(seconds))
        self._ok.inc(len(seconds))
        self._seconds.observe_all(seconds)

    def ended(self, outcome: Code, error: BaseException | None, seconds: float) -> None:
        counter = self._ok
        if outcome is not Code.OK:
            counter = self._handled.labels(*self._labels, outcome.name)
        counter.inc()
        self._seconds.observe(seconds)


async def _counted(messages: AsyncIterator[Q], watch: _Watch) -> AsyncIterator[Q]:
    async for message in messages:
        watch.request_bytes += len(message)
        yield message
