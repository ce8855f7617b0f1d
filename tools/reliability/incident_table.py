"""Table of known issues of other servers, with kanserve's behavior for each and the test that verifies it.

An entry summarizes an issue and links to the tracker of the other server. kanserve's behavior is a row of the
scorecard, with its last figure, or a text with a figure from a page of the docs. The guard is a test, or a benchmark if
the issue is about time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tools.reliability.base import FOLDER, Row
from tools.reliability.record import NOT_RUN, Record, latest

BEGIN = "<!-- complaints: written by python -m tools.reliability -->\n"
END = "<!-- end of the complaints -->\n"
HEAD = "| complaint | where | here | guarded by |\n|---|---|---|---|\n"


@dataclass(frozen=True, slots=True)
class Complaint:
    """One known issue. `where`: trackers and numbers; `here`: what kanserve does; `row`: the row of the scorecard whose
    figures the table shows; `guard`: path::name of a test of the suite, if the row does not name one."""

    complaint: str
    where: str
    here: str
    row: str = ""
    guard: str = ""


TRITON, BACKEND, SEEN = "triton server", "triton onnxruntime_backend", "docs/performance.md"
COMPLAINTS = (
    Complaint(
        "a reload unloads first; requests fail or wait for minutes meanwhile",
        f"{TRITON} 2076, 2578, 5042, 5757, 8562",
        "a version is loaded and proved beside the one that serves, then takes its place in one step",
        row="13",
    ),
    Complaint(
        "polling may see half-written files and is not for production",
        f"{TRITON}: its model management guide",
        "a version is what its manifest says, hash by hash, or it is not there",
        row="14",
    ),
    Complaint(
        "each request takes longer after each reload, from 10 us to 2 ms in a week; each update leaks",
        f"{TRITON} 5944, 6402",
        "neither time nor memory grows with the number of reloads",
        row="35",
    ),
    Complaint(
        "an update crashes what is running, or the newest version is not taken; nobody says how to drain",
        f"{TRITON} 1927, 2607, 2853",
        "what is in flight ends on the version it began with; version policies; SIGTERM drains",
        row="21",
    ),
    Complaint(
        "answers 500 while it shuts down",
        "MLServer 2292",
        "what is in flight is answered, what is new is UNAVAILABLE",
        row="21",
    ),
    Complaint(
        "an ordinary bad request ends the process, for everybody",
        f"{TRITON} 6091, 7787, 8936",
        "every field of every method is broken in every way that was thought of",
        row="3",
    ),
    Complaint(
        "errors tell internal names, which become the way in",
        "CVE-2025-23319, -23320, -23334",
        "errors name what the caller sent, and nothing of the inside; there is no shared memory",
        row="4",
    ),
    Complaint(
        "a way around the check of who calls",
        "CVE-2026-24206, -24207",
        "one table of every method and route, and what is not in it is refused",
        row="11",
    ),
    Complaint(
        "ports open to everybody, with administration behind them",
        "CVE-2023-43654 (TorchServe)",
        "loopback unless callers are checked, and nothing to administrate unless asked for",
        row="12",
    ),
    Complaint(
        "memory of the largest batch never returns",
        f"{BACKEND} 102, 198, 301, 7594; onnxruntime 9313, 11118, 22271, 23339",
        "large batches run in pieces, the arena is off, freed pages go back",
        row="19",
    ),
    Complaint(
        "memory grows with every shape of request",
        f"{TRITON} 8083; onnxruntime 11118",
        "64 sizes of request over a million of them",
        row="17",
    ),
    Complaint(
        "a failed load leaks",
        f"{BACKEND} 268",
        "loaded and unloaded 500 times",
        row="18",
    ),
    Complaint(
        "cancelled calls leak",
        "grpc 43360",
        "calls cancelled at every point of their way",
        row="25",
    ),
    Complaint(
        "requests wait although the model is free, or batches stay small; nobody can say why it queues",
        f"{TRITON} 3624, 7776, 8094, 8251",
        "whatever waits when the model is free is one batch; true queue and compute times in metrics and statistics",
        guard="tests/kanserve/execution/test_executor.py::test_what_arrives_together_runs_together",
    ),
    Complaint(
        "of two requests that came together one gets the other's answer, or none",
        "MLServer 1306, 1911",
        "an answer in company is held against the answer alone, bit by bit",
        row="27",
    ),
    Complaint(
        "one bad request fails those that were batched with it",
        "no server says otherwise",
        "a batch that fails runs one by one",
        row="26",
    ),
    Complaint(
        "batching switched off makes it slower, switched on makes a lone request slower",
        "MLServer 1826, 1911",
        f"a lone request does not wait: 86 us beyond the bare answer of the transport ({SEEN})",
        guard="tests/kanserve/scheduling/test_batching.py::test_who_comes_alone_is_answered_at_once_but_for_a_look_now_and_then",
    ),
    Complaint(
        "70 to 100 threads in a pod of one core; threads by the host's cores and not the container's",
        f"{BACKEND} 245; {TRITON} 6932; onnxruntime 29510",
        "threads are what the cgroup grants, divided among instances and workers",
        guard="tests/kanserve/system/test_resources.py::test_the_thread_budget_follows_the_cgroup",
    ),
    Complaint(
        "slower than the runtime called directly, 3 to 10 times",
        f"{TRITON} 4812, 5675, 7677; {BACKEND} 34, 116, 265",
        f"[784, 64, 10], 64 rows a request: 54 800 rows/s with 8 callers, a real Triton 54 700 ({SEEN})",
        guard="tests/integration/test_perf_analyzer.py::test_perf_analyzer_reaches_its_table",
    ),
    Complaint(
        "a start takes a minute, then ten",
        f"{TRITON} 5045, 6014; kserve 2529, 4575, 4899",
        f"20 models are ready within 0.9 s, 200 within 4.9 s ({SEEN})",
        guard="benchmarks/scale.py",
    ),
    Complaint(
        "an image of 8 to 15 GB",
        f"{TRITON} 3913, 3960, 5376, 7474, 8396",
        "onnxruntime, gRPC and Python: no torch and no compiler in it",
        guard="tests/integration/deploy/test_image.py::test_what_it_installs_is_locked_by_hash",
    ),
    Complaint(
        "only one port reaches the pod, and it is gRPC or HTTP",
        "kserve 533, 1499, 2601",
        "gRPC, HTTP and metrics on one port",
        guard="tests/kanserve/rest/test_application.py::test_curl",
    ),
    Complaint(
        "the batcher has no gRPC; gRPC has no metrics; gRPC cannot be had at all",
        "kserve 2865; tensorflow/serving 1624; pytorch/serve 1467; MLServer 1142; BentoML 4634, 5607",
        "what is behind the transports is the same for gRPC and HTTP",
        guard="tests/kanserve/observability/test_metrics.py::test_numbers_agree_with_what_was_done_and_with_the_statistics",
    ),
    Complaint(
        "durations are sums, of which nobody can make a quantile over many servers",
        f"{TRITON} 2685, 3060, 7287, 7672",
        "histograms in seconds, with buckets that add up",
        guard="tests/integration/deploy/test_monitoring.py::test_every_histogram_is_asked_by_its_buckets",
    ),
    Complaint(
        "the first request after a start fails: not ready yet",
        "kserve 2882",
        "not ready until every version was tried; a worker listens once it can answer",
        guard="tests/kanserve/server/test_supervisor.py::test_nobody_is_ready_before_all_are",
    ),
    Complaint(
        "no health service, so that probes know no more than that a port is open",
        "vllm 33105; sglang 38075",
        "grpc.health.v1 with the server, liveness, services and every model",
        guard="tests/kanserve/grpc_api/test_services.py::test_health",
    ),
    Complaint(
        "a worker that died takes requests with it, or comes back in a loop",
        "MLServer 1652",
        "who was killed is replaced, and callers lose what that one held",
        row="22",
    ),
    Complaint(
        "a burst on a new connection is reset without a word",
        "grpc 41785, and a server of ours before this table",
        "2000 calls at once on a fresh channel are answered, or refused with a status",
        guard="tests/integration/wire/test_transports.py::test_a_burst_on_a_fresh_channel_loses_nothing",
    ),
    Complaint(
        "one busy model makes all others slow",
        f"{TRITON}: its rate limiter",
        "threads that compute stand behind those that answer; queues are each model's own",
        row="29",
    ),
    Complaint(
        "the runtime reports home by default",
        "onnxruntime: its Privacy.md",
        "off before it is imported; watched in an empty home and without a network",
        row="36",
    ),
)


def markdown(rows: Mapping[str, Row], records: Iterable[Record]) -> str:
    """The table, with the last figures of the rows that it names."""
    best = latest(records)
    return HEAD + "".join(_line(item, rows, best) for item in COMPLAINTS)


def guards(entry: Complaint, rows: Mapping[str, Row]) -> tuple[str, ...]:
    """path, or path::name, of what shows where the complaint could be made of us."""
    if entry.guard:
        return (entry.guard,)
    row = rows[entry.row]
    (path,) = FOLDER.glob(f"row_{int(entry.row):02d}_*.py")
    return row.guarded_by or (f"tools/reliability/{path.name}",)


def _line(entry: Complaint, rows: Mapping[str, Row], best: Mapping[tuple[str, str], Record]) -> str:
    here = entry.here
    if entry.row:
        seen = [best.get((entry.row, transport)) for transport in rows[entry.row].ways]
        reported = "; ".join(_figures(record) for record in seen if record is not None and record.verdict != NOT_RUN)
        here = f"{here} (row {entry.row}: {reported or 'not run yet'})"
    guarded = ", ".join(f"`{name}`" for name in guards(entry, rows))
    return f"| {entry.complaint} | {entry.where} | {here} | {guarded} |\n"


def _figures(record: Record) -> str:
    figures = ", ".join(f"{name} {value}" for name, value in record.figures.items())
    where = f"{record.transport}: " if record.transport else ""
    return f"{where}{record.verdict}, {record.form}" + (f", {figures}" if figures else "")
