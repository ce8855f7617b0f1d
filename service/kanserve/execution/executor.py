"""Executor of one model, which forms batches of waiting requests (`scheduling`) and runs them on the event loop or on
threads.

NOTE: An execution that takes less time than the hop to a thread and back runs on the event loop. Measured with
perf_analyzer, B = 1, two cores: 0.60 ms inline, 0.88 ms through the pool. `inline_rows` is measured at load; larger
batches never block the loop.
"""

from __future__ import annotations

import asyncio
import functools
import math
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from kanserve.errors import DeadlineExceeded, QueueFull, QueueTimeout
from kanserve.execution.config import Serving
from kanserve.observability.metrics import ModelMetrics
from kanserve.observability.statistics import Timing
from kanserve.scheduling import batching
from kanserve.scheduling.batching import Batch, Execute
from kanserve.scheduling.queue import PriorityLevel, Queue, Waiting, share
from kanserve.system.resources import WatchedPool
from kanserve.types import Array

CALM, PROBE = 8, 16  # batches of one request until requests run immediately; one of PROBE waits for others
MARGIN = 0.75  # part of the remaining time in which a request should end, at the current service time
STRING = 8  # pointers of an array per str, in addition to its characters, which are in the message


class Limits(NamedTuple):
    """Time limits and priority of a waiting request."""

    queue_timeout: float | None = None  # seconds
    deadline: float | None = None
    priority: int = 0  # 1 is the highest; 0: the model's default


class Run(NamedTuple):
    """Result of one request: outputs in the requested order, and nanoseconds of each phase."""

    outputs: list[Array]
    queue_ns: int
    infer_ns: int
    output_ns: int


@dataclass(slots=True, eq=False)  # frozen ones take four times as long to make, and each request makes one
class Job:
    """Request while it waits or runs."""

    outputs: tuple[str, ...]
    feeds: Mapping[str, Array]
    rows: int
    submitted: int  # nanoseconds, of perf_counter
    future: asyncio.Future[Run]


class Executor:
    """Executor of one model, for use from one event loop.

    execute    runs the graph, from any thread; raises BackendError, ResourceExhausted
    max_bytes  bytes of the inputs that wait
    """

    def __init__(
        self,
        name: str,
        execute: Execute,
        metrics: ModelMetrics,
        serving: Serving,
        max_bytes: int,
    ) -> None:
        self.execute, self._metrics = execute, metrics
        self._policy, self._plan, self._max_pending_requests = (
            serving.policy,
            serving.plan,
            serving.max_pending_requests,
        )
        policy, plan = serving.policy, serving.plan
        self.rounds = serving.rounds  # iterations of the event loop without a new request until the waiting ones run
        self._idle = plan.instances  # negative while the requests of a batch that failed run one by one
        self._full = max(1, min(policy.max_rows, plan.inline_rows or policy.max_rows))
        self._queue: Queue[Job] = Queue(policy, max_bytes)
        self._order: InOrder[Job] | None = InOrder() if policy.ordered else None
        self._pace = ServiceTimeEstimate()
        self._running = 0  # rows, on threads
        self._pool = WatchedPool(plan.instances, f"infer-{name}", serving.nice)
        self._scheduled = False  # whether `_serve` will be called
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._leaving = False
        self._calm = 0  # batches of one request in a row
        self._direct = 0  # rows that may run at once
        if policy.free and not policy.ordered:
            self._direct = min(plan.inline_rows, plan.piece_rows or plan.inline_rows)
        self.most_inline = min(self._direct, policy.max_rows)  # rows of one run that `inline` allows

    async def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], rows: int, limits: Limits) -> Run:
        """Wait, and run. Raises QueueFull immediately, also if the deadline would pass before the execution. Raises
        QueueTimeout or DeadlineExceeded for a request that waited too long, which is then not executed. Raises
        ResourceExhausted and BackendError."""
        statistics = self._metrics.statistics
        loop = asyncio.get_running_loop()
        job = Job(tuple(outputs), feeds, rows, time.perf_counter_ns(), loop.create_future())
        if self._alone(rows, limits.deadline):
            statistics.pending += 1
            self._begin([job], loop)  # on the event loop: the future is done
            return job.future.result()
        if self._hopeless(rows, limits.deadline):
            raise QueueFull
        entry = self._waiting(job, limits)
        if 0 < self._max_pending_requests <= statistics.pending or not self._queue.add(entry):
            raise QueueFull
        statistics.pending += 1
        if self._order is not None:
            self._order.expect(job)
        if self._idle > 0 and self._queue.rows >= self._full:
            self._serve(loop)  # a burst does not fill the queue until the next iteration of the loop
        else:
            self._schedule(loop)
        try:
            return await job.future
        finally:
            if job.future.cancelled() and self._queue.remove(entry):
                self._end(job, _nothing)

    def _waiting(self, job: Job, limits: Limits) -> Waiting[Job]:
        arrived, level = time.monotonic(), self._policy.level(limits.priority)
        queue_deadline = self._policy.levels[level].queue_deadline(arrived, limits.queue_timeout)
        shapes = tuple((name, array.shape[1:]) for name, array in job.feeds.items())
        size = sum(array.nbytes * (STRING if array.dtype.hasobject else 1) for array in job.feeds.values())
        return Waiting(job, (job.outputs, shapes), job.rows, size, arrived, queue_deadline, limits.deadline, level)

    def inline(self, rows: int) -> bool:
        """Whether requests of this number of rows may run on the event loop without the queue; `grpc_api.hot_path` runs
        them, and uses the next methods."""
        return rows <= self._direct and self._policy.levels == (PriorityLevel(),)

    def room(self) -> int:
        """Requests that may run without the queue now; 0 if a request waits in the queue, or no instance is idle."""
        if self._queue.count or self._idle <= 0:
            return 0
        most = self._max_pending_requests
        return most - self._metrics.statistics.pending if most > 0 else sys.maxsize

    @property
    def calm(self) -> bool:
        """Whether recent requests were unbatched, so that requests run immediately. One of `PROBE` requests waits for
        the next iteration of the loop nevertheless, to detect others."""
        return self._calm >= CALM and self._calm % PROBE > 0

    def pending(self, count: int) -> None:
        """Count requests that wait outside of the queue."""
        self._metrics.statistics.pending += count

    def ran(self, requests: int, rows: int, timing: Timing) -> None:
        """Record an execution outside of the queue."""
        self._calm = self._calm + 1 if requests == 1 else 0
        self._record(rows, timing, timing.compute_infer)

    def _record(self, rows: int, timing: Timing, instance_ns: int) -> None:
        """Count an execution, and the nanoseconds that it took in all instances."""
        self._metrics.executed(rows, timing)
        self._pace.ran(rows, instance_ns / 1e9)

    def _alone(self, rows: int, deadline: float | None) -> bool:
        """Whether a request runs immediately, unbatched."""
        if not self.calm or rows > self._direct or self._queue.count or self._idle <= 0:
            return False
        return deadline is None or time.monotonic() <= deadline

    def _hopeless(self, rows: int, deadline: float | None) -> bool:
        """Whether the deadline will pass before the waiting requests have run. A request whose client gives up would
        delay the requests behind it."""
        if deadline is None or (self._idle > 0 and not self._queue.count):
            return False
        ahead = self._queue.rows + self._running + rows
        return self._pace.seconds(ahead, self._plan.instances) > MARGIN * (deadline - time.monotonic())

    def leave(self) -> None:
        """Accept no new requests. The executor is free when the current ones have ended."""
        self._leaving = True
        self._wake(self._queue.soonest if self._queue.count else math.inf, time.monotonic(), asyncio.get_running_loop())

    def close(self) -> None:
        """Wait for running work, drop waiting work, and join the threads. Blocks."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve the queue in the next iteration of the loop. Requests that arrive until then run together."""
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._serve, loop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        now = time.monotonic()
        if now > self._queue.soonest:
            over = self._queue.expire(now)
            for entry in over.late:
                self._fail(entry.ticket, DeadlineExceeded())
            for entry in over.timed_out:
                self._fail(entry.ticket, QueueTimeout())
        wake = None
        if self._idle > 0 and self._queue.count:
            batch, wake = self._queue.take(now, self._most())
            if batch:
                self._begin([entry.ticket for entry in batch], loop)
                if self._queue.count:
                    self._schedule(loop)
                    return
        self._wake(min(self._queue.soonest, math.inf if wake is None else wake), now, loop)

    def _wake(self, at: float, now: float, loop: asyncio.AbstractEventLoop) -> None:
        """Serve the queue again at this time, or before."""
        if self._timer is not None and (at >= self._timer_at > now) and not (self._leaving and at == math.inf):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            self._timer_at = at
            self._timer = loop.call_later(max(0.0, at - now) + 1e-6, self._schedule, loop)

    def _most(self) -> int | None:
        """Most rows of the next batch, if the policy has no sizes: at most one chunk, and at most the share of the
        waiting rows per idle instance. None: no limit."""
        plan = self._plan
        if not self._policy.free or self._queue.rows <= plan.inline_rows:
            return None
        part = share(self._queue.rows, self._idle, plan.inline_rows + 1)
        return min(part, plan.piece_rows) if plan.piece_rows else part

    def _begin(self, jobs: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        rows = sum(job.rows for job in jobs)
        self._calm = self._calm + 1 if len(jobs) == 1 else 0
        plan = self._plan
        batch = Batch(self.execute, jobs[0].outputs, [job.feeds for job in jobs], rows, plan.piece_rows)
        if rows <= plan.inline_rows:
            batch.work()
            self._settle(batch, jobs, loop, 1)
            return
        left = threads = max(1, min(self._idle, batch.pieces))
        self._idle -= threads
        self._running += rows

        def work() -> None:
            batch.work()
            loop.call_soon_threadsafe(back)

        def back() -> None:
            nonlocal left
            left -= 1
            self._idle += 1
            if not left:
                self._running -= rows
                self._settle(batch, jobs, loop, threads)
            self._schedule(loop)

        for _ in range(threads):
            self._pool.submit(work)

    def _settle(self, batch: Batch, jobs: list[Job], loop: asyncio.AbstractEventLoop, threads: int) -> None:
        """Return the results of a batch to its requests. If the batch failed, each request runs again by itself: one
        request may have caused the failure, or all of them together took too much memory."""
        if batch.error is not None:
            if len(jobs) == 1:
                self._fail(jobs[0], batch.error)
                return
            for job in jobs:
                if job.future.done():
                    self._end(job, _nothing)
                else:
                    self._begin([job], loop)
            return
        results = batching.split(batch.result, [job.rows for job in jobs])
        output_ns = time.perf_counter_ns() - batch.ended
        timing = Timing(0, batch.merged - batch.begun, batch.ended - batch.merged, output_ns)
        self._record(batch.rows, timing, threads * (batch.ended - batch.begun))
        for job, outputs in zip(jobs, results, strict=True):
            run = Run(outputs, batch.begun - job.submitted, batch.ended - batch.begun, output_ns)
            if self._order is not None:
                self._end(job, functools.partial(_deliver, job.future, run))
                continue
            self._metrics.statistics.pending -= 1
            _deliver(job.future, run)

    def _fail(self, job: Job, error: Exception) -> None:
        self._end(job, lambda: None if job.future.done() else job.future.set_exception(error))

    def _end(self, job: Job, deliver: Callable[[], None]) -> None:
        """End a request that does not wait or run any longer."""
        self._metrics.statistics.pending -= 1
        if self._order is None:
            deliver()
        else:
            self._order.ready(job, deliver)


def _nothing() -> None:
    """Deliver nothing to a client that has disconnected."""


def _deliver(future: asyncio.Future[Run], run: Run) -> None:
    if not future.done():
        future.set_result(run)


T = TypeVar("T", bound=Hashable)
Deliver = Callable[[], None]


class InOrder(Generic[T]):
    """Buffer that delivers results in the order of their requests."""

    def __init__(self) -> None:
        self._line: dict[T, Deliver | None] = {}  # a dict keeps the order

    def expect(self, ticket: T) -> None:
        """Register a request that has arrived."""
        self._line[ticket] = None

    def ready(self, ticket: T, deliver: Deliver) -> None:
        """Register the result of a ticket. `deliver` is called after the results of all earlier tickets."""
        self._line[ticket] = deliver
        while self._line:
            first = next(iter(self._line))
            action = self._line[first]
            if action is None:
                return
            del self._line[first]
            action()


SHARE = 0.1  # of the newest run in the average


class ServiceTimeEstimate:
    """Moving average of the seconds that one row takes on one instance; unknown before the first execution."""

    def __init__(self) -> None:
        self._row: float | None = None

    def ran(self, rows: int, seconds: float) -> None:
        """Record the time of an execution on one instance."""
        row = seconds / max(1, rows)
        self._row = row if self._row is None else self._row + SHARE * (row - self._row)

    def seconds(self, rows: int, instances: int) -> float:
        """Seconds for `rows` rows that the instances share."""
        return 0.0 if self._row is None else self._row * rows / max(1, instances)
