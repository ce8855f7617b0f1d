"""Callers that native code may serve, and the counters and log lines of its calls.

The regular path resolves a caller once: it checks the credential and the role, and then `learn` stores the caller under
its credential. New credentials drop all stored callers at once, so that a revoked token is never served from here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from kanserve.auth.permissions import NEEDS
from kanserve.auth.roles import EVERYONE, Principal
from kanserve.errors import Forbidden, Unauthenticated
from kanserve.grpc_api import access_log, call_context
from kanserve.grpc_api.access_log import Line
from kanserve.grpc_api.call_context import RequestMetadata
from kanserve.grpc_api.interceptor import Interceptor, MethodSeries
from kanserve.observability import logs

MOST_CALLERS = 1024
LATEST = 2**62  # nanoseconds since the epoch that native code can hold: the year 2116
# Principal, function that takes a call from the rate limit or raises, and end of the validity in nanoseconds since the
# epoch (0: none), as kernel/src/calls.cpp reads them.
Caller = tuple[Principal, Callable[[], None] | None, int]
# Arrival in nanoseconds, deadline (0: none), bytes of the message, id in it, request id and traceparent of the headers,
# caller, bytes of the response.
Facts = tuple[int, int, int, bytes, bytes | None, bytes | None, Principal, int]


class NativeCall(Protocol):
    """Call in the module `kanserve_kernel.calls`."""

    def facts(self) -> Facts:
        """Facts for counters and log lines."""
        ...


class Account:
    """Account of the calls of one method that native code handles. The limits are those of `Interceptor`; the counters
    are updated once per batch.

    callers  known callers by the header `authorization`, or else by the certificate (PEM), or else by None
    """

    def __init__(self, guard: Interceptor, series: MethodSeries) -> None:
        self._guard, self._series = guard, series
        self.callers: dict[bytes | str | None, Caller] = {}
        if guard.gate is None:
            self.callers[None] = (EVERYONE, None, 0)
        else:
            guard.gate.caches.append(self.callers)

    @property
    def keyed(self) -> bool:
        """Whether callers need a credential."""
        return self._guard.gate is not None

    def learn(self, credential: bytes | None, arrival: RequestMetadata) -> None:
        """Store the caller of a call that the regular path has admitted."""
        gate, key = self._guard.gate, credential or arrival.certificate or None
        if gate is None or key in self.callers:
            return
        try:
            principal, bucket = gate.resolve(NEEDS[self._series.path], arrival)
        except (Unauthenticated, Forbidden):  # since the call began
            return
        if len(self.callers) >= MOST_CALLERS:
            self.callers.clear()
        until = 0 if principal.expires is None else min(int(principal.expires * 1e9), LATEST)
        self.callers[key] = (principal, None if bucket is None else bucket.take, until)

    def room(self) -> int:
        """Number of calls that may begin now; 0 if the regular path must handle them. A batch of them stays below the
        limit of bytes, because native code takes small messages only."""
        guard, state = self._guard, self._guard.lifecycle
        if state.draining or state.closed or state.held or guard.bytes > guard.max_inflight_bytes // 2:
            return 0
        return guard.max_inflight_requests - guard.calls

    def begun(self, calls: int, size: int) -> None:
        """Count calls in progress, and the bytes of their messages."""
        self._guard.bytes += size
        self._guard.calls += calls
        self._guard.inflight.value += calls

    def answered(
        self, calls: Sequence[NativeCall], size: int, seconds: Sequence[float], facts: dict[str, object], now: int
    ) -> None:
        """Count successful calls, and write their log lines. `size`: bytes of their messages. `seconds`: duration of
        each. `now`: nanoseconds of perf_counter."""
        self.begun(-len(calls), -size)
        self._series.succeeded(seconds)
        guard = self._guard
        if guard.lifecycle.draining:
            for _ in calls:
                guard.lifecycle.ended(None)
        if picked := guard.lines.picked(len(calls)):
            lines = [self._line(calls[at].facts(), seconds[at]) for at in picked]
            access_log.write_successes(self._series.path, lines, facts)

    def failed(self, calls: Sequence[NativeCall]) -> None:
        """Return calls to the rate limits of their callers, before the regular path takes them again."""
        if (gate := self._guard.gate) is not None:
            for call in calls:
                gate.give_back(call.facts()[6])

    def abandoned(self, gone: Facts, facts: dict[str, object], now: int) -> None:
        """Count and log a call whose client disconnected."""
        arrived, deadline, *_ = gone
        line = self._line(gone, (now - arrived) / 1e9)
        call = line.call(facts, time.monotonic() + (deadline - now) / 1e9 if deadline else None)
        error, sizes = asyncio.CancelledError(), (line.sizes[0], 0)
        self._series.begun()
        with logs.within(call):
            self._guard.ended(self._series, call, error, line.seconds, sizes, probe=False)

    def _line(self, known: Facts, seconds: float) -> Line:
        """The log line of a native call."""
        _, _, size, id, request_id, trace, principal, response = known
        span = b"" if trace is None or self._guard.tracing is None else trace[3:35]  # a span would have this id
        name = call_context.request_id(request_id, id)
        return Line(name, principal, (size, response), seconds, span.decode("ascii", "replace"))
