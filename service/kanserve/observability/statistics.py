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

    def add(self, ns: int) -> None:
        """Count one occurrence."""
        self.count += 1
        self.ns += ns


class Timing(NamedTuple):
    """Duration of one execution in nanoseconds, by phase."""

    queue: int
    compute_input: int
    compute_infer: int
    compute_output: int


@dataclass(slots=True)
class BatchStatistics:
    """Durations of the executions with one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class Statistics:
    """Counters of one version since its load. They only grow, except `pending`."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    failures: dict[FailureReason, int] = field(default_factory=lambda: dict.fromkeys(FailureReason, 0))
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    inference_count: int = 0
    execution_count: int = 0
    last_inference: int = 0  # milliseconds since the epoch
    pending: int = 0
    load_seconds: float = 0.0
    batches: dict[int, BatchStatistics] = field(default_factory=dict)

    def executed(self, rows: int, timing: Timing) -> None:
        """Count one execution over `rows` rows, of one or several requests."""
        self.execution_count += 1
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchStatistics()
        batch.compute_input.add(timing.compute_input)
        batch.compute_infer.add(timing.compute_infer)
        batch.compute_output.add(timing.compute_output)

    def computed(self, rows: int, timing: Timing) -> None:
        """Count one request's part in an execution: as in Triton, with the time of the whole execution."""
        self.inference_count += rows
        queue, inputs, infer, output = timing
        self.queue.count += 1
        self.queue.ns += queue
        self.compute_input.count += 1
        self.compute_input.ns += inputs
        self.compute_infer.count += 1
        self.compute_infer.ns += infer
        self.compute_output.count += 1
        self.compute_output.ns += output

    def succeeded(self, ns: int, at_ms: int) -> None:
        """Count one successful request."""
        self.success.add(ns)
        self.last_inference = at_ms

    def answered(self, requests: int, rows: int, timing: Timing, ns: int, at_ms: int) -> None:
        """Count the successful requests of one execution, like `computed` and `succeeded` for each. `timing.queue` and
        `ns` are sums over the requests."""
        self.inference_count += rows
        self.success.count += requests
        self.success.ns += ns
        self.last_inference = at_ms
        queue, inputs, infer, output = timing
        self.queue.count += requests
        self.queue.ns += queue
        self.compute_input.count += requests
        self.compute_input.ns += inputs * requests
        self.compute_infer.count += requests
        self.compute_infer.ns += infer * requests
        self.compute_output.count += requests
        self.compute_output.ns += output * requests

    def failed(self, ns: int, reason: FailureReason) -> None:
        """Count one rejected or lost request."""
        self.fail.add(ns)
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
