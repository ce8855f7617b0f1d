"""Interceptor of every call: request id, deadline, authentication, counters, access log, and error translation.

It treats unary and streaming methods alike, health and reflection included. A transport passes bytes and
`RequestMetadata`, and receives bytes or `CallFailed`. Nothing here knows a transport.

Methods take and return bytes, because gRPC's deserialization would respond to a malformed message with UNKNOWN and the
name of a Python class.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from kanserve.auth import authenticator as access
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.permissions import Principal
from kanserve.errors import (
    ConcurrencyLimited,
    Draining,
    InflightBytesLimited,
    KanserveError,
    LimitReached,
    RateLimited,
    Unsupported,
)
from kanserve.grpc_api import call_context
from kanserve.grpc_api.call_context import ID_HEADER, Call, CallFailed, Code, RequestMetadata, begin_call, with_trailers
from kanserve.grpc_api.unfinished_requests import IncomingRequest, Unfinished
from kanserve.observability import logs
from kanserve.observability.metrics import LIMITED, STREAM, STREAM_REQUESTS, UNKNOWN, Metrics
from kanserve.system.lifecycle import Lifecycle

if TYPE_CHECKING:
    from kanserve.observability.tracing import Tracing  # needs an optional package

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
class _Method:
    """Guarded method.

    refused         counts a call that ended in the transport, and returns the failure to send
    rejects_caller  whether the method rejects this caller, so that the transport need not read the message; None: it
                    rejects no caller
    """

    refused: Callable[[CallFailed, RequestMetadata], CallFailed]
    rejects_caller: Callable[[RequestMetadata], bool] | None


@dataclass(frozen=True, slots=True)
class Unary(_Method):
    """Guarded method with one request and one response. `respond` raises CallFailed."""

    respond: Callable[[bytes, RequestMetadata], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Stream(_Method):
    """Guarded method that responds to one message, or to a stream of messages, with a stream. `respond` raises
    CallFailed."""

    kind: Kind
    respond: Callable[[AsyncIterator[bytes], RequestMetadata], AsyncIterator[bytes]]


Guarded = Unary | Stream


async def alone(data: bytes) -> AsyncIterator[bytes]:
    """The messages of a call that has one."""
    yield data


class Series(Protocol):
    """Counters of one method. `path` names it in the log."""

    path: str

    def begun(self) -> None:
        """Count the start of a call."""
        ...

    def ended(self, outcome: Code, error: BaseException | None, seconds: float) -> None:
        """Count the end of a call, with the error that it raised."""
        ...


class AccessLog:
    """Policy that selects the calls with an access log line.

        policy  all, errors, none, or sampled:N, which selects one of N successful calls

    Internal errors always have a line. Probes have one only if they fail.
    """

    def __init__(self, policy: str) -> None:
        kind, _, every = policy.partition(":")
        self.refused = kind != "none"  # whether refused calls have one
        self.every = {"all": 1, "sampled": int(every or 1)}.get(kind, 0)
        self._count = 0

    def wants(self, outcome: Code, *, probe: bool) -> bool:
        """Whether a call has a line; call this once per call."""
        if outcome is Code.INTERNAL:
            return True
        if outcome is not Code.OK:
            return self.refused and not (probe and outcome is Code.CANCELLED)
        if probe or not self.every:
            return False
        self._count += 1
        return self._count % self.every == 0

    def picked(self, count: int) -> Sequence[int]:
        """Positions of the calls with a line, among the next successful calls. Counts these calls."""
        if not self.every:
            return ()
        first = self.every - 1 - self._count % self.every
        self._count += count
        return range(first, count, self.every)


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
        self.streams: set[str] = set()  # of these, that respond with a stream
        self.metrics = metrics
        self.max_inflight_requests, self.calls = max_inflight_requests, 0
        self.max_inflight_bytes, self.bytes = max_inflight_bytes, 0
        self._unfinished = Unfinished(self.hold, max_inflight_bytes, largest)
        self.lifecycle = lifecycle
        self.inflight = metrics.number("kanserve_inflight_requests").labels()

    def unary(self, service: str, name: str, method: UnaryMethod, *, probe: bool = False) -> Unary:
        """A method with one request and one response. `probe`: a method such as health, which responds while the server
        shuts down. It does not count as work in flight, and only its failures are logged."""
        series = MethodSeries(self.metrics, Kind.UNARY, service, name)
        refused = functools.partial(self._reject_in_transport, series)
        respond = self.wrap_unary(series, method, probe=probe)
        return Unary(refused, self.rejects_caller(series.path), respond)

    def wrap_unary(
        self, series: Series, method: Callable[[Q, Call], Awaitable[A]], *, probe: bool = False
    ) -> Callable[[Q, RequestMetadata], Awaitable[A]]:
        """Guard a method like `unary`, for requests and responses of any type whose length is their bytes. `probe`:
        as there. The result raises CallFailed, from the error that the method raised."""
        admitted = self._admission(series.path)
        method = call_context.with_deadline(method, None if probe else self.max_seconds, series.path)

        async def respond(data: Q, arrival: RequestMetadata) -> A:
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
            return self.tracing.unary(series.path, respond)
        return respond

    def stream(self, service: str, name: str, kind: Kind, method: StreamMethod, *, probe: bool = False) -> Stream:
        """A method that responds with a stream. `probe`: as for `unary`."""
        series = MethodSeries(self.metrics, kind, service, name)
        refused = functools.partial(self._reject_in_transport, series)
        respond = self.wrap_stream(series, method, probe=probe)
        return Stream(refused, self.rejects_caller(series.path), kind, respond)

    def wrap_stream(
        self, series: Series, method: Callable[[AsyncIterator[Q], Call], AsyncIterator[bytes]], *, probe: bool = False
    ) -> Callable[[AsyncIterator[Q], RequestMetadata], AsyncIterator[bytes]]:
        """The same as `stream`, for requests of any kind whose length is their bytes. The guard authorizes the caller
        again before each outgoing message, and while the stream waits for one: see `auth.authenticator.Permit`."""
        admitted = self._admission(series.path)
        self.streams.add(series.path)

        async def respond(messages: AsyncIterator[Q], arrival: RequestMetadata) -> AsyncIterator[bytes]:
            metadata = tuple(arrival.metadata)
            shown = RequestMetadata(metadata, arrival.remaining, arrival.certificate)
            call = begin_call(shown)
            call.metadata = metadata
            started, received, sent, complete = time.perf_counter(), 0, 0, False

            async def counted() -> AsyncIterator[Q]:
                nonlocal received
                async for message in messages:
                    received += len(message)
                    yield message

            self.enter(series, 0, probe=probe)
            try:
                if admitted is not None:
                    call.caller = admitted(shown)
                self.admit(probe=probe)
                with self._permitted(call.caller) as permit:
                    steps = aiter(method(counted(), call))
                    while True:
                        with permit:
                            response = await anext(steps, None)
                        if response is None:
                            complete = True
                            return
                        sent += len(response)
                        yield response
            finally:
                self.leave(0, probe=probe)
                seconds, sizes = time.perf_counter() - started, (received, sent)
                self.ended(series, call, None if complete else sys.exception(), seconds, sizes, probe=probe)

        if self.tracing is not None and not probe:
            return self.tracing.stream(series.path, respond)
        return respond

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
            write_line(series.path, call, failure.status, failure, seconds=0.0, sizes=(0, 0))
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
            write_line(series.path, call, outcome, failure, seconds=seconds, sizes=sizes)
        if failure is not None:  # the process boundary: a bug must not reach the wire as text
            raise call_context.from_error(failure, call) from failure

    def count_limited(self, path: str, error: BaseException | None) -> None:
        """Count a request that a limit on all requests rejected. A limit on one caller does not count."""
        if isinstance(error, LimitReached) and not isinstance(error, RateLimited):
            self.metrics.number(LIMITED).labels(path).inc()

    def limit(self, max_inflight_requests: int, max_inflight_bytes: int) -> None:
        """Use these limits from now on."""
        self.max_inflight_requests, self.max_inflight_bytes = max_inflight_requests, max_inflight_bytes
        self._unfinished.limit(max_inflight_bytes)

    def open_request(self, connection: Hashable, peer: str, arrival: RequestMetadata) -> IncomingRequest:
        """The account of a request that has not arrived completely. It counts for the principal that calls. If the
        caller has no known name, it counts for `peer`, the address."""
        name = "" if self.gate is None else self.gate.known(arrival).name
        return IncomingRequest(self._unfinished, connection, name or peer)

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
    """Request of a stream, of `size` bytes, which counts as its own call from its arrival until its response is
    sent."""

    __slots__ = ("_caller", "_guard", "_outcomes", "_size")

    def __init__(self, guard: Interceptor, size: int, caller: Principal) -> None:
        self._guard, self._size, self._caller = guard, size, caller
        self._outcomes = guard.metrics.number(STREAM_REQUESTS)
        guard.calls += 1
        guard.inflight.value += 1
        guard.hold(size)

    def admit(self) -> None:
        """Check the credential and the limits. Raises the reason if the request is rejected."""
        if self._guard.gate is not None:
            self._guard.gate.admit_next(self._caller)
        self._guard.admit(probe=False)

    def succeeded(self, size: int) -> None:
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
        self._guard.leave(self._size, probe=False)


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


log = logs.get_logger("rpc")


class Line(NamedTuple):
    """Line of a call that native code handled. `sizes`: bytes of the request and of the response. `trace_id`: of the
    caller's trace; "" without one."""

    request_id: str
    caller: Principal
    sizes: tuple[int, int]
    seconds: float
    trace_id: str

    def call(self, facts: dict[str, object], deadline: float | None = None) -> Call:
        """The context of the call."""
        call = Call(self.request_id, True, deadline)
        call.caller, call.facts = self.caller, {**facts, "trace_id": self.trace_id} if self.trace_id else facts
        return call


def write_successes(path: str, calls: Sequence[Line], facts: dict[str, object]) -> None:
    """Write the lines of successful calls with these facts."""
    shared, lines = json.dumps(facts)[1:-1], []
    for line in calls:
        (received, sent), ms = line.sizes, round(line.seconds * 1e3, 3)
        own = f'"method": "{path}", "code": "OK", "ms": {ms}, "request_bytes": {received}, "response_bytes": {sent}'
        trace = f', "trace_id": {logs.quote(line.trace_id)}' if line.trace_id else ""
        name = f', "caller": {logs.quote(line.caller.name)}' if line.caller.name else ""
        lines.append((line.request_id, f"{own}, {shared}{trace}{name}"))
    if logs.write_many("rpc", "request_completed", lines):
        return
    for line in calls:
        call = line.call(facts)
        with logs.within(call):
            log.info("request_completed", **_facts(path, call, Code.OK, line.seconds, line.sizes))


def _facts(path: str, call: Call, outcome: Code, seconds: float, sizes: tuple[int, int]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "method": path,
        "code": outcome.name,
        "ms": round(seconds * 1e3, 3),
        "request_bytes": sizes[0],
        "response_bytes": sizes[1],
        **call.facts,
    }
    if call.caller.name:
        facts["caller"] = call.caller.name
    return facts


def write_line(
    path: str, call: Call, outcome: Code, failure: Exception | None, *, seconds: float, sizes: tuple[int, int]
) -> None:
    """Write the line of a call to the method `path`: error for a bug of the server, warning for a rejected call, info
    otherwise."""
    facts = _facts(path, call, outcome, seconds, sizes)
    if isinstance(failure, CallFailed):  # by the transport, whose status for a malformed call is INTERNAL too
        facts["error_code"] = failure.code
        log.warning("request_completed", **facts, reason=failure.text)
    elif outcome is Code.INTERNAL:
        facts["error_code"] = call_context.INTERNAL_ERROR if failure is None else call_context.error_code(failure)
        log.error("request_completed", **facts, exc_info=failure)
    elif isinstance(failure, KanserveError):
        facts["error_code"] = failure.code
        log.warning("request_completed", **facts, reason=call_context.text(failure, call.request_id))
    elif outcome is Code.DEADLINE_EXCEEDED:
        facts["error_code"] = "deadline-exceeded"
        log.warning("request_completed", **facts, reason="the deadline of the client passed")
    else:
        log.info("request_completed", **facts)
