"""Batches: several requests as one execution of a graph, and its outputs divided among their responses.

The queue costs more than an execution of a small graph. `FastPath` goes without it if there is no delay, no priority
and no waiting request, and if an execution is short enough for the event loop. It joins requests with the same inputs,
shapes and outputs by their bytes, and then divides the bytes of the outputs.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, ParamSpec, Protocol, TypeVar

import numpy as np

from kanserve.observability.statistics import Timing
from kanserve.types import Array

ALIGNED = 64  # bytes of the widest registers


def joined(feeds: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Inputs of all requests, concatenated along the rows; those of one request unchanged."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([request[name] for request in feeds]) for name in feeds[0]}


def select_rows(feeds: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    """Rows of every input, as views if they are aligned like the whole input, otherwise as copies. With an input at
    another alignment, the runtime sums in another order, and the last bits of a row may differ."""
    return {
        name: piece if array.strides[0] * start % ALIGNED == 0 else piece.copy()
        for name, array in feeds.items()
        for piece in (array[start:stop],)
    }


def split(outputs: Sequence[Array], rows: Sequence[int]) -> list[list[Array]]:
    """Rows of every output by request, as views."""
    if len(rows) == 1:
        return [list(outputs)]
    ends = np.cumsum(rows)
    return [[array[end - count : end] for array in outputs] for count, end in zip(rows, ends, strict=True)]


Execute = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]
T = TypeVar("T")
P = ParamSpec("P")


def attempt(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """The result of `work`, or any exception that it raises, because requests would wait forever otherwise."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        return error


class Batch:
    """Batch of requests that execute together.

    feeds  the inputs of each request
    piece  largest number of rows of one execution; 0: no division

    Chunks are about equal. No chunk has a single row, because a runtime sums a single row in another order.

    Several threads may call `work` at once: each takes the next chunk until none is left. When all have returned,
    `result` has every row of the outputs, or `error` has the fault. `begun`, `merged` (one input) and `ended` are in
    nanoseconds of perf_counter.
    """

    def __init__(
        self, execute: Execute, outputs: Sequence[str], feeds: Sequence[Mapping[str, Array]], rows: int, piece: int
    ) -> None:
        self._execute, self._outputs, self._feeds = execute, outputs, feeds
        self.rows = rows
        self.pieces = -(-rows // piece) if 0 < piece < rows else 1
        self._left: deque[tuple[int, int]] | None = None
        self._merging: threading.Lock | None = None
        if self.pieces > 1:
            cuts = [rows * at // self.pieces for at in range(self.pieces + 1)]
            self._left, self._merging = deque(itertools.pairwise(cuts)), threading.Lock()
        self._parts: dict[int, list[Array]] = {}
        self._whole: Mapping[str, Array] | None = None
        self.result: list[Array] = []
        self.error: Exception | None = None
        self.begun = self.merged = self.ended = 0

    def work(self) -> None:
        """Execute chunks; callable on any thread."""
        failure = attempt(self._work)
        if failure is not None:
            self.error = failure

    def _work(self) -> None:
        if self._left is None or self._merging is None:
            self._merge()
            self.result = self._execute(self._outputs, self._whole or {})
            self.ended = time.perf_counter_ns()
            return
        with self._merging:
            if self._whole is None:
                self._merge()
        self._take(self._left, self._whole or {})

    def _merge(self) -> None:
        self.begun = time.perf_counter_ns()
        self._whole = joined(self._feeds)
        self.merged = time.perf_counter_ns()

    def _take(self, left: deque[tuple[int, int]], whole: Mapping[str, Array]) -> None:
        """Run chunks until none is left or one has failed."""
        while self.error is None:
            try:
                start, stop = left.popleft()
            except IndexError:
                return
            self._parts[start] = self._execute(self._outputs, select_rows(whole, start, stop))
            if len(self._parts) == self.pieces:
                self.result = self._joined()
                self.ended = time.perf_counter_ns()

    def _joined(self) -> list[Array]:
        parts = [self._parts[start] for start in sorted(self._parts)]
        return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


class RequestSignature(NamedTuple):
    """Signature of the requests of a fast path.

    inputs   name, dtype, shape of one row, and bytes of one request
    outputs  name, shape of one row, and bytes of one request
    rows     rows of one request
    """

    inputs: tuple[tuple[str, np.dtype[np.generic], tuple[int, ...], int], ...]
    outputs: tuple[tuple[str, tuple[int, ...], int], ...]
    rows: int


# Plain tuples, because each request makes one of both. A `FastResult` has the bytes of the response, and the
# nanoseconds of waiting and of computing. A job has the bytes of the inputs, the request id, the future that waits,
# its arrival in nanoseconds of perf_counter, its deadline, and the bytes of a direct call (0: counted elsewhere).
FastResult = tuple[bytes, int, int]
FastJob = tuple[Sequence[bytes], bytes, "asyncio.Future[FastResult | None]", int, float | None, int]
RAWS: Final = 0
NAMED: Final = 1
FUTURE: Final = 2
ARRIVED: Final = 3
DEADLINE: Final = 4
SIZE: Final = 5


class FastBatch(NamedTuple):
    """Execution of a fast path. All times are nanoseconds of perf_counter.

    arrived   arrival of each request
    direct    arrival of each direct call among them, and `size`: the bytes of their messages
    feeds     inputs of all requests by name
    outputs   outputs of all requests
    begun     begin of the batch
    joined    time at which the inputs were joined
    ended     end of the execution
    answered  time at which all responses were encoded
    """

    arrived: Sequence[int]
    direct: Sequence[int]
    size: int
    feeds: Mapping[str, Array]
    outputs: Sequence[Array]
    begun: int
    joined: int
    ended: int
    answered: int


class Engine(Protocol):
    """Interface of the executor that a fast path uses; see `Executor`."""

    def room(self) -> int:
        """Number of requests that may wait for the next run; 0 if no run may begin."""
        ...

    @property
    def calm(self) -> bool:
        """Whether requests run unbatched, without a wait for others."""
        ...

    def pending(self, count: int) -> None:
        """Count requests that wait."""
        ...

    def execute(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run the graph."""
        ...

    def ran(self, requests: int, rows: int, timing: Timing) -> None:
        """Record an execution."""
        ...


class Recipient(Protocol):
    """Owner of the requests of a fast path, which encodes their responses and counts them per batch."""

    def responses(self, jobs: Sequence[FastJob], outputs: Sequence[bytes]) -> list[bytes]:
        """The response to each request, from the bytes of each output for all of them."""
        ...

    def answered(self, batch: FastBatch) -> None:
        """Count the requests of a batch."""
        ...

    def abandoned(self, waited: int, size: int, named: bytes, deadline: float | None) -> None:
        """Count a request whose client has disconnected after `waited` nanoseconds. `size`: as in a job."""
        ...

    def room(self) -> int:
        """Number of direct calls that may begin now."""
        ...

    def began(self, calls: int, size: int) -> None:
        """Count direct calls in progress, and the bytes of their messages."""
        ...

    def moved(self, calls: int, size: int) -> None:
        """Count direct calls no longer, because the executor will handle their requests."""
        ...


Taken = tuple[list[object], bytes, list[int], int, list[tuple[int, int, bytes]]]


class NativeQueue(Protocol):
    """Queue of direct calls in the module `kanserve_kernel.calls`; see kernel/src/calls.cpp."""

    def take(self) -> Taken:
        """The waiting calls, the bytes of their inputs, their arrivals, and the bytes of their messages. Last the calls
        whose clients have disconnected: arrival, bytes of the message, id."""
        ...

    def deliver(self, batch: list[object], outputs: bytes, /) -> None:
        """Encode the response of each call with its part of `outputs`."""
        ...

    def wake(self, batch: list[object], now: bool, /) -> None:
        """Send the response of each call: immediately, or in the next iteration of the loop. The regular path handles
        a call without a response."""
        ...


LONGEST = 2_000_000  # nanoseconds that the first request of a run waits for others at most


class FastPath:
    """Fast path of one signature, for use from one event loop.

    recipient  encodes the responses, and counts the requests
    most       rows of one execution
    rounds     iterations of the event loop without a new request until the waiting ones run
    """

    def __init__(
        self, engine: Engine, form: RequestSignature, recipient: Recipient, most: int, rounds: int = 1
    ) -> None:
        self._engine, self.form, self._recipient = engine, form, recipient
        self._most = max(1, most // form.rows)
        self._rounds, self._left, self._seen, self._turning = rounds, 0, 0, False
        self._names = [name for name, _, _ in form.outputs]
        self._jobs: list[FastJob] = []
        self._room = 0  # of the next run
        self._uncounted = 0  # batches of this iteration of the loop
        self.native: NativeQueue | None = None
        self._native_waits = False  # whether calls wait in it

    def open_native(self) -> int:
        """Begin a batch of the native queue. Returns its room, which is negative if each call runs at once."""
        room = min(self._engine.room(), self._recipient.room(), self._most)
        if room <= 0:
            return 0
        self._native_waits = True
        if self._alone():
            return -1
        self._schedule(asyncio.get_running_loop())
        return room

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._turning:
            self._turning, self._seen = True, 0
            loop.call_soon(self._turn, loop)

    def submit(
        self, raws: Sequence[bytes], named: bytes, deadline: float | None, size: int = 0
    ) -> asyncio.Future[FastResult | None] | None:
        """Submit the input bytes of one request. Returns None if the executor must handle the request. Otherwise
        returns a future; its result is None if the run failed or the deadline has passed, and then the executor must
        handle the request. `size`: bytes of a direct call, which the recipient counts."""
        jobs = self._jobs
        if not jobs:
            self._room = self._engine.room()
        if len(jobs) >= self._room:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[FastResult | None] = loop.create_future()
        jobs.append((raws, named, future, time.perf_counter_ns(), deadline, size))
        self._engine.pending(1)
        if len(jobs) >= self._most:
            self._run()
        elif not self._turning:
            if self._alone():
                self._run()
            else:
                self._schedule(loop)
        return future

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle an iteration of the event loop: run the requests, or wait for more."""
        if len(self._jobs) > self._seen:
            self._seen, self._left = len(self._jobs), self._rounds
        self._left -= 1
        if self._left > 0 and self._jobs and time.perf_counter_ns() - self._jobs[0][ARRIVED] < LONGEST:
            loop.call_soon(self._turn, loop)
            return
        self._turning = False
        if self._native_waits:
            self.run_native(now=True)
        self._run()

    def run_native(self, *, now: bool = False) -> None:
        """Run the direct calls that wait in the native queue. `now`: no task is running, so that each call goes on
        immediately."""
        queue, begun = self.native, time.perf_counter_ns()
        assert queue is not None
        self._native_waits = False
        batch, inputs, arrived, size, abandoned = queue.take()
        for at, message_bytes, named in abandoned:
            self._recipient.began(1, message_bytes)
            self._recipient.abandoned(begun - at, message_bytes, named, None)
        if not batch:
            return
        done: FastBatch | None = None
        try:
            done = self._delivered(queue, batch, inputs, arrived, size, begun)
        finally:
            queue.wake(batch, now)
        if done is not None and now:
            self._answered(done)
        elif done is not None:
            self._answer_later(done)

    def _delivered(
        self, queue: NativeQueue, batch: list[object], inputs: bytes, arrived: list[int], size: int, begun: int
    ) -> FastBatch | None:
        """The execution of direct calls, after the queue has their responses; None if it failed."""
        (name, dtype, row, _), *_ = self.form.inputs
        rows = len(batch) * self.form.rows
        feeds = {name: np.frombuffer(inputs, dtype).reshape(rows, *row)}
        joined = time.perf_counter_ns()
        outputs, ended = self._computed(feeds, rows)
        if not outputs:
            return None
        queue.deliver(batch, outputs[0].tobytes())
        self._recipient.began(len(batch), size)
        return FastBatch(arrived, arrived, size, feeds, outputs, begun, joined, ended, time.perf_counter_ns())

    def _run(self) -> None:
        """Run all waiting requests."""
        if not self._jobs:
            return
        begun = time.perf_counter_ns()
        waiting, self._jobs = self._jobs, []
        self._engine.pending(-len(waiting))
        jobs = self._present(waiting, begun)
        if jobs:
            self._execute(jobs, begun)

    def _execute(self, jobs: Sequence[FastJob], begun: int) -> None:
        """Run these requests, and give each its response."""
        rows = len(jobs) * self.form.rows
        feeds = self._joined(jobs, rows)
        joined = time.perf_counter_ns()
        outputs, ended = self._computed(feeds, rows)
        if not outputs:
            for job in jobs:
                self._move(job)
            return
        responses = self._recipient.responses(jobs, [array.tobytes() for array in outputs])
        spent = ended - begun
        for job, response in zip(jobs, responses, strict=True):
            job[FUTURE].set_result((response, begun - job[ARRIVED], spent))
        answered, arrived, direct, size = time.perf_counter_ns(), [], [], 0
        for job in jobs:
            arrived.append(job[ARRIVED])
            if job[SIZE]:
                direct.append(job[ARRIVED])
                size += job[SIZE]
        self._answer_later(FastBatch(arrived, direct, size, feeds, outputs, begun, joined, ended, answered))

    def _computed(self, feeds: Mapping[str, Array], rows: int) -> tuple[list[Array], int]:
        """The outputs, and the end of the execution. No outputs if it failed: each request then runs again by itself,
        and reports its own failure."""
        outputs = attempt(self._engine.execute, self._names, feeds)
        ended = time.perf_counter_ns()
        if isinstance(outputs, Exception) or not self._as_expected(outputs, rows):
            return [], ended
        return outputs, ended

    def _alone(self) -> bool:
        """Whether a request runs immediately: recent ones were unbatched, and none ran in this iteration of the
        loop."""
        return self._engine.calm and not self._uncounted

    def _answer_later(self, batch: FastBatch) -> None:
        """Count a batch in the next iteration of the loop, after the responses are sent."""
        self._uncounted += 1
        asyncio.get_running_loop().call_soon(self._count, batch)

    def _count(self, batch: FastBatch) -> None:
        self._uncounted -= 1
        self._answered(batch)

    def _answered(self, batch: FastBatch) -> None:
        """Count a batch whose requests have their responses."""
        requests = len(batch.arrived)
        timing = Timing(0, batch.joined - batch.begun, batch.ended - batch.joined, batch.answered - batch.ended)
        self._engine.ran(requests, requests * self.form.rows, timing)
        self._recipient.answered(batch)

    def _present(self, jobs: Sequence[FastJob], now: int) -> Sequence[FastJob]:
        """Requests that still wait: without those that were cancelled and those whose deadline has passed."""
        for job in jobs:
            if job[DEADLINE] is not None or job[FUTURE].done():
                return [job for job in jobs if self._waits(job, now)]
        return jobs

    def _waits(self, job: FastJob, now: int) -> bool:
        """Whether a request still waits for a response that the fast path may give."""
        if job[FUTURE].done():
            self._recipient.abandoned(now - job[ARRIVED], job[SIZE], job[NAMED], job[DEADLINE])
            return False
        if job[DEADLINE] is not None and time.monotonic() > job[DEADLINE]:
            self._move(job)
            return False
        return True

    def _move(self, job: FastJob) -> None:
        """Leave a request to the executor."""
        if job[SIZE]:
            self._recipient.moved(1, job[SIZE])
        job[FUTURE].set_result(None)

    def _joined(self, jobs: Sequence[FastJob], rows: int) -> dict[str, Array]:
        """Inputs by name, with the rows of all requests in order."""
        feeds = {}
        for at, (name, dtype, row, _) in enumerate(self.form.inputs):
            data = jobs[0][RAWS][at] if len(jobs) == 1 else b"".join([job[RAWS][at] for job in jobs])
            feeds[name] = np.frombuffer(data, dtype).reshape(rows, *row)
        return feeds

    def _as_expected(self, outputs: Sequence[Array], rows: int) -> bool:
        if len(outputs) != len(self.form.outputs):
            return False
        for array, (_, row, _) in zip(outputs, self.form.outputs, strict=True):  # noqa: SIM110 - a generator takes three times as long
            if array.shape != (rows, *row):
                return False
        return True
