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
from typing import NamedTuple, Protocol

import numpy as np

from kanserve.errors import DeadlineExceeded
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
        cuts = [rows * at // self.pieces for at in range(self.pieces + 1)]
        self._left = deque(itertools.pairwise(cuts)) if self.pieces > 1 else None
        self._parts: dict[int, list[Array]] = {}
        self._merging = threading.Lock() if self.pieces > 1 else None
        self._whole: Mapping[str, Array] | None = None
        self.result: list[Array] = []
        self.error: Exception | None = None
        self.begun = self.merged = self.ended = 0

    def work(self) -> None:
        """Execute chunks; callable on any thread. The batch keeps every exception, because the requests would wait
        forever otherwise."""
        try:
            if self._left is None or self._merging is None:
                self._merge()
                self.result = self._execute(self._outputs, self._whole or {})
                self.ended = time.perf_counter_ns()
                return
            with self._merging:
                if self._whole is None:
                    self._merge()
            self._take(self._left, self._whole or {})
        except Exception as error:
            self.error = error

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


# Plain tuples, because each request makes one of both. A `FastResult` has the bytes of each output, and the
# nanoseconds of waiting and of computing. A job has the bytes of the inputs, the future that waits, its arrival in
# nanoseconds of perf_counter, and its deadline.
FastResult = tuple[list[bytes], int, int]
_Job = tuple[Sequence[bytes], "asyncio.Future[FastResult | None]", int, float | None]


class Engine(Protocol):
    """Interface of the executor that a fast path uses; see `Executor`."""

    @property
    def open(self) -> bool:
        """Whether a run may begin."""
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


LONGEST = 2_000_000  # nanoseconds that the first request of a run waits for others at most


class FastPath:
    """Fast path of one signature, for use from one event loop.

    most    rows of one execution
    rounds  iterations of the event loop without a new request until the waiting ones run
    """

    def __init__(self, engine: Engine, form: RequestSignature, most: int, rounds: int = 1) -> None:
        self._engine, self.form, self._most = engine, form, max(1, most // form.rows)
        self._rounds, self._left, self._seen, self._turning = rounds, 0, 0, False
        self._names = [name for name, _, _ in form.outputs]
        self._sizes = [size for _, _, size in form.outputs]
        self._jobs: list[_Job] = []

    def submit(self, raws: Sequence[bytes], deadline: float | None) -> asyncio.Future[FastResult | None] | None:
        """Submit the input bytes of one request. Returns None if the executor must handle the request. Otherwise
        returns a future; its result is None if the run failed, and then the executor must handle the request. The
        future may raise DeadlineExceeded."""
        if not self._engine.open:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[FastResult | None] = loop.create_future()
        self._jobs.append((raws, future, time.perf_counter_ns(), deadline))
        self._engine.pending(1)
        if len(self._jobs) >= self._most or self._engine.calm:
            self._run()
        elif not self._turning:
            self._turning, self._seen = True, 0
            loop.call_soon(self._turn, loop)
        return future

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle an iteration of the event loop: run the requests, or wait for more."""
        if len(self._jobs) > self._seen:
            self._seen, self._left = len(self._jobs), self._rounds
        self._left -= 1
        if self._left > 0 and self._jobs and time.perf_counter_ns() - self._jobs[0][2] < LONGEST:
            loop.call_soon(self._turn, loop)
            return
        self._turning = False
        self._run()

    def _run(self) -> None:
        """Run all waiting requests."""
        jobs, self._jobs = self._jobs, []
        self._engine.pending(-len(jobs))
        jobs = [job for job in jobs if not (job[1].done() or _late(job))]
        if not jobs:
            return
        begun = time.perf_counter_ns()
        batch = Batch(self._engine.execute, self._names, (self._joined(jobs),), len(jobs) * self.form.rows, 0)
        batch.work()
        if not self._as_expected(batch):
            for _, future, _, _ in jobs:
                future.set_result(None)
            return
        blobs = [array.tobytes() for array in batch.result]
        self._engine.ran(len(jobs), batch.rows, Timing(0, batch.begun - begun, batch.ended - batch.begun, 0))
        spent = batch.ended - begun
        for at, (_, future, submitted, _) in enumerate(jobs):
            parts = [blob[at * size : (at + 1) * size] for blob, size in zip(blobs, self._sizes, strict=True)]
            future.set_result((parts, begun - submitted, spent))

    def _joined(self, jobs: Sequence[_Job]) -> dict[str, Array]:
        """Inputs by name, with the rows of all requests in order."""
        rows = len(jobs) * self.form.rows
        return {
            name: np.frombuffer(b"".join([raws[at] for raws, _, _, _ in jobs]), dtype).reshape(rows, *row)
            for at, (name, dtype, row, _) in enumerate(self.form.inputs)
        }

    def _as_expected(self, batch: Batch) -> bool:
        return batch.error is None and all(
            array.shape == (batch.rows, *row)
            for array, (_, row, _) in zip(batch.result, self.form.outputs, strict=True)
        )


def _late(job: _Job) -> bool:
    _, future, _, deadline = job
    if deadline is None or time.monotonic() <= deadline:
        return False
    future.set_exception(DeadlineExceeded())
    return True
