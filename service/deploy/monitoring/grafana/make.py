"""Generator of the Grafana dashboard kanserve.json: `python make.py`. It needs only the standard library.

The JSON file is committed, so that Grafana and readers need only this file. A test compares the file
with this script, and compares its metrics with those of a running server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("kanserve.json")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SERVER = 'namespace=~"$namespace", release=~"$release", job=~"$job", instance=~"$instance"'
MODEL = f'{SERVER}, model=~"$model", version=~"$version"'
BY_MODEL = "by (model, version)"
NAMED = "{{model}} v{{version}}"
WIDTH = 24  # Grafana's columns

Panel = dict[str, Any]


def rate(metric: str, labels: str = MODEL) -> str:
    """Per second, over a window that fits the zoom."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def quantile(q: float, histogram: str, labels: str = MODEL, by: str = "model, version") -> str:
    """A quantile of a histogram, per series named in `by`."""
    grouped = ", ".join(filter(None, (by, "le")))
    return f"histogram_quantile({q}, sum by ({grouped}) ({rate(histogram + '_bucket', labels)}))"


def mean_us(phase: str) -> str:
    """Mean microseconds of one phase per executed request, in seconds."""
    spent = rate(f"nv_inference_{phase}_duration_us")
    done = rate("nv_inference_request_success")
    return f"sum ({spent}) / sum ({done}) / 1e6"


def panel(title: str, unit: str, *queries: tuple[str, str], help: str, kind: str = "timeseries") -> Panel:
    """One panel with its description. Queries are (expression, legend)."""
    targets = [
        {"refId": chr(65 + at), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
        for at, (expression, legend) in enumerate(queries)
    ]
    return {
        "title": title,
        "description": help,
        "type": kind,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": targets,
    }


def table(title: str, *queries: tuple[str, str], help: str) -> Panel:
    """The newest value of each series, as rows."""
    created = panel(title, "none", *queries, kind="table", help=help)
    for target in created["targets"]:
        target |= {"format": "table", "instant": True}
    return created


def heatmap(title: str, histogram: str) -> Panel:
    """A latency distribution over time."""
    query = f"sum by (le) ({rate(histogram + '_bucket')})"
    help = "Number of inference requests by duration. A brighter cell has more requests."
    created = panel(title, "s", (query, "{{le}}"), kind="heatmap", help=help)
    created["targets"][0]["format"] = "heatmap"
    created["options"] = {"calculate": False, "yAxis": {"unit": "s"}, "color": {"scheme": "Viridis", "mode": "scheme"}}
    return created


FAULTS = "INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED"
REST = f'{SERVER}, handler=~".*(/infer|:predict)"'
HANDLED = "grpc_server_handled_total"


def overview() -> list[Panel]:
    return [*tiles(), *traffic()]


def tiles() -> list[Panel]:
    """Panels with one number each. The requests are those of the rules."""
    unary, streams = f'{SERVER}, grpc_method="ModelInfer"', f'{SERVER}, grpc_method="ModelStreamInfer"'
    limited = f'{SERVER}, method=~".*(/ModelInfer|/ModelStreamInfer|/infer|:predict)"'
    requests = (
        rate(HANDLED, unary),
        rate(HANDLED, f'{streams}, grpc_code=~"{FAULTS}|RESOURCE_EXHAUSTED"'),
        rate("kanserve_stream_requests_total", SERVER),
        rate("http_requests_total", REST),
    )
    failed = (
        rate(HANDLED, f'{SERVER}, grpc_method=~"ModelInfer|ModelStreamInfer", grpc_code=~"{FAULTS}"'),
        rate("kanserve_stream_requests_total", f'{SERVER}, grpc_code=~"{FAULTS}"'),
        rate("http_requests_total", f'{REST}, status=~"500|503|504"'),
        rate("kanserve_requests_limited_total", limited),
    )
    return [
        panel(
            "Ready model versions",
            "none",
            (f"sum(kanserve_model_loaded{{{MODEL}}})", "ready"),
            kind="stat",
            help="Number of versions that are ready, added up over all servers.",
        ),
        panel(
            "Failed requests",
            "percentunit",
            (f"(sum({' or '.join(failed)}) or vector(0)) / sum({' or '.join(requests)})", "share"),
            kind="stat",
            help="Share of inference requests that failed because of the server. Invalid and cancelled requests do not "
            "count. The objective is 99.9% success.",
        ),
        panel(
            "Inference p99",
            "s",
            (quantile(0.99, "kanserve_request_duration_seconds", by=""), "p99"),
            kind="stat",
            help="Duration that 99% of inference requests do not exceed, measured in the server.",
        ),
        panel(
            "Requests per second",
            "reqps",
            (f"sum({' or '.join(requests)})", "completed"),
            kind="stat",
            help="Inference requests of all protocols that completed, per second.",
        ),
    ]


def traffic() -> list[Panel]:
    """Requests and their latency over time."""
    return [
        panel(
            "Successful inferences",
            "reqps",
            (f"sum {BY_MODEL} ({rate('nv_inference_request_success')})", NAMED),
            help="Successful inference requests per second, by version.",
        ),
        panel(
            "Failed inferences by reason",
            "reqps",
            (f"sum by (model, version, reason) ({rate('nv_inference_request_failure')})", NAMED + " {{reason}}"),
            help="Failed inference requests per second. REJECTED: a full queue, a limit or a shutdown. BACKEND: the "
            "runtime failed. CANCELED: the client cancelled. OTHER: all others.",
        ),
        panel(
            "Inference latency",
            "s",
            *((quantile(q, "kanserve_request_duration_seconds"), f"p{q * 100:g} {NAMED}") for q in (0.5, 0.95, 0.99)),
            help="Duration of inference requests in the server, from parsing to the response: median, p95 and p99.",
        ),
        panel(
            "RPCs by status",
            "reqps",
            (f"sum by (grpc_method, grpc_code) ({rate(HANDLED, SERVER)})", "{{grpc_method}} {{grpc_code}}"),
            help="Completed gRPC calls per second, by method and status code.",
        ),
        panel(
            "REST inferences by status",
            "reqps",
            (f"sum by (handler, status) ({rate('http_requests_total', REST)})", "{{handler}} {{status}}"),
            help="Completed inference requests over HTTP per second, by route and status.",
        ),
        panel(
            "Stream requests and rejections",
            "reqps",
            (f"sum by (grpc_code) ({rate('kanserve_stream_requests_total', SERVER)})", "stream {{grpc_code}}"),
            (f"sum by (method) ({rate('kanserve_requests_limited_total', SERVER)})", "limit {{method}}"),
            help="Requests of ModelStreamInfer streams per second, by status code. Requests that a limit "
            "on all requests rejected, by method or route.",
        ),
    ]


def latency() -> list[Panel]:
    phases = ("queue", "compute_input", "compute_infer", "compute_output")
    return [
        panel(
            "Latency breakdown (mean)",
            "s",
            *((mean_us(phase), phase) for phase in phases),
            help="Mean time of an inference request in each phase: queue, input conversion, model execution and output "
            "conversion.",
        ),
        heatmap("Inference latency distribution", "kanserve_request_duration_seconds"),
        panel(
            "Queue p99",
            "s",
            (quantile(0.99, "kanserve_queue_duration_seconds"), NAMED),
            help="Time that 99% of inference requests do not exceed in the queue.",
        ),
        panel(
            "Model execution p99",
            "s",
            (quantile(0.99, "kanserve_inference_duration_seconds"), NAMED),
            help="Duration that 99% of model executions do not exceed, without the time in the queue. One execution "
            "computes a batch.",
        ),
        panel(
            "RPC duration p99",
            "s",
            (quantile(0.99, "grpc_server_handling_seconds", SERVER, "grpc_method"), "{{grpc_method}}"),
            help="Duration that 99% of gRPC calls do not exceed, by method. A stream counts until it ends.",
        ),
        panel(
            "Request duration (mean)",
            "s",
            (mean_us("request"), "request"),
            help="Mean duration of inference requests: all phases of the latency breakdown, and the time between them.",
        ),
    ]


def models() -> list[Panel]:
    return [*versions(), *batches(), *loads()]


def versions() -> list[Panel]:
    """States of the versions and their changes."""
    return [
        table(
            "Model versions",
            (f"kanserve_model_loaded{{{MODEL}}}", ""),
            (f"kanserve_model_load_duration_seconds{{{MODEL}}}", ""),
            help="State of each version (1: ready; 0: in the repository, but not ready) and duration of its last load.",
        ),
        panel(
            "Repository changes",
            "none",
            (f"sum {BY_MODEL} ({rate('kanserve_model_loads_total')})", f"{NAMED} loads per second"),
            (f"sum {BY_MODEL} (kanserve_model_rejected{{{MODEL}}})", f"{NAMED} rejected"),
            (f"sum {BY_MODEL} (kanserve_model_files_missing{{{MODEL}}})", f"{NAMED} files missing"),
            help="Loads per second. Number of servers that reject the files of a version, and of servers that serve a "
            "version whose files are missing.",
        ),
    ]


def batches() -> list[Panel]:
    """Rows, and rows per execution."""
    return [
        panel(
            "Rows per second",
            "rowsps",
            (f"sum {BY_MODEL} ({rate('nv_inference_count')})", NAMED),
            help="Rows that the models computed, per second. One request can have many rows.",
        ),
        panel(
            "Rows per execution (mean)",
            "none",
            (
                f"sum {BY_MODEL} ({rate('nv_inference_count')}) / sum {BY_MODEL} ({rate('nv_inference_exec_count')})",
                NAMED,
            ),
            help="Mean batch size. If it stays at 1 under load, check the setting batching.",
        ),
        panel(
            "Rows per execution p95",
            "none",
            (quantile(0.95, "kanserve_batch_rows"), NAMED),
            help="Batch size that 95% of executions do not exceed. Large batches take longer.",
        ),
    ]


def loads() -> list[Panel]:
    """Duration and failures of loads."""
    return [
        panel(
            "Load time",
            "s",
            (f"nv_model_load_duration_secs{{{MODEL}}}", NAMED),
            help="Duration of the last load of each version: reading, checks and preparation.",
        ),
        panel(
            "Failed loads by reason",
            "none",
            (f"sum by (reason) (kanserve_model_load_failures_total{{{SERVER}}})", "{{reason}}"),
            help="Failed loads since the start of the servers. The runbook of KanserveModelLoadFailed explains the "
            "reasons.",
        ),
    ]


def resources() -> list[Panel]:
    busy = rate("nv_inference_compute_infer_duration_us")
    return [
        panel(
            "Requests in flight",
            "none",
            (f"kanserve_inflight_requests{{{SERVER}}}", "{{instance}}"),
            help="gRPC and HTTP requests that the server handles at this moment. The limit is max_inflight_requests.",
        ),
        panel(
            "Requests in queue",
            "none",
            (f"sum {BY_MODEL} (nv_inference_pending_request_count{{{MODEL}}})", NAMED),
            help="Inference requests in the queue or in execution, by version. The limit is max_pending_requests.",
        ),
        panel(
            "Compute utilization",
            "percentunit",
            (f"sum by (instance) ({busy}) / 1e6", "{{instance}}"),
            help="Time of model executions per second. 100% is one busy compute thread; several threads add up.",
        ),
        panel(
            "Resident memory",
            "bytes",
            (f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}}"),
            help="Physical memory of the server process. With several workers, their sum.",
        ),
        panel(
            "Open files",
            "none",
            (f"process_open_fds{{{SERVER}}}", "{{instance}}"),
            help="Open file descriptors of the server process. Each connection needs one.",
        ),
        table(
            "Build",
            (f"kanserve_build_info{{{SERVER}}}", ""),
            help="Version, runtime and device of each server.",
        ),
    ]


def edge_queries() -> list[Panel]:
    name = "kanserve_edge_query_duration_seconds"
    return [
        panel(
            "Edge queries by status",
            "reqps",
            (f"sum by (model, version, grpc_code) ({rate('kanserve_edge_queries_total')})", NAMED + " {{grpc_code}}"),
            help="Completed edge queries per second, by version and status code.",
        ),
        panel(
            "Edge query latency",
            "s",
            *((quantile(q, name), f"p{q * 100:g} {NAMED}") for q in (0.5, 0.99)),
            help="Duration of edge queries: median and p99. Edge queries share the CPU with inference.",
        ),
        panel(
            "Edge values per second",
            "ops",
            (f"sum {BY_MODEL} ({rate('kanserve_edge_values_total')})", NAMED),
            help="Edge values that the server sent to clients, per second.",
        ),
    ]


def data() -> list[Panel]:
    layer = f"{NAMED} layer {{{{layer}}}}"
    by = "by (model, version, layer)"
    return [
        panel(
            "Drift ratio (PSI / threshold)",
            "short",
            (f"max {by} (kanserve_drift_psi_ratio{{{MODEL}}})", layer),
            help="Largest population stability index of the layer's nodes, divided by the no-drift threshold. Above 1, "
            "a node has drifted. An alert fires above 3.",
        ),
        panel(
            "Out-of-range values",
            "percentunit",
            (f"max {by} (kanserve_out_of_range_ratio{{{MODEL}}})", layer),
            (f"max {by} (kanserve_baseline_out_of_range_ratio{{{MODEL}}})", f"{layer}, baseline"),
            help="Share of the layer's values that are out of range, in live traffic and in the baseline.",
        ),
        panel(
            "Sampled rows per second",
            "ops",
            (f"sum {BY_MODEL} ({rate('kanserve_statistics_sampled_rows_total')})", NAMED),
            help="Rows of live traffic that were sampled for statistics, per second. The limit is "
            "statistics_rows_per_second.",
        ),
        panel(
            "Out-of-range rows per second",
            "ops",
            (f"sum {BY_MODEL} ({rate('kanserve_out_of_range_rows_total')})", NAMED),
            help="Rows per second that the model flagged or rejected because an input is out of range.",
        ),
        panel(
            "Predicted classes per second (sampled)",
            "ops",
            (
                f"sum by (model, version, class) ({rate('kanserve_statistics_class_rows_total')})",
                f"{NAMED} {{{{class}}}}",
            ),
            help="Sampled rows per second, by predicted class. A class that appears or disappears can mean drift.",
        ),
        panel(
            "Certified range violations per second",
            "ops",
            (f"sum {BY_MODEL} ({rate('kanserve_certified_range_violations_total')}) or vector(0)", NAMED),
            help="Checked rows per second in the certified box with an output outside of the certified range. An alert "
            "fires above 0, because this is a bug.",
        ),
    ]


def laid_out(rows: dict[str, list[Panel]]) -> list[Panel]:
    """Panels with ids and positions: a title bar per row, four stat panels or three other panels per line."""
    placed: list[Panel] = []
    top = 0
    for title, panels in rows.items():
        placed.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": box(0, top, WIDTH, 1)}
        )
        top += 1
        left = 0
        height = 0
        for created in panels:
            width, tall = (6, 4) if created["type"] == "stat" else (8, 8)
            if left + width > WIDTH or (height and height != tall):
                left, top = 0, top + height
            height = tall
            placed.append({**created, "gridPos": box(left, top, width, tall)})
            left += width
        top += height
    return [{"id": at, **created} for at, created in enumerate(placed, 1)]


def box(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def variable(name: str, query: str, *, everything: str | None = ".*") -> dict[str, Any]:
    """A drop-down list of the values of a label, which allows several values or all.

    `everything` is the pattern for "All"; None: exactly the values in the list.
    """
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "includeAll": True,
        "allValue": everything,
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard() -> dict[str, Any]:
    """The whole document."""
    loaded = "kanserve_model_loaded"
    source = {"name": "datasource", "label": "datasource", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "id": None,
        "uid": "kanserve",
        "title": "kanserve",
        "description": "Requests, latency, models, resources and data quality of kanserve servers.",
        "tags": ["kanserve"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                source,
                variable("namespace", "label_values(kanserve_build_info, namespace)"),
                variable("release", 'label_values(kanserve_build_info{namespace=~"$namespace"}, release)'),
                variable("job", 'label_values(kanserve_build_info{namespace=~"$namespace", release=~"$release"}, job)'),
                variable(
                    "instance",
                    'label_values(kanserve_build_info{namespace=~"$namespace", release=~"$release", job=~"$job"}, '
                    "instance)",
                ),
                variable("model", f'label_values({loaded}{{{SERVER}, model!="_unknown_"}}, model)', everything=None),
                variable("version", f'label_values({loaded}{{{SERVER}, model=~"$model"}}, version)'),
            ]
        },
        "panels": laid_out(
            {
                "Overview": overview(),
                "Latency": latency(),
                "Models": models(),
                "Resources": resources(),
                "Edge queries": edge_queries(),
                "Data quality": data(),
            }
        ),
    }


def text() -> str:
    """The content of the committed file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
