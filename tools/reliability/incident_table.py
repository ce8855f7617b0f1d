"""Table of known issues of other servers, with kanserve's behavior for each and the test that verifies it.

An entry summarizes an issue and names the tracker of the other server. A reliability test verifies kanserve's behavior,
or a test of the suite. Figures of time are on a page of the docs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tools.reliability import table
from tools.reliability.base import FOLDER, Row
from tools.reliability.record import FOLDER as PAGES
from tools.reliability.record import Record, latest

PAGE, NAME = PAGES / "other-servers.md", "known issues"
SERVING = "../benchmarks/serving.md"
HEAD = "| known issue | reported for | behavior of kanserve | verified by |\n|---|---|---|---|\n"


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """One known issue. `where`: trackers and numbers; `here`: what kanserve does; `row`: the reliability test that
    verifies it; `guard`: path::name of a test of the suite, if there is no `row`; `figures`: the page, relative to the
    table's, that has the figures of `here`."""

    issue: str
    where: str
    here: str
    row: str = ""
    guard: str = ""
    figures: str = ""


TRITON, BACKEND = "Triton server", "Triton onnxruntime_backend"
ISSUES = (
    KnownIssue(
        "A reload unloads the old version first, so requests fail or wait for minutes.",
        f"{TRITON} 2076, 2578, 5042, 5757, 8562",
        "Loads and verifies a version next to the current one, then swaps it in atomically.",
        row="13",
    ),
    KnownIssue(
        "Polling can read incomplete files and is not for production.",
        f"{TRITON}: its model management guide",
        "Accepts a version only if each file has the hash of the manifest.",
        row="14",
    ),
    KnownIssue(
        "Requests get slower after each reload (10 us to 2 ms in a week), and updates leak memory.",
        f"{TRITON} 5944, 6402",
        "10,000 reloads add less than 10% of latency and 5 MiB of memory.",
        row="35",
    ),
    KnownIssue(
        "An update crashes running requests, or the newest version is not loaded. The way to drain is not documented.",
        f"{TRITON} 1927, 2607, 2853",
        "Requests in flight finish on their version. SIGTERM drains. Version policies choose versions.",
        row="21",
    ),
    KnownIssue(
        "Requests get status 500 during shutdown.",
        "MLServer 2292",
        "Requests in flight get their response. New requests get UNAVAILABLE.",
        row="21",
    ),
    KnownIssue(
        "An invalid request terminates the process.",
        f"{TRITON} 6091, 7787, 8936",
        "Returns INVALID_ARGUMENT and names the field.",
        row="3",
    ),
    KnownIssue(
        "Errors reveal internal names that attackers can use.",
        "CVE-2025-23319, -23320, -23334",
        "Errors name fields of the request only. There is no shared memory.",
        row="4",
    ),
    KnownIssue(
        "Requests bypass authentication.",
        "CVE-2026-24206, -24207",
        "One table has each method and route. The server rejects all others.",
        row="11",
    ),
    KnownIssue(
        "Ports are open to all networks, with administration.",
        "CVE-2023-43654 (TorchServe)",
        "Listens on loopback by default. Other addresses need credentials or `--insecure`. Administration is "
        "off by default.",
        row="12",
    ),
    KnownIssue(
        "Memory of the largest batch is not released.",
        f"{BACKEND} 102, 198, 301, 7594; onnxruntime 9313, 11118, 22271, 23339",
        "Large batches run in chunks without the arena, and free pages return to the system.",
        row="19",
    ),
    KnownIssue(
        "Memory grows with each request shape.",
        f"{TRITON} 8083; onnxruntime 11118",
        "A million requests of 64 sizes add less than 2% of memory.",
        row="17",
    ),
    KnownIssue(
        "A failed load leaks memory.",
        f"{BACKEND} 268",
        "500 loads and unloads add less than 5 MiB.",
        row="18",
    ),
    KnownIssue(
        "Cancelled calls leak memory.",
        "grpc 43360",
        "Requests cancelled at any stage leave nothing in flight or queued.",
        row="25",
    ),
    KnownIssue(
        "Requests wait although the model is idle, or batches stay small. Metrics do not show why.",
        f"{TRITON} 3624, 7776, 8094, 8251",
        "All waiting requests form one batch when the model is idle. Metrics report queue and compute time.",
        guard="tests/kanserve/execution/test_executor.py::test_company_is_found_again",
    ),
    KnownIssue(
        "Two concurrent requests get each other's response, or none.",
        "MLServer 1306, 1911",
        "Batched outputs differ from unbatched outputs by at most 2 units in the last place.",
        row="27",
    ),
    KnownIssue(
        "One invalid request fails the other requests of its batch.",
        "not documented by other servers",
        "If a batch fails, its requests run one by one.",
        row="26",
    ),
    KnownIssue(
        "Batching makes single requests slower. Without batching the server is slower.",
        "MLServer 1826, 1911",
        "A single request does not wait for others. Median latency is 232 us, of a no-op baseline 144 us.",
        guard="tests/kanserve/grpc_api/hot_path/test_batch.py::test_who_comes_alone_is_served_at_once_but_for_a_look_now_and_then",
        figures=SERVING,
    ),
    KnownIssue(
        "A pod with one core has 70 to 100 threads, because threads follow the cores of the host.",
        f"{BACKEND} 245; {TRITON} 6932; onnxruntime 29510",
        "Threads follow the cgroup limit, divided among instances and workers.",
        guard="tests/kanserve/system/test_resources.py::test_the_thread_budget_follows_the_cgroup",
    ),
    KnownIssue(
        "Requests are 3 to 10 times slower than direct calls of the runtime.",
        f"{TRITON} 4812, 5675, 7677; {BACKEND} 34, 116, 265",
        "[784, 64, 10], 64 rows per request: 2.30x and 2.20x of the rate of a grpc.aio handler that calls the "
        "runtime, with 4 and 8 requests in flight and with the custom operators.",
        guard="tests/integration/test_perf_analyzer.py::test_perf_analyzer_reaches_its_table",
        figures=SERVING,
    ),
    KnownIssue(
        "Startup takes one to ten minutes.",
        f"{TRITON} 5045, 6014; kserve 2529, 4575, 4899",
        "20 models are ready in 1.7 s, 200 in 4.83 s.",
        guard="benchmarks/many_models.py",
        figures="../benchmarks/capacity.md",
    ),
    KnownIssue(
        "The image has 8 to 15 GB.",
        f"{TRITON} 3913, 3960, 5376, 7474, 8396",
        "The image has onnxruntime, gRPC and Python, but no torch and no compiler.",
        guard="tests/integration/deploy/test_image.py::test_what_it_installs_is_locked_by_hash",
    ),
    KnownIssue(
        "A pod has only one port, with gRPC or HTTP.",
        "kserve 533, 1499, 2601",
        "gRPC, HTTP and metrics share one port on `asgi`.",
        guard="tests/kanserve/rest/test_application.py::test_metrics_on_the_shared_port",
    ),
    KnownIssue(
        "Batching, metrics or the whole server lack gRPC.",
        "kserve 2865; tensorflow/serving 1624; pytorch/serve 1467; MLServer 1142; BentoML 4634, 5607",
        "gRPC and HTTP share batching, metrics and statistics.",
        guard="tests/kanserve/observability/test_metrics.py::test_every_promised_name_is_there_and_agrees_with_what_was_done",
    ),
    KnownIssue(
        "Durations are sums, so quantiles over several servers are not available.",
        f"{TRITON} 2685, 3060, 7287, 7672",
        "Durations are histograms in seconds.",
        guard="tests/integration/deploy/test_monitoring.py::test_every_histogram_is_queried_by_its_buckets",
    ),
    KnownIssue(
        "The first request after a start fails, because the server is not ready.",
        "kserve 2882",
        "Reports ready after each version had its load check. A worker listens when it can respond.",
        guard="tests/kanserve/server/test_supervisor.py::test_nobody_is_ready_before_all_are",
    ),
    KnownIssue(
        "There is no health service, so probes only test an open port.",
        "vllm 33105; sglang 38075",
        "Has grpc.health.v1 for the server, liveness, services and each model.",
        guard="tests/kanserve/grpc_api/test_services.py::test_health",
    ),
    KnownIssue(
        "A worker that exits loses requests, or restarts in a loop.",
        "MLServer 1652",
        "Replaces a killed worker. Clients lose only the requests of that worker.",
        row="22",
    ),
    KnownIssue(
        "A burst on a new connection is reset without a status.",
        "grpc 41785, and an earlier version of kanserve",
        "2000 simultaneous calls on a new channel get a response or a status.",
        guard="tests/integration/wire/test_transports.py::test_a_burst_on_a_fresh_channel_loses_nothing",
    ),
    KnownIssue(
        "One busy model slows down all others.",
        f"{TRITON}: its rate limiter",
        "Each model has its own queue and threads. They run at a lower priority than requests (`compute_nice`).",
        row="29",
    ),
    KnownIssue(
        "The runtime sends telemetry by default.",
        "onnxruntime: its Privacy.md",
        "Disables telemetry before it imports the runtime.",
        row="36",
    ),
)


def markdown(rows: Mapping[str, Row], records: Iterable[Record]) -> str:
    """The table, with the last verdict of each reliability test."""
    best = latest(records)
    return HEAD + "".join(_line(entry, rows, best) for entry in ISSUES)


def guards(entry: KnownIssue, rows: Mapping[str, Row]) -> tuple[str, ...]:
    """path, or path::name, of the tests that verify an entry."""
    if entry.guard:
        return (entry.guard,)
    row = rows[entry.row]
    (path,) = FOLDER.glob(f"row_{int(entry.row):02d}_*.py")
    return row.guarded_by or (f"tools/reliability/{path.name}",)


def _line(entry: KnownIssue, rows: Mapping[str, Row], best: Mapping[tuple[str, str], Record]) -> str:
    here = f"{entry.here} ([figures]({entry.figures}))" if entry.figures else entry.here
    verified = f"`{entry.guard}`"
    if entry.row:
        verified = f"[test {entry.row}](tests.md#results): {table.verdicts(rows[entry.row], best)}"
    return f"| {entry.issue} | {entry.where} | {here} | {verified} |\n"
