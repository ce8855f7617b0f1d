"""Use case of the operations view: rates, times, batches, errors, versions and their shadows.

The figures come from the metrics page and from the state of the server. Rates need two readings. The server takes a
reading when a client asks, at most one per second for all clients, and keeps it for some minutes. If no client asks, it
costs nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kanexport.shared.manifest import arrows, row_shapes
from kanserve.observability.multiprocess import MetricsPage
from kanserve.services.control import Catalogue, Control
from kanserve.types import VersionStatus

KEPT, APART, ROOM = 300, 1.0, 3000  # readings, seconds between two, and readings of one version in all
RECENT = 300.0  # seconds
GOOD = ("OK", "2", "3")  # with which the codes of calls begin that went well
LEFT = ("CANCELLED", "499")  # how a watch ends when who watched goes
WATCHES = ("/WatchStatistics", "/Watch", "/watch")

JsonObject = dict[str, Any]


class Operations:
    """Use case of the operations view; one object per server. `page`: the content of /metrics."""

    def __init__(self, catalogue: Catalogue, control: Control, page: MetricsPage) -> None:
        self._catalogue, self._control, self._page = catalogue, control, page
        self._ledger = Ledger(KEPT, APART, ROOM)
        self._refreshing: asyncio.Task[None] | None = None

    async def report(self, since: float) -> JsonObject:
        """All figures, and the readings after `since`, in seconds since the epoch."""
        await self._refresh()
        now, before = self._ledger.last, self._ledger.since(RECENT)
        shadows = []  # with the counts of all workers, as in the metrics
        for shadow in self._control.shadows.reports():
            own = now.numbers.get((shadow.model, str(shadow.version)), {})
            facts = asdict(shadow)
            del facts["requests"]  # a count of this worker alone
            facts |= {name: str(facts[name]) for name in ("version", "baseline_version")}
            facts |= {name: own.get(f"shadow_{name}", 0) for name in COUNTS_OF_SHADOW if facts[name] is not None}
            shadows.append(facts)
        calls = []
        for (method, code), count in sorted(now.calls.items()):
            old = None if before is None else count - before.calls.get((method, code), 0.0)
            good = code.startswith(GOOD) or (code in LEFT and method.endswith(WATCHES))
            calls.append({"method": method, "code": code, "good": good, "count": count, "recent": old})
        return {
            "time": now.at,
            "recent_seconds": 0.0 if before is None else now.at - before.at,
            "server": {**now.build, **now.server, "ready": self._catalogue.ready(), "live": self._catalogue.live()},
            "versions": [
                self._version(status, now, before) for status in self._catalogue.registry.index(only_ready=False)
            ],
            "calls": calls,
            "shadows": shadows,
            "history": [
                {"time": event.at, **{name: str(getattr(event, name)) for name in ("what", "model", "version", "text")}}
                for event in self._control.reconciler.history.latest()
            ],
            "readings": [_reading(step, older) for older, step in self._ledger.steps(since)],
        }

    async def overview(self) -> JsonObject:
        """A summary of each version: its identity, the verification of its export (`error`: the largest relative error
        of the outputs on finite rows), its use, and its traffic (`drift`: the largest ratio to the no-drift threshold;
        None without a baseline)."""
        await self._refresh()
        now, before = self._ledger.last, self._ledger.since(RECENT)
        versions = []
        for status in self._catalogue.registry.index(only_ready=False):
            key = (status.name, str(status.version))
            model = self._catalogue.registry.model(status.name, status.version)
            total, recent = (history_span(key, now, since) for since in (None, before))
            traffic: JsonObject = {
                "requests": total.requests,
                "rows": total.rows,
                "requests_per_second": recent.requests / recent.seconds if recent.seconds else None,
                "drift": now.numbers.get(key, {}).get("drift"),
            }
            identity: JsonObject = {}
            if model is not None:  # without a manifest, it has only its shapes
                info, known = model.info, model.info.manifest
                shapes = [[tensor.shape for tensor in tensors] for tensors in (info.inputs, info.outputs)]
                zones = known.verification.zones if known else ()
                identity = {
                    "family": known.source.family if known else "",
                    "shape": arrows(row_shapes(shapes[0], known.layers if known else (), shapes[1])),
                    "verification_basis": known.verification_basis if known else "",
                    "error": max((zone.outputs_max_rel for zone in zones if zone.name != "nonfinite"), default=None),
                }
            versions.append(self._state(status) | traffic | identity)
        return {"time": now.at, "versions": versions}

    def _state(self, status: VersionStatus) -> JsonObject:
        return {
            "model": status.name,
            "version": str(status.version),
            "state": status.state,
            "reason": status.reason,
            "default": self._catalogue.registry.default(status.name) == status.version,
        }

    async def _refresh(self) -> None:
        """Read the metrics, if the last reading is old enough. All callers that wait share one reading, and it goes on
        if some of them leave."""
        if self._refreshing is None and self._ledger.due(time.time()):
            self._refreshing = asyncio.ensure_future(self._take_reading())
        if self._refreshing is not None:
            await asyncio.shield(self._refreshing)

    async def _take_reading(self) -> None:
        try:
            self._ledger.add(await asyncio.to_thread(lambda: read(self._page.text().decode(), time.time())))
        finally:
            self._refreshing = None

    def _version(self, status: VersionStatus, now: Figures, before: Figures | None) -> JsonObject:
        key, own = (status.name, str(status.version)), now.numbers.get((status.name, str(status.version)), {})
        registry = self._catalogue.registry
        model = registry.model(status.name, status.version)
        manifest = None if model is None else model.info.manifest
        return {
            **self._state(status),
            "chosen": registry.choice(status.name) is not None,
            "digest": "" if model is None else model.info.digest,
            "has_card": manifest is not None,
            **{name: own.get(name, 0) for name in ("loads", "load_seconds", "pending", "out_of_range_rows")},
            "total": _span(history_span(key, now, None)),
            "recent": None if before is None else _span(history_span(key, now, before)),
        }


def _reading(now: Figures, before: Figures) -> JsonObject:
    """The activity between two readings, of versions that had any."""
    versions = []
    for key in now.numbers:
        span = history_span(key, now, before)
        if span.requests or any(span.failures.values()):
            versions.append({"model": key[0], "version": key[1], **_rates(span)})
    return {"from": before.at, "to": now.at, "versions": versions}


def _rates(span: Span) -> JsonObject:
    seconds = max(span.seconds, 1e-9)
    return {
        "requests_per_second": span.requests / seconds,
        "rows_per_second": span.rows / seconds,
        "failures_per_second": sum(span.failures.values()) / seconds,
        **span.quantiles,
        **_mean(span),
    }


def _mean(span: Span) -> Mapping[str, Any]:
    return {**span.phases, "rows_per_execution": span.rows / span.executions if span.executions else None}


def _span(span: Span) -> JsonObject:
    rates = _rates(span) if span.seconds else {**span.quantiles, **_mean(span)}
    return {
        "seconds": span.seconds,
        "requests": span.requests,
        "rows": span.rows,
        "executions": span.executions,
        "failures": dict(span.failures),
        **rates,
        "batches": [
            {"up_to": None if bound == float("inf") else bound, "executions": count} for bound, count in span.batches
        ],
    }


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
    "nv_inference_exec_count": "executions",
    "nv_inference_queue_duration_us": "queue",
    "nv_inference_compute_input_duration_us": "input",
    "nv_inference_compute_infer_duration_us": "infer",
    "nv_inference_compute_output_duration_us": "output",
    "nv_inference_pending_request_count": "pending",
    "kanserve_model_loads_total": "loads",
    "kanserve_model_load_duration_seconds": "load_seconds",
    "kanserve_out_of_range_rows_total": "out_of_range_rows",
    "kanserve_shadow_rows_total": "shadow_rows",
    "kanserve_shadow_mismatched_rows_total": "shadow_rows_out_of_tolerance",
    "kanserve_shadow_other_class_rows_total": "shadow_rows_with_other_class",
    "kanserve_shadow_dropped_requests_total": "shadow_requests_dropped",
    "kanserve_shadow_failed_requests_total": "shadow_requests_failed",
    "kanserve_shadow_max_difference_ratio": "shadow_largest_difference",
}
# Fields of a shadow report.
COUNTS_OF_SHADOW = [name.removeprefix("shadow_") for name in NUMBERS.values() if name.startswith("shadow_")]
SERVER = {
    "kanserve_inflight_requests": "inflight",
    "kanserve_workers": "workers",
    "kanserve_worker_exits_total": "worker_ends",
    "process_start_time_seconds": "started",
    "process_resident_memory_bytes": "memory_bytes",
    "process_cpu_seconds_total": "cpu_seconds",
}
DRIFT = "kanserve_drift_psi_ratio"  # per layer; the largest counts for a version
FAILURES, BUILD = "nv_inference_request_failure", "kanserve_build_info"
GRPC, HTTP = "grpc_server_handled_total", "http_requests_total"
PHASES = ("queue", "input", "infer", "output")
LEVELS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Figures:
    """Metrics page, parsed."""

    at: float  # time of the reading, in seconds since the epoch
    numbers: Mapping[Key, Mapping[str, float]]  # values of a version, by name
    spreads: dict[Key, Mapping[str, Buckets]]  # histograms of a version, by name
    failures: Mapping[Key, Mapping[str, float]]  # failed requests of a version, by reason
    calls: dict[tuple[str, str], float]  # calls by method and code
    server: dict[str, float]  # values of the server, by name
    build: dict[str, str]  # labels of the build


@dataclass(frozen=True, slots=True)
class Span:
    """Activity of a version between two readings."""

    seconds: float  # length of the interval; 0 since the counts began
    requests: float  # requests with a response
    rows: float  # their rows
    executions: float  # executions of the graph
    failures: Mapping[str, float]  # failed requests, by reason
    quantiles: Mapping[str, float | None]  # quantiles of the request time in seconds, by name; None without requests
    phases: Mapping[str, float]  # mean seconds per request, by phase
    batches: Buckets  # executions by batch size, per bucket


KNOWN = frozenset({*NUMBERS, *SPREADS, *SERVER, DRIFT, FAILURES, BUILD, GRPC, HTTP})
LINES = re.compile(rf"^({'|'.join(sorted(KNOWN))})(?:{{(.*)}})? (\S+)$", re.MULTILINE)


def read(text: str, at: float) -> Figures:
    """The numbers of a metrics page of this server."""
    numbers: defaultdict[Key, dict[str, float]] = defaultdict(dict)
    buckets: defaultdict[Key, defaultdict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    failures: defaultdict[Key, dict[str, float]] = defaultdict(dict)
    figures = Figures(at, numbers, {}, failures, {}, {}, {})
    for name, pairs, number in LINES.findall(text):
        labels = {
            key: (word.replace(r"\"", '"').replace(r"\n", "\n").replace(r"\\", "\\") if "\\" in word else word)
            for key, word in LABEL.findall(pairs)
        }
        key, value = (labels.get("model", ""), labels.get("version", "")), float(number)
        if name in NUMBERS:
            numbers[key][NUMBERS[name]] = value
        elif name == DRIFT:
            numbers[key]["drift"] = max(value, numbers[key].get("drift", 0.0))
        elif name in SPREADS:
            buckets[key][SPREADS[name]].append((float(labels["le"]), value))
        elif name == FAILURES:
            failures[key][labels["reason"]] = value
        elif name in SERVER:
            figures.server[SERVER[name]] = value
        elif name == BUILD:
            figures.build.update(labels)
        elif value and name == GRPC:
            figures.calls[f"{labels['grpc_service']}/{labels['grpc_method']}", labels["grpc_code"]] = value
        elif value:
            figures.calls[f"{labels['method']} {labels['handler']}", labels["status"]] = value
    for key, own in buckets.items():
        figures.spreads[key] = {what: _alone(cumulated) for what, cumulated in own.items()}
    return figures


def _alone(cumulated: Sequence[tuple[float, float]]) -> Buckets:
    """Counts per bucket from cumulative counts."""
    ordered = sorted(cumulated)
    below = (0.0, *(count for _, count in ordered))
    return tuple((bound, count - less) for (bound, count), less in zip(ordered, below, strict=False))


NONE: Mapping[str, float] = {}


def history_span(key: Key, now: Figures, before: Figures | None) -> Span:
    """The activity of a version between two readings. `before` None: since its counts began."""
    own, since = now.numbers.get(key, NONE), before
    if since is not None and own.get("requests", 0) < since.numbers.get(key, NONE).get("requests", 0):
        since = None  # it was counted anew
    older = since or Figures(now.at, {}, {}, {}, {}, {}, {})
    old, failed, buckets = older.numbers.get(key, NONE), older.failures.get(key, NONE), older.spreads.get(key, {})
    spreads = now.spreads.get(key, {})
    grown = {what: own.get(what, 0.0) - old.get(what, 0.0) for what in ("requests", "rows", "executions", *PHASES)}
    times = _less(spreads.get("request", ()), buckets.get("request", ()))
    return Span(
        seconds=now.at - older.at,
        requests=grown["requests"],
        rows=grown["rows"],
        executions=grown["executions"],
        failures={why: count - failed.get(why, 0) for why, count in now.failures.get(key, NONE).items()},
        quantiles={name: quantile(times, level) for name, level in LEVELS.items()},
        phases={phase: grown[phase] / 1e6 / max(1.0, grown["requests"]) for phase in PHASES},
        batches=_less(spreads.get("batch", ()), buckets.get("batch", ())),
    )


def _less(now: Buckets, before: Buckets) -> Buckets:
    old = dict(before)
    return tuple((bound, count - old.get(bound, 0.0)) for bound, count in now)


def quantile(buckets: Buckets, level: float) -> float | None:
    """A quantile of values that are not negative; None without values. Beyond the last finite bound it is that
    bound."""
    total = sum(count for _, count in buckets)
    if total <= 0:
        return None
    rank, below = level * total, 0.0
    bounds = (0.0, *(bound for bound, _ in buckets))
    for low, (high, count) in zip(bounds, buckets, strict=False):
        if below + count >= rank and count > 0:
            return low if math.isinf(high) else low + (high - low) * max(0.0, rank - below) / count
        below += count
    return bounds[-2]


LEAST = 2  # readings, which a rate is of


class Ledger:
    """History of readings, which all clients share.

    most   number of readings
    apart  least seconds between two readings
    room   entries of versions in all readings, of about 9 kB each; with many versions the ledger keeps fewer
           readings
    """

    def __init__(self, most: int, apart: float, room: int) -> None:
        self._most, self._apart, self._room = most, apart, room
        self._all: list[Figures] = []

    def due(self, at: float) -> bool:
        """Whether it is time for the next reading."""
        return not self._all or not 0 <= at - self._all[-1].at < self._apart

    def add(self, figures: Figures) -> None:
        """Add a reading."""
        most = max(LEAST, min(self._most, self._room // max(1, len(figures.numbers))))
        self._all = [*self._all, figures][-most:]

    @property
    def last(self) -> Figures:
        """The last reading. Add one first if `due` is true."""
        return self._all[-1]

    def since(self, seconds: float) -> Figures | None:
        """The oldest reading that is at most `seconds` older than the last one; None if there is no other."""
        older = [figures for figures in self._all[:-1] if self.last.at - figures.at <= seconds]
        return older[0] if older else None

    def steps(self, after: float) -> Iterator[tuple[Figures, Figures]]:
        """Each reading after a time, with the one before it."""
        for before, now in itertools.pairwise(self._all):
            if now.at > after:
                yield before, now
