"""What the metrics' page says of versions and calls, as numbers; and what happened between two times it was read.

Read from the text, so that there is one source for Prometheus and for people, also where the page is that of several
processes. Quantiles are those of Prometheus' `histogram_quantile`: linear within a bucket.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Key = tuple[str, str]  # a model and its version
Buckets = tuple[tuple[float, float], ...]  # upper bounds, ascending, and how many values are in each alone

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SPREADS = {
    "kanserve_request_duration_seconds_bucket": "request",
    "kanserve_queue_duration_seconds_bucket": "queue",
    "kanserve_inference_duration_seconds_bucket": "inference",
    "kanserve_batch_rows_bucket": "batch",
}
NUMBERS = {
    "nv_inference_request_success": "requests",
    "nv_inference_count": "rows",
    "nv_inference_exec_count": "runs",
    "nv_inference_queue_duration_us": "queue",
    "nv_inference_compute_input_duration_us": "input",
    "nv_inference_compute_infer_duration_us": "infer",
    "nv_inference_compute_output_duration_us": "output",
    "nv_inference_pending_request_count": "pending",
    "kanserve_model_loads_total": "loads",
    "kanserve_model_load_duration_seconds": "load_seconds",
    "kanserve_rows_outside_total": "rows_outside",
    "kanserve_shadow_rows_total": "shadow_rows",
    "kanserve_shadow_rows_beyond_total": "shadow_beyond",
    "kanserve_shadow_dropped_total": "shadow_dropped",
    "kanserve_shadow_failed_total": "shadow_failed",
    "kanserve_shadow_largest_difference": "shadow_largest",
}
SERVER = {
    "kanserve_inflight_requests": "inflight",
    "kanserve_workers": "workers",
    "kanserve_worker_ends_total": "worker_ends",
    "process_start_time_seconds": "started",
    "process_resident_memory_bytes": "memory_bytes",
    "process_cpu_seconds_total": "cpu_seconds",
}
DRIFT = "kanserve_drift_ratio"  # per layer; the largest counts for a version
FAILURES, BUILD = "nv_inference_request_failure", "kanserve_build_info"
GRPC, HTTP = "grpc_server_handled_total", "http_requests_total"
PHASES = ("queue", "input", "infer", "output")
LEVELS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Figures:
    """A page, read `at` a time in seconds since the epoch: `numbers` and `spreads` of versions by what they are,
    `failures` by reason, `calls` by method and code."""

    at: float
    numbers: Mapping[Key, Mapping[str, float]]
    spreads: Mapping[Key, Mapping[str, Buckets]]
    failures: Mapping[Key, Mapping[str, float]]
    calls: Mapping[tuple[str, str], float]
    server: Mapping[str, float]
    build: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Span:
    """What a version did in `seconds`. `quantiles` of a request's seconds by name, None where none was answered;
    `phases`: seconds of a request, on average; `batches`: runs by their number of rows, up to each bound."""

    seconds: float
    requests: float
    rows: float
    runs: float
    failures: Mapping[str, float]
    quantiles: Mapping[str, float | None]
    phases: Mapping[str, float]
    batches: Buckets


@dataclass(slots=True)
class _Reading:
    numbers: dict[Key, dict[str, float]] = field(default_factory=dict)
    buckets: dict[Key, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    failures: dict[Key, dict[str, float]] = field(default_factory=dict)
    calls: dict[tuple[str, str], float] = field(default_factory=dict)
    server: dict[str, float] = field(default_factory=dict)
    build: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """A sample."""
        key = labels.get("model", ""), labels.get("version", "")
        if name in NUMBERS:
            self.numbers.setdefault(key, {})[NUMBERS[name]] = value
        elif name == DRIFT:
            numbers = self.numbers.setdefault(key, {})
            numbers["drift"] = max(value, numbers.get("drift", 0.0))
        elif name in SPREADS:
            own = self.buckets.setdefault(key, {})
            own.setdefault(SPREADS[name], []).append((float(labels["le"]), value))
        elif name == FAILURES:
            self.failures.setdefault(key, {})[labels["reason"]] = value
        elif name in SERVER:
            self.server[SERVER[name]] = value
        elif name == BUILD:
            self.build.update(labels)
        elif value:
            self.calls[_called(name, labels)] = value


def _called(name: str, labels: Mapping[str, str]) -> tuple[str, str]:
    if name == GRPC:
        return f"{labels['grpc_service']}/{labels['grpc_method']}", labels["grpc_code"]
    return f"{labels['method']} {labels['handler']}", labels["status"]


KNOWN = frozenset({*NUMBERS, *SPREADS, *SERVER, DRIFT, FAILURES, BUILD, GRPC, HTTP})
LINES = re.compile(rf"^({'|'.join(sorted(KNOWN))})(?:{{(.*)}})? (\S+)$", re.MULTILINE)


def read(text: str, at: float) -> Figures:
    """A page as our own server writes it."""
    found = _Reading()
    for name, labels, value in LINES.findall(text):
        found.take(name, {key: _plain(word) for key, word in LABEL.findall(labels)}, float(value))
    spreads = {key: {what: _alone(buckets) for what, buckets in own.items()} for key, own in found.buckets.items()}
    return Figures(at, found.numbers, spreads, found.failures, found.calls, found.server, found.build)


def _plain(value: str) -> str:
    return value.replace(r"\"", '"').replace(r"\n", "\n").replace(r"\\", "\\") if "\\" in value else value


def _alone(cumulated: Sequence[tuple[float, float]]) -> Buckets:
    """Of each bucket those that are in no lower one."""
    ordered = sorted(cumulated)
    below = (0.0, *(count for _, count in ordered))
    return tuple((bound, count - less) for (bound, count), less in zip(ordered, below, strict=False))


NONE: Mapping[str, float] = {}


def span(key: Key, now: Figures, before: Figures | None) -> Span:
    """What a version did between two readings; None: since it counts."""
    own, since = now.numbers.get(key, NONE), before
    if since is not None and own.get("requests", 0) < since.numbers.get(key, NONE).get("requests", 0):
        since = None  # it was counted anew
    old, failed, buckets = _of(key, since)
    spreads = now.spreads.get(key, {})
    grown = {what: own.get(what, 0.0) - old.get(what, 0.0) for what in ("requests", "rows", "runs", *PHASES)}
    times = _less(spreads.get("request", ()), buckets.get("request", ()))
    return Span(
        seconds=0.0 if since is None else now.at - since.at,
        requests=grown["requests"],
        rows=grown["rows"],
        runs=grown["runs"],
        failures={why: count - failed.get(why, 0) for why, count in now.failures.get(key, NONE).items()},
        quantiles={name: quantile(times, level) for name, level in LEVELS.items()},
        phases={phase: grown[phase] / 1e6 / max(1.0, grown["requests"]) for phase in PHASES},
        batches=_less(spreads.get("batch", ()), buckets.get("batch", ())),
    )


def _of(key: Key, before: Figures | None) -> tuple[Mapping[str, float], Mapping[str, float], Mapping[str, Buckets]]:
    """Numbers, failures and spreads of a version."""
    if before is None:
        return NONE, NONE, {}
    return before.numbers.get(key, NONE), before.failures.get(key, NONE), before.spreads.get(key, {})


def _less(now: Buckets, before: Buckets) -> Buckets:
    old = dict(before)
    return tuple((bound, count - old.get(bound, 0.0)) for bound, count in now)


def quantile(buckets: Buckets, level: float) -> float | None:
    """Of values that are 0 or more; None where there is none. Beyond the last finite bound it is that bound."""
    total = sum(count for _, count in buckets)
    if total <= 0:
        return None
    wanted, below = level * total, 0.0
    bounds = (0.0, *(bound for bound, _ in buckets))
    for low, (high, count) in zip(bounds, buckets, strict=False):
        if below + count >= wanted and count > 0:
            return low if math.isinf(high) else low + (high - low) * max(0.0, wanted - below) / count
        below += count
    return bounds[-2]


LEAST = 2  # readings, which a rate is of


class Ledger:
    """The latest readings, `most` of them, each at least `apart` seconds after the one before; fewer, where there are
    so many versions that they would take more than `room` of one version's, of some 9 kB each. Two viewers share
    them."""

    def __init__(self, most: int, apart: float, room: int) -> None:
        self._most, self._apart, self._room = most, apart, room
        self._all: list[Figures] = []

    def due(self, at: float) -> bool:
        """Whether it is time for the next one."""
        return not self._all or not 0 <= at - self._all[-1].at < self._apart

    def add(self, figures: Figures) -> None:
        """The next one."""
        most = max(LEAST, min(self._most, self._room // max(1, len(figures.numbers))))
        self._all = [*self._all, figures][-most:]

    @property
    def last(self) -> Figures:
        """There is one once `due` was asked and obeyed."""
        return self._all[-1]

    def since(self, seconds: float) -> Figures | None:
        """The oldest that is no older than this before the last; None: there is no other."""
        older = [one for one in self._all[:-1] if self.last.at - one.at <= seconds]
        return older[0] if older else None

    def steps(self, after: float) -> Iterator[tuple[Figures, Figures]]:
        """Each and the one before it, of those later than a time."""
        for before, now in itertools.pairwise(self._all):
            if now.at > after:
                yield before, now
