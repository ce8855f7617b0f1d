"""The runs of one model: what waits becomes batches (`scheduling`), which run on the loop or on a thread.

NOTE: A run that takes less than the hop to a thread and back is done on the event loop. Measured with
perf_analyzer, B = 1, two cores: 0.60 ms inline, 0.88 ms through the pool. `inline_rows` is measured at
load; above it the loop is never held.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kanserve.errors import DeadlineExceeded, QueueFull, QueueTimeout
from kanserve.nouns import Array
from kanserve.observe.metrics import ModelMetrics
from kanserve.observe.statistics import Timing
from kanserve.scheduling import merge
from kanserve.scheduling.policy import Policy
from kanserve.scheduling.queue import Queue, Waiting

STRING = 8  # a str takes so many pointers of an array, beside its characters; those are in the message

Execute = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a waiting request is no longer worth running, on the monotonic clock."""

    queue_timeout: float | None = None  # seconds
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Outputs in the order asked for, and nanoseconds spent waiting, computing, and taking apart what ran together."""

    outputs: list[Array]
    queue_ns: int
    infer_ns: int
    output_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One request while it waits or runs."""

    outputs: tuple[str, ...]
    feeds: Mapping[str, Array]
    rows: int
    submitted: int  # nanoseconds, of perf_counter
    future: asyncio.Future[Run]


@dataclass(frozen=True, slots=True)
class Done:
    """A batch that ran: its outputs or why not; when it began, was one input, and ended, in nanoseconds."""

    jobs: list[Job]
    outputs: list[Array] | Exception
    begun: int
    merged: int
    ended: int


class Executor:
    """Use from one event loop. `execute` runs the graph, from any thread; `inline_rows`: so many run on the
    loop; `workers`: runs at once, but for those of a batch that failed."""

    def __init__(
        self,
        name: str,
        execute: Execute,
        metrics: ModelMetrics,
        policy: Policy,
        *,
        max_queue: int,
        max_bytes: int,
        workers: int,
        inline_rows: int,
    ) -> None:
        self._execute, self._metrics = execute, metrics
        self._inline_rows, self._idle = inline_rows, workers
        self._full = max(1, min(policy.max_rows, inline_rows or policy.max_rows))
        self._max_queue = max_queue  # that wait or run
        self._queue: Queue[Job] = Queue(policy, max_bytes)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"infer-{name}")
        self._asked = False  # whether `_serve` will be called
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], rows: int, limits: Limits) -> Run:
        """Wait, and run. Raises QueueFull at once; QueueTimeout or DeadlineExceeded for a request that waited
        too long, which is then not run; Exhausted and BackendError."""
        statistics = self._metrics.statistics
        loop = asyncio.get_running_loop()
        job = Job(tuple(outputs), feeds, rows, time.perf_counter_ns(), loop.create_future())
        one = _waiting(job, limits)
        if statistics.pending >= self._max_queue or not self._queue.add(one):
            raise QueueFull
        statistics.pending += 1
        if self._queue.rows >= self._full:
            self._serve(loop)  # a burst does not fill the queue while the loop comes round
        else:
            self._ask(loop)
        try:
            return await job.future
        finally:
            if job.future.cancelled() and self._queue.remove(one):
                statistics.pending -= 1

    def close(self) -> None:
        """Let running work end, drop what waits, join the threads. Blocks."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at the queue when the loop comes round: what arrives until then runs together."""
        if not self._asked:
            self._asked = True
            loop.call_soon(self._serve, loop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asked = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._idle <= 0 or not len(self._queue):
            return
        taken = self._queue.take(time.monotonic())
        for one in taken.late:
            self._fail(one.ticket, DeadlineExceeded())
        for one in taken.impatient:
            self._fail(one.ticket, QueueTimeout())
        if taken.batch:
            self._begin([one.ticket for one in taken.batch], loop)
            self._ask(loop)
        elif taken.wake is not None:
            self._timer = loop.call_later(max(0.0, taken.wake - time.monotonic()), self._ask, loop)

    def _begin(self, jobs: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        if sum(job.rows for job in jobs) <= self._inline_rows:
            self._settle(self._compute(jobs))
            return
        self._idle -= 1

        def work() -> None:
            done = self._compute(jobs)
            loop.call_soon_threadsafe(self._finish, done, loop)

        self._pool.submit(work)

    def _finish(self, done: Done, loop: asyncio.AbstractEventLoop) -> None:
        self._idle += 1
        self._settle(done)
        self._ask(loop)

    def _compute(self, jobs: list[Job]) -> Done:
        """On any thread. Whatever is raised goes to the callers, who would wait for ever otherwise."""
        begun = merged = time.perf_counter_ns()
        try:
            feeds = merge.together([job.feeds for job in jobs])
            merged = time.perf_counter_ns()
            outputs: list[Array] | Exception = self._execute(jobs[0].outputs, feeds)
        except Exception as error:
            outputs = error
        return Done(jobs, outputs, begun, merged, time.perf_counter_ns())

    def _settle(self, done: Done) -> None:
        """Answer the callers of a batch; of one that failed, each runs by itself: one may have spoilt it for
        all, or all together were too much."""
        if isinstance(done.outputs, Exception):
            if len(done.jobs) == 1:
                self._fail(done.jobs[0], done.outputs)
                return
            for job in done.jobs:
                self._begin([job], job.future.get_loop())
            return
        rows = [job.rows for job in done.jobs]
        answers = merge.apart(done.outputs, rows)
        timing = Timing(0, done.merged - done.begun, done.ended - done.merged, time.perf_counter_ns() - done.ended)
        self._metrics.executed(sum(rows), timing)
        for job, outputs in zip(done.jobs, answers, strict=True):
            self._metrics.statistics.pending -= 1
            if not job.future.done():
                job.future.set_result(
                    Run(outputs, done.begun - job.submitted, done.ended - done.begun, timing.compute_output)
                )

    def _fail(self, job: Job, error: Exception) -> None:
        self._metrics.statistics.pending -= 1
        if not job.future.done():
            job.future.set_exception(error)


def _waiting(job: Job, limits: Limits) -> Waiting[Job]:
    arrived = time.monotonic()
    patience = None if limits.queue_timeout is None else arrived + limits.queue_timeout
    shapes = tuple((name, array.shape[1:]) for name, array in job.feeds.items())
    size = sum(array.nbytes * (STRING if array.dtype.hasobject else 1) for array in job.feeds.values())
    return Waiting(job, (job.outputs, shapes), job.rows, size, arrived, patience, limits.deadline)
