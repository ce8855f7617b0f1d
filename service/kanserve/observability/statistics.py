"""Counters of one model version, which ModelStatistics and `nv_inference_*` report.

Both have the same source, so they cannot disagree. Only the event loop writes. The metrics thread reads single
integers, whose reads and writes are atomic in Python.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple


class FailureReason(enum.StrEnum):
    """Failure reason, as in Triton's label `reason`."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


@dataclass(slots=True)
class Duration:
    """Number of occurrences, and their total duration in nanoseconds."""

    count: int = 0
    ns: int = 0


class Timing(NamedTuple):
    """Duration of one execution in nanoseconds, by phase."""

    queue: int
    compute_input: int
    compute_infer: int
    compute_output: int


@dataclass(slots=True)
class Computation:
    """Durations of executions by phase."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def add(self, times: int, timing: Timing) -> None:
        """Count an execution some times."""
        _, inputs, infer, output = timing
        self.compute_input.count += times
        self.compute_input.ns += inputs * times
        self.compute_infer.count += times
        self.compute_infer.ns += infer * times
        self.compute_output.count += times
        self.compute_output.ns += output * times


@dataclass(slots=True)
class Statistics(Computation):
    """Counters of one version since its load. They only grow, except `pending`."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    failures: dict[FailureReason, int] = field(default_factory=lambda: dict.fromkeys(FailureReason, 0))
    queue: Duration = field(default_factory=Duration)
    inference_count: int = 0
    execution_count: int = 0
    last_inference: int = 0  # milliseconds since the epoch
    pending: int = 0
    load_seconds: float = 0.0
    batches: dict[int, Computation] = field(default_factory=dict)

    def executed(self, rows: int, timing: Timing) -> None:
        """Count one execution over `rows` rows, of one or several requests."""
        self.execution_count += 1
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = Computation()
        batch.add(1, timing)

    def computed(self, requests: int, rows: int, timing: Timing) -> None:
        """Count the part of some requests in one execution: as in Triton, each with the time of the whole execution.
        `timing.queue` is the sum over the requests."""
        self.inference_count += rows
        self.queue.count += requests
        self.queue.ns += timing.queue
        self.add(requests, timing)

    def succeeded(self, requests: int, ns: int, at_ms: int) -> None:
        """Count some successful requests. `ns`: sum of their durations."""
        self.success.count += requests
        self.success.ns += ns
        self.last_inference = at_ms

    def failed(self, ns: int, reason: FailureReason) -> None:
        """Count one rejected or lost request."""
        self.fail.count += 1
        self.fail.ns += ns
        self.failures[reason] += 1


@dataclass(frozen=True, slots=True)
class Run:
    """Part of one request in an execution. `ended`: nanoseconds since 1970."""

    rows: int
    timing: Timing
    ended: int


@dataclass(slots=True)
class Trace:
    """Trace of one call. `id` is hexadecimal."""

    id: str
    runs: list[Run] = field(default_factory=list)


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)
