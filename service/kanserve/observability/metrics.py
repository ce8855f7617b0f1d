"""Table of all metrics. `transport/metrics_server.py` serves them.

Three rules hold. No label has values that a client chooses: an unknown model counts as `_unknown_`. Every series of a
serving version exists with 0 before its first event. No number is kept twice, so Triton's counters are read from
`Statistics` at scrape time. They are also formatted here: prometheus_client would append `_total` to their names, and
dashboards for Triton would not find them.

Series are plain numbers without the library's lock around each. The event loop writes. The metrics thread reads single
numbers, whose reads and writes are atomic in Python. The classes of prometheus_client take 780 ns to count and 1,820 ns
to observe, in its multiprocess mode 1,830 and 4,060 ns. These take 80 and 280 ns.
"""

from __future__ import annotations

import enum
import functools
import itertools
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from kanserve.errors import UNKNOWN, LoadReason
from kanserve.observability import logs
from kanserve.observability.statistics import FailureReason, Statistics, Timing

__all__ = ["CONTENT_TYPE", "DEFINITIONS", "UNKNOWN", "Metrics", "ModelMetrics"]

CHANGED = "kanserve_repository_change_timestamp_seconds"
SYNCHRONIZED = "kanserve_repository_sync_timestamp_seconds"
CLASS_ROWS = "kanserve_statistics_class_rows_total"
RANGE_VIOLATIONS = "kanserve_certified_range_violations_total"
STREAM = "inference.GRPCInferenceService/ModelStreamInfer"
STREAM_REQUESTS = "kanserve_stream_requests_total"
LIMITED = "kanserve_requests_limited_total"
LINES_DROPPED = "kanserve_log_lines_dropped_total"

SECONDS = (
    *(50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
# For every method and route. They are many: with the buckets of `SECONDS`, they would be most of a page.
CALL_SECONDS = (250e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 0.1, 0.25, 1.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
MODEL = ("model", "version")
LAYER = (*MODEL, "layer")  # "output" of the outputs
RPC = ("grpc_type", "grpc_service", "grpc_method")
ROUTE = ("method", "handler")


class Number:
    """Counter or gauge with fixed label values."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add an amount."""
        self.value += amount

    def set(self, value: float) -> None:
        """Set a gauge."""
        self.value = value

    def shown(self) -> tuple[float]:
        """The arguments of `add_metric` of prometheus_client after the labels."""
        return (self.value,)


class Spread:
    """Histogram with fixed label values. `bounds` are inclusive upper bounds, ascending."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.total += value
        self.counts[bisect_left(self.bounds, value)] += 1

    def observe_all(self, values: Sequence[float]) -> None:
        """Count at least one value."""
        if len(values) == 1:
            self.observe(values[0])
            return
        self.total += sum(values)
        first = bisect_left(self.bounds, min(values))
        if first == bisect_left(self.bounds, max(values)):
            self.counts[first] += len(values)
            return
        for value in values:
            self.counts[bisect_left(self.bounds, value)] += 1

    def shown(self) -> tuple[list[tuple[str, float]], float]:
        """The arguments of `add_metric` of prometheus_client after the labels."""
        counts = map(float, itertools.accumulate(self.counts))
        return list(zip(_bucket_names(self.bounds), counts, strict=True)), self.total


@functools.cache
def _bucket_names(bounds: tuple[float, ...]) -> list[str]:
    """The values of the label `le`; a bucket above the last bound is added."""
    return [*map(floatToGoString, bounds), "+Inf"]


class Merge(enum.Enum):
    """Rule that merges the values of several workers into one."""

    SUM, MIN, MAX = range(3)


@dataclass(frozen=True, slots=True)
class Definition:
    """Definition of one metric.

    name     name in the exposition format
    help     help text
    labels   names of the labels
    buckets  upper bounds
    merge    rule for several workers
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = Merge.SUM

    @property
    def kind(self) -> str:
        """The type in the exposition format."""
        return "histogram" if self.buckets else "counter" if self.name.endswith("_total") else "gauge"


S = TypeVar("S", Number, Spread)
FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


class Family(Generic[S]):
    """Family of all series of one metric, by their label values: a collector of prometheus_client."""

    def __init__(self, definition: Definition, make: Callable[[], S]) -> None:
        self._definition = definition
        self._make: Callable[[], S] = make
        self._series: dict[tuple[str, ...], S] = {} if definition.labels else {(): make()}

    def labels(self, *values: object) -> S:
        """The series with these values, made with 0 the first time."""
        key = tuple(str(value) for value in values)
        assert len(key) == len(self._definition.labels), f"{len(key)} values for the labels {self._definition.labels}"
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._make()
        return series

    def remove(self, *values: str) -> None:
        """The series whose labels begin with these values."""
        for key in [key for key in self._series if key[: len(values)] == values]:
            del self._series[key]

    def collect(self) -> Iterable[Metric]:
        """The metric for prometheus_client's registry."""
        own = self._definition
        metric = FAMILIES[own.kind](own.name, own.help, labels=own.labels)
        for values, series in list(self._series.items()):
            metric.add_metric(values, *series.shown())
        yield metric


def _gauge(name: str, help: str, labels: tuple[str, ...] = (), merge: Merge = Merge.MAX) -> Definition:
    return Definition(name, help, labels, merge=merge)


DEFINITIONS = (
    Definition("grpc_server_started_total", "gRPC calls started.", RPC),
    Definition("grpc_server_handled_total", "gRPC calls completed, by status code.", (*RPC, "grpc_code")),
    Definition("grpc_server_handling_seconds", "Duration of gRPC calls.", RPC, CALL_SECONDS),
    Definition(STREAM_REQUESTS, "Requests of ModelStreamInfer streams completed, by status code.", ("grpc_code",)),
    Definition(
        LIMITED,
        "Calls and requests of streams rejected by a limit on all requests together, by gRPC method or HTTP route.",
        ("method",),
    ),
    Definition("http_requests_total", "HTTP requests completed, by status.", (*ROUTE, "status")),
    Definition("http_request_duration_seconds", "Duration of HTTP requests.", ROUTE, CALL_SECONDS),
    _gauge("kanserve_inflight_requests", "gRPC and HTTP requests in flight.", merge=Merge.SUM),
    Definition(
        "kanserve_request_duration_seconds",
        "Duration of inference requests, from parsing to the response.",
        MODEL,
        SECONDS,
    ),
    Definition("kanserve_queue_duration_seconds", "Time that inference requests wait in the queue.", MODEL, SECONDS),
    Definition(
        "kanserve_inference_duration_seconds",
        "Duration of model executions, without the time in the queue.",
        MODEL,
        SECONDS,
    ),
    Definition("kanserve_batch_rows", "Rows per model execution.", MODEL, ROWS),
    _gauge("kanserve_model_loaded", "1 if the version is ready, otherwise 0.", MODEL, Merge.MIN),
    _gauge("kanserve_model_load_duration_seconds", "Duration of the last load of the version.", MODEL),
    _gauge(
        "kanserve_model_info", "Constant 1; the label digest is the SHA-256 of the loaded graph.", (*MODEL, "digest")
    ),
    Definition("kanserve_model_load_failures_total", "Failed loads of versions, by reason.", ("reason",)),
    Definition("kanserve_model_loads_total", "Successful loads of the version.", MODEL),
    _gauge(
        "kanserve_model_default", "1 if the version is the default version of its model, otherwise 0.", MODEL, Merge.MIN
    ),
    _gauge(
        "kanserve_model_files_missing",
        "1 if the version is served and its files are missing from the repository, otherwise 0.",
        MODEL,
    ),
    _gauge(
        "kanserve_model_rejected", "1 if the files of the version in the repository fail to load, otherwise 0.", MODEL
    ),
    Definition("kanserve_shadow_rows_total", "Mirrored rows that the shadow version computed.", MODEL),
    Definition(
        "kanserve_shadow_mismatched_rows_total",
        "Mirrored rows that the shadow version computed out of tolerance.",
        MODEL,
    ),
    Definition(
        "kanserve_shadow_other_class_rows_total",
        "Mirrored rows for which another output of the shadow version is the largest (another class).",
        MODEL,
    ),
    Definition(
        "kanserve_shadow_dropped_requests_total",
        "Mirrored requests that were dropped before the shadow version computed them.",
        MODEL,
    ),
    Definition("kanserve_shadow_failed_requests_total", "Mirrored requests that failed in the shadow version.", MODEL),
    _gauge(
        "kanserve_shadow_max_difference_ratio",
        "Largest difference between the shadow version and the default version in one row, relative to the largest "
        "output of the row, or to 1 if that is larger.",
        MODEL,
    ),
    Definition(
        "kanserve_statistics_sampled_rows_total", "Rows of live traffic that were sampled for statistics.", MODEL
    ),
    Definition(CLASS_ROWS, "Rows that were sampled for statistics, by predicted class.", (*MODEL, "class")),
    _gauge(
        "kanserve_drift_psi_ratio",
        "Largest population stability index (PSI) of the layer's nodes, divided by the no-drift threshold. Above "
        "1: drift.",
        LAYER,
    ),
    _gauge(
        "kanserve_out_of_range_ratio",
        "Share of the layer's values in live traffic that are out of range, 0 to 1.",
        LAYER,
    ),
    _gauge(
        "kanserve_baseline_out_of_range_ratio",
        "Share of the layer's values in the baseline that are out of range, 0 to 1.",
        LAYER,
    ),
    Definition(
        "kanserve_out_of_range_rows_total",
        "Rows flagged or rejected because an input is out of range. Counts only models exported with --out-of-range "
        "flag or reject.",
        MODEL,
    ),
    Definition(
        RANGE_VIOLATIONS,
        "Checked rows in the certified box with an output outside of the certified range.",
        MODEL,
    ),
    _gauge("kanserve_repository_readable", "1 if the server can read the repository, otherwise 0.", merge=Merge.MIN),
    _gauge("kanserve_repository_scan_seconds", "Duration of the last repository scan."),
    _gauge(CHANGED, "Unix time of the last change of the served versions; 0 before the first."),
    _gauge(
        SYNCHRONIZED,
        "Unix time at which a synchronization last wrote .synchronized in the repository; 0 without the file, or if "
        "the server does not scan at intervals.",
    ),
    _gauge(
        "kanserve_build_info",
        "Constant 1; labels give the version, the commit, the runtime and the device of the server.",
        ("version", "commit", "runtime", "device"),
    ),
    Definition("kanserve_edge_queries_total", "Edge queries completed, by status code.", (*MODEL, "grpc_code")),
    Definition("kanserve_edge_query_duration_seconds", "Duration of edge queries.", MODEL, SECONDS),
    Definition("kanserve_edge_values_total", "Edge values sent to clients.", MODEL),
    _gauge("kanserve_settings_reload_failed", "1 if the last reload of the settings failed, otherwise 0."),
    _gauge("kanserve_settings_pending_restart", "Number of changed settings that take effect after a restart."),
    _gauge(
        "kanserve_tls_certificate_expiration_timestamp_seconds",
        "Unix time at which the server certificate expires; 0 without TLS.",
        merge=Merge.MIN,
    ),
    Definition("kanserve_credential_reloads_total", "Successful reloads of changed credential files.", ("credential",)),
    _gauge(
        "kanserve_credential_reload_failed",
        "1 if the last reload of credential files failed, otherwise 0.",
        ("credential",),
    ),
    _gauge(
        "kanserve_event_loop_lag_seconds", "Time since the last heartbeat of the event loop; 0 while the loop responds."
    ),
    _gauge("kanserve_oldest_execution_age_seconds", "Age of the oldest model execution in progress; 0 without one."),
    Definition(LINES_DROPPED, "Log lines dropped because the reader of stderr was slow or gone, or its disk was full."),
)


# name, help, what to read. All counters; the two gauges follow.
TRITON_COUNTERS: tuple[tuple[str, str, Callable[[Statistics], float]], ...] = (
    ("nv_inference_request_success", "Number of successful inference requests", lambda s: s.success.count),
    ("nv_inference_count", "Number of inferences performed (rows)", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Number of model executions performed", lambda s: s.execution_count),
    (
        "nv_inference_request_duration_us",
        "Cumulative inference request duration, microseconds",
        lambda s: (s.success.ns + s.fail.ns) // 1000,
    ),
    *(
        (f"nv_inference_{phase}_duration_us", f"Cumulative {phase.replace('_', ' ')} duration, microseconds", read)
        for phase, read in (
            ("queue", lambda s: s.queue.ns // 1000),
            ("compute_input", lambda s: s.compute_input.ns // 1000),
            ("compute_infer", lambda s: s.compute_infer.ns // 1000),
            ("compute_output", lambda s: s.compute_output.ns // 1000),
        )
    ),
)
TRITON_GAUGES: tuple[tuple[str, str, Callable[[Statistics], float]], ...] = (
    ("nv_inference_pending_request_count", "Requests waiting for or in the thread pool", lambda s: s.pending),
    ("nv_model_load_duration_secs", "Time the model took to load, seconds", lambda s: s.load_seconds),
)
TRITON_FAILURES = "nv_inference_request_failure"


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """Series of one version, looked up once so that a request need not."""

    statistics: Statistics
    request_seconds: Spread
    queue_seconds: Spread
    inference_seconds: Spread
    batch_rows: Spread
    edge_seconds: Spread
    edge_values: Number

    def executed(self, rows: int, timing: Timing) -> None:
        """Count one execution of the graph."""
        self.statistics.executed(rows, timing)
        self.inference_seconds.observe(timing.compute_infer / 1e9)
        self.batch_rows.observe(rows)

    def computed(self, rows: int, timing: Timing) -> None:
        """Count one request's part in an execution."""
        self.statistics.computed(1, rows, timing)
        self.queue_seconds.observe(timing.queue / 1e9)

    def succeeded(self, ns: int) -> None:
        """Count one successful request."""
        self.statistics.succeeded(1, ns, time.time_ns() // 10**6)
        self.request_seconds.observe(ns / 1e9)

    def completed(self, rows: int, timing: Timing, waited: Sequence[float], took: Sequence[float]) -> None:
        """Count the successful requests of one execution over `rows` rows. `waited`, `took`: seconds that each request
        waited, and that it took in all."""
        self.statistics.computed(len(took), rows, timing)
        self.statistics.succeeded(len(took), round(sum(took) * 1e9), time.time_ns() // 10**6)
        self.queue_seconds.observe_all(waited)
        self.request_seconds.observe_all(took)

    def traced(self, rows: int, timing: Timing) -> None:
        """Note one request's part in an execution in the trace of the current call, if there is one."""


class Metrics:
    """Metrics of one server, in their own registry; nothing is global."""

    def __init__(self, kind: type[ModelMetrics] = ModelMetrics) -> None:
        """`kind`: class of the series of a version."""
        self._kind = kind
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU, file descriptors, start time
        self._registry = registry
        self._machine = Machine()
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._numbers: dict[str, Family[Number]] = {}
        self._spreads: dict[str, Family[Spread]] = {}
        for item in DEFINITIONS:
            if item.buckets:
                self._spreads[item.name] = Family(item, functools.partial(Spread, item.buckets))
                registry.register(self._spreads[item.name])
            else:
                self._numbers[item.name] = Family(item, Number)
                registry.register(self._numbers[item.name])
        self.number("kanserve_repository_readable").labels().set(1)
        self.number(STREAM_REQUESTS).labels("OK")
        self.number(LIMITED).labels(STREAM)
        for reason in LoadReason:
            self.number("kanserve_model_load_failures_total").labels(reason)
        self._lost, self._lock = 0, threading.Lock()  # log lines that were counted
        self.unknown = self.model(UNKNOWN, "")

    def number(self, name: str) -> Family[Number]:
        """The counter or gauge of this name; the caller sets its labels."""
        return self._numbers[name]

    def spread(self, name: str) -> Family[Spread]:
        """The histogram of this name."""
        return self._spreads[name]

    def model(self, name: str, version: str) -> ModelMetrics:
        """The series of one version; created with 0 the first time."""
        known = self._models.get((name, version))
        if known is None:
            labels = (name, version)
            known = self._kind(
                statistics=Statistics(),
                request_seconds=self.spread("kanserve_request_duration_seconds").labels(*labels),
                queue_seconds=self.spread("kanserve_queue_duration_seconds").labels(*labels),
                inference_seconds=self.spread("kanserve_inference_duration_seconds").labels(*labels),
                batch_rows=self.spread("kanserve_batch_rows").labels(*labels),
                edge_seconds=self.spread("kanserve_edge_query_duration_seconds").labels(*labels),
                edge_values=self.number("kanserve_edge_values_total").labels(*labels),
            )
            self.number("kanserve_edge_queries_total").labels(*labels, "OK")
            for zero in ("loaded", "loads_total", "default", "files_missing", "rejected"):
                self.number(f"kanserve_model_{zero}").labels(*labels)
            self._models[name, version] = known
        return known

    def expect(self, name: str, version: str) -> None:
        """A version exists and does not serve. One series shows it. The other series begin when the version serves,
        because a writer of the repository could otherwise create any number of series."""
        self.forget(name, version)
        self.number("kanserve_model_loaded").labels(name, version)

    def edge_query(self, name: str, version: str, code: str, seconds: float) -> None:
        """Count one edge query at its end."""
        self.number("kanserve_edge_queries_total").labels(name, version, code).inc()
        self.model(name, version).edge_seconds.observe(seconds)

    def record_load(self, name: str, version: str, digest: str, seconds: float) -> None:
        """Count the load of a version."""
        self.model(name, version).statistics.load_seconds = seconds
        self.number("kanserve_model_loaded").labels(name, version).set(1)
        self.number("kanserve_model_loads_total").labels(name, version).inc()
        self.number("kanserve_model_load_duration_seconds").labels(name, version).set(seconds)
        self.number("kanserve_model_info").remove(name, version)
        self.number("kanserve_model_info").labels(name, version, digest).set(1)
        self.mark_rejected(name, version, refused=False)
        self.mark_missing(name, version, missing=False)

    def mark_rejected(self, name: str, version: str, *, refused: bool) -> None:
        """Set whether the files of a version are rejected."""
        self.number("kanserve_model_rejected").labels(name, version).set(refused)

    def mark_missing(self, name: str, version: str, *, missing: bool) -> None:
        """Set whether a version serves without its files."""
        self.number("kanserve_model_files_missing").labels(name, version).set(missing)

    def forget(self, name: str, version: str) -> None:
        """Remove the series of a version, so that a server that runs for years does not collect them."""
        self._models.pop((name, version), None)
        for item in DEFINITIONS:
            if item.labels[:2] == MODEL:
                (self._spreads if item.buckets else self._numbers)[item.name].remove(name, version)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        with self._lock:
            lost, self._lost = logs.dropped() - self._lost, logs.dropped()
        self.number(LINES_DROPPED).labels().inc(max(0, lost))
        return generate_latest(self._registry) + "".join((*self._triton(), *self._machine.lines())).encode()

    def _triton(self) -> Iterator[str]:
        """The metrics with Triton's names."""
        models = [(f'model="{n}",version="{v}"', m.statistics) for (n, v), m in list(self._models.items())]
        for kind, table in (("counter", TRITON_COUNTERS), ("gauge", TRITON_GAUGES)):
            for name, text, read in table:
                yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
                for labels, statistics in models:
                    yield f"{name}{{{labels}}} {read(statistics)}\n"
        yield f"# HELP {TRITON_FAILURES} Number of failed inference requests\n"
        yield f"# TYPE {TRITON_FAILURES} counter\n"
        for labels, statistics in models:
            for reason in FailureReason:
                yield f'{TRITON_FAILURES}{{{labels},reason="{reason}"}} {statistics.failures[reason]}\n'


IDLE = slice(3, 5)  # of the times in /proc/stat: idle, and waiting for a disk
OWN = 8  # the rest are times of guests, which are in the first two already
HELP = {
    "nv_cpu_utilization": "CPU utilization rate [0.0 - 1.0]",
    "nv_cpu_memory_total_bytes": "CPU total memory (RAM), in bytes",
    "nv_cpu_memory_used_bytes": "CPU used memory (RAM), in bytes",
}


class Machine:
    """Reader of the machine's CPU and memory use. The CPU share counts since the previous scrape, or since boot."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc, self._lock = proc, threading.Lock()
        self._last = (0, 0)

    def lines(self) -> Iterator[str]:
        """The metrics in Prometheus' text format; none without /proc."""
        try:
            first = (self._proc / "stat").read_text().partition("\n")[0]
            times = [int(word) for word in first.split()[1 : 1 + OWN]]
            rows = (line.partition(":") for line in (self._proc / "meminfo").read_text().splitlines())
            kilobytes = {name: int(words.split()[0]) for name, _, words in rows if name in ("MemTotal", "MemAvailable")}
            memory, free = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
        except (OSError, ValueError, KeyError):
            return
        with self._lock:
            idle, total = sum(times[IDLE]) - self._last[0], sum(times) - self._last[1]
            self._last = (sum(times[IDLE]), sum(times))
        busy = 0.0 if total <= 0 else round(min(1.0, max(0.0, 1 - idle / total)), 4)
        for (name, text), value in zip(HELP.items(), (busy, memory, memory - free), strict=True):
            yield f"# HELP {name} {text}\n# TYPE {name} gauge\n{name} {value}\n"
