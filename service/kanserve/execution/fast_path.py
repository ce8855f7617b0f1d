"""Fast path for requests of one form, whose bytes are joined into one execution.

The queue costs more than an execution of a small graph. The fast path applies if there is no delay, no priority and no
waiting request, and if an execution is short enough for the event loop. It joins requests with the same inputs, shapes
and outputs by their bytes, and then divides the bytes of the outputs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from kanserve.errors import DeadlineExceeded
from kanserve.observability.statistics import Timing
from kanserve.scheduling.batching import Batch
from kanserve.types import Array


class RequestSignature(NamedTuple):
    """Signature of the requests of a fast path.

    inputs   name, dtype, shape of one row, and bytes of one request
    outputs  name, shape of one row, and bytes of one request
    rows     rows of one request
    """

    inputs: tuple[tuple[str, np.dtype[np.generic], tuple[int, ...], int], ...]
    outputs: tuple[tuple[str, tuple[int, ...], int], ...]
    rows: int


# Plain tuples, because each request makes one of both. An answer has the bytes of each output, and the nanoseconds
# of waiting and of computing. A job has the inputs' bytes, the future that waits, its arrival in nanoseconds of
# perf_counter, and its deadline.
Answer = tuple[list[bytes], int, int]
_Job = tuple[Sequence[bytes], "asyncio.Future[Answer | None]", int, float | None]


class Engine(Protocol):
    """Interface of the executor that a fast path uses; see `Executor`."""

    @property
    def open(self) -> bool:
        """Whether a run may begin."""
        ...

    @property
    def calm(self) -> bool:
        """Whether requests are not to wait for company."""
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


LONGEST = 2_000_000  # nanoseconds that the first of a run waits for others at most


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

    def submit(self, raws: Sequence[bytes], deadline: float | None) -> asyncio.Future[Answer | None] | None:
        """The inputs' bytes of one request. None where something is to be decided first, or in its place a future,
        which gives None where the run failed: the request is then to be run by itself. Raises DeadlineExceeded
        through the future."""
        if not self._engine.open:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer | None] = loop.create_future()
        self._jobs.append((raws, future, time.perf_counter_ns(), deadline))
        self._engine.pending(1)
        if len(self._jobs) >= self._most or self._engine.calm:
            self._run()
        elif not self._turning:
            self._turning, self._seen = True, 0
            loop.call_soon(self._turn, loop)
        return future

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop has come round."""
        if len(self._jobs) > self._seen:
            self._seen, self._left = len(self._jobs), self._rounds
        self._left -= 1
        if self._left > 0 and self._jobs and time.perf_counter_ns() - self._jobs[0][2] < LONGEST:
            loop.call_soon(self._turn, loop)
            return
        self._turning = False
        self._run()

    def _run(self) -> None:
        """All that came until now."""
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
