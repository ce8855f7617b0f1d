"""Batches of requests with one head, on the event loop, without the queue of the executor; and the account of the calls
that native code handles.

An execution of a small graph takes less time than the queue. `Batches` skips the queue if the model has no delay, no
priorities and no waiting request, and if its execution is short enough for the event loop. Python adds requests by
`submit`, and the native module by its own queue (`open_native`, `run_native`). `Batches` joins their input bytes, and
divides the output bytes among them.

Native code serves only callers that the regular path has resolved: it checks the credential and the role, and then
`Account.learn` stores the caller under its credential. New credentials drop all stored callers at once, so that a
revoked token is never served from here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kanserve.auth.permissions import EVERYONE, NEEDS, Principal
from kanserve.errors import Forbidden, Unauthenticated
from kanserve.execution.executor import Executor
from kanserve.grpc_api import call_context
from kanserve.grpc_api.call_context import RequestMetadata
from kanserve.grpc_api.interceptor import Interceptor, Line, MethodSeries, write_successes
from kanserve.observability import logs
from kanserve.observability.statistics import Timing
from kanserve.scheduling.batching import attempt
from kanserve.services import inference
from kanserve.types import Array

if TYPE_CHECKING:
    from kanserve.grpc_api.hot_path.method import Head, Raw

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

    def succeeded(
        self, calls: Sequence[NativeCall], size: int, seconds: Sequence[float], facts: dict[str, object]
    ) -> None:
        """Count successful calls, and write their log lines. `size`: bytes of their messages. `seconds`: duration of
        each."""
        self.begun(-len(calls), -size)
        self._series.succeeded(seconds)
        guard = self._guard
        if guard.lifecycle.draining:
            for _ in calls:
                guard.lifecycle.ended(None)
        if picked := guard.lines.picked(len(calls)):
            lines = [self._line(calls[at].facts(), seconds[at]) for at in picked]
            write_successes(self._series.path, lines, facts)

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


# The bytes of a response, and the nanoseconds of waiting and of computing.
Result = tuple[bytes, int, int]
LONGEST = 2_000_000  # nanoseconds that the first request of a run waits for others at most


class Job(NamedTuple):
    """Request that waits. `arrived`: nanoseconds of perf_counter. `deadline`: on the monotonic clock."""

    raws: Sequence[Raw]
    id: bytes
    future: asyncio.Future[Result | None]
    arrived: int
    deadline: float | None


class NativeQueue(Protocol):
    """Queue of calls with one head in the module `kanserve_kernel.calls`; see kernel/src/calls.cpp."""

    def take(self) -> tuple[list[NativeCall], bytes, list[int], int, list[NativeCall]]:
        """The waiting calls, the bytes of their inputs, their arrivals, and the bytes of their messages. Last the calls
        whose clients have disconnected."""
        ...

    def deliver(self, batch: list[NativeCall], outputs: bytes, /) -> None:
        """Encode the response of each call with its part of `outputs`."""
        ...

    def wake(self, batch: list[NativeCall], now: bool, /) -> None:
        """Send the response of each call: immediately, or in the next iteration of the loop. The regular path handles
        a call without a response."""
        ...


class Batches:
    """Batches of one head, for use from one event loop. `account` counts the calls of the native module."""

    def __init__(self, head: Head, executor: Executor, account: Account) -> None:
        self._head, self._executor, self._account = head, executor, account
        self._most = max(1, executor.most_inline // head.ready.rows)
        self._names = [name for name, _, _ in head.outputs]
        self._jobs: list[Job] = []
        self._room = 0  # of the next run
        self._left = self._seen = 0  # iterations of the loop until the run, and jobs in the last one
        self._turning = False  # whether `_turn` will be called
        self._uncounted = 0  # batches of this iteration of the loop
        self._native: NativeQueue | None = None  # while calls wait in it

    def open_native(self, queue: NativeQueue) -> int:
        """Begin a batch of the native queue. Returns its room, which is negative if each call runs at once."""
        room = min(self._executor.room(), self._account.room(), self._most)
        if room <= 0:
            return 0
        self._native = queue
        if self._alone():
            return -1
        self._schedule(asyncio.get_running_loop())
        return room

    def submit(self, raws: Sequence[Raw], id: bytes, deadline: float | None) -> asyncio.Future[Result | None] | None:
        """Submit the input bytes of one request. Returns None if the executor must handle the request. Otherwise
        returns a future; its result is None if the run failed or the deadline has passed, and then the executor must
        handle the request."""
        jobs = self._jobs
        if not jobs:
            self._room = self._executor.room()
        if len(jobs) >= self._room:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result | None] = loop.create_future()
        jobs.append(Job(raws, id, future, time.perf_counter_ns(), deadline))
        self._executor.pending(1)
        if len(jobs) >= self._most or (not self._turning and self._alone()):
            self._run()
        else:
            self._schedule(loop)
        return future

    def _alone(self) -> bool:
        """Whether a request runs immediately: recent ones were unbatched, and none ran in this iteration of the
        loop."""
        return self._executor.calm and not self._uncounted

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._turning:
            self._turning, self._seen = True, 0
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle an iteration of the event loop: run the requests, or wait for more."""
        if len(self._jobs) > self._seen:
            self._seen, self._left = len(self._jobs), self._executor.rounds
        self._left -= 1
        if self._left > 0 and self._jobs and time.perf_counter_ns() - self._jobs[0].arrived < LONGEST:
            loop.call_soon(self._turn, loop)
            return
        self._turning = False
        if self._native is not None:
            self.run_native(self._native, now=True)
        self._run()

    def run_native(self, queue: NativeQueue, *, now: bool = False) -> None:
        """Run the calls that wait in the native queue. `now`: no task is running, so that each call goes on
        immediately."""
        begun, self._native = time.perf_counter_ns(), None
        calls, inputs, arrived, size, abandoned = queue.take()
        for call in abandoned:
            gone = call.facts()
            inference.record_cancelled(self._head.ready, begun - gone[0])
            self._account.abandoned(gone, self._head.facts, begun)
        if not calls:
            return
        try:
            batch = self._ran([inputs], arrived, begun)
            if batch is None:
                self._account.failed(calls)
            else:
                queue.deliver(calls, batch.outputs[0].tobytes())
                self._account.begun(len(calls), size)
            delivered = time.perf_counter_ns()
        finally:
            queue.wake(calls, now)
        if batch is None:
            return
        if now:
            self._count(batch, delivered, calls, size)
        else:
            self._count_later(batch, delivered, calls, size)

    def _run(self) -> None:
        """Run the requests that wait."""
        begun, waiting = time.perf_counter_ns(), self._jobs
        self._jobs = []
        self._executor.pending(-len(waiting))
        jobs = [job for job in waiting if self._waits(job, begun)]
        if not jobs:
            return
        raws = list(map(b"".join, zip(*(job.raws for job in jobs), strict=True)))
        batch = self._ran(raws, [job.arrived for job in jobs], begun)
        if batch is None:
            for job in jobs:
                job.future.set_result(None)
            return
        responses = self._head.responses([job.id for job in jobs], batch.outputs)
        for job, response in zip(jobs, responses, strict=True):
            job.future.set_result((response, begun - job.arrived, batch.ended - begun))
        self._count_later(batch, time.perf_counter_ns(), [], 0)

    def _waits(self, job: Job, now: int) -> bool:
        """Whether a request still waits for a response that this path may give."""
        if job.future.done():
            inference.record_cancelled(self._head.ready, now - job.arrived)
            return False
        if job.deadline is not None and time.monotonic() > job.deadline:
            job.future.set_result(None)
            return False
        return True

    def _ran(self, raws: Sequence[Raw], arrived: Sequence[int], begun: int) -> inference.Execution | None:
        """The execution of the requests with these input bytes. None if it failed, or if the model flags or rejects a
        row: each request then runs again by itself, and reports its own failure or rows out of range."""
        feeds, guard = self._head.feeds(raws, len(arrived)), self._head.ready.model.range_guard
        if guard is not None and guard.outside(feeds).any():
            return None
        joined = time.perf_counter_ns()
        outputs = self._computed(feeds, len(arrived))
        if outputs is None:
            return None
        return inference.Execution(arrived, feeds, outputs, begun, joined, time.perf_counter_ns())

    def _computed(self, feeds: Mapping[str, Array], requests: int) -> list[Array] | None:
        """The outputs; None if the execution failed."""
        outputs = attempt(self._executor.execute, self._names, feeds)
        return outputs if isinstance(outputs, list) and self._head.expected(outputs, requests) else None

    def _count_later(self, batch: inference.Execution, delivered: int, calls: Sequence[NativeCall], size: int) -> None:
        """Count a batch in the next iteration of the loop, after the responses are sent."""
        self._uncounted += 1

        def count() -> None:
            self._uncounted -= 1
            self._count(batch, delivered, calls, size)

        asyncio.get_running_loop().call_soon(count)

    def _count(self, batch: inference.Execution, delivered: int, calls: Sequence[NativeCall], size: int) -> None:
        """Count a batch whose requests have their responses since `delivered`."""
        requests, ready = len(batch.arrived), self._head.ready
        timing = Timing(0, batch.joined - batch.begun, batch.ended - batch.joined, delivered - batch.ended)
        self._executor.ran(requests, requests * ready.rows, timing)
        seconds = inference.record_batch(ready, batch, delivered)
        if calls:
            self._account.succeeded(calls, size, seconds, self._head.facts)
