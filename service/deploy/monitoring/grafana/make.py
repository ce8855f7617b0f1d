"""Generator of the Grafana dashboard kanserve.json: `python make.py`. It needs only the standard library.

The JSON file is committed, so that Grafana and readers need only this file. A test compares the file
with this script, and requests every metric in it from a running server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("kanserve.json")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SERVER = 'job=~"$job", instance=~"$instance"'
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


def panel(title: str, unit: str, *queries: tuple[str, str], kind: str = "timeseries", help: str = "") -> Panel:
    """One panel. Queries are (expression, legend)."""
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


def table(title: str, *queries: tuple[str, str], help: str = "") -> Panel:
    """The newest value of every series, as rows."""
    created = panel(title, "none", *queries, kind="table", help=help)
    for target in created["targets"]:
        target |= {"format": "table", "instant": True}
    return created


def heatmap(title: str, histogram: str) -> Panel:
    """A latency distribution over time."""
    query = f"sum by (le) ({rate(histogram + '_bucket')})"
    created = panel(title, "s", (query, "{{le}}"), kind="heatmap", help="Brighter: more requests of that duration.")
    created["targets"][0]["format"] = "heatmap"
    created["options"] = {"calculate": False, "yAxis": {"unit": "s"}, "color": {"scheme": "Viridis", "mode": "scheme"}}
    return created


def overview() -> list[Panel]:
    infer = f'{SERVER}, grpc_method="ModelInfer"'
    failed = f'{infer}, grpc_code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED"'
    handled = "grpc_server_handled_total"
    return [
        panel("Models ready", "none", (f"sum(kanserve_model_loaded{{{MODEL}}})", "ready"), kind="stat"),
        panel(
            "Failing requests",
            "percentunit",
            (f"(sum({rate(handled, failed)}) or vector(0)) / sum({rate(handled, infer)})", "share"),
            kind="stat",
            help="Share of inference requests that the server failed; wrong requests do not count.",
        ),
        panel("Inference p99", "s", (quantile(0.99, "kanserve_request_duration_seconds", by=""), "p99"), kind="stat"),
        panel(
            "Requests per second", "reqps", (f"sum({rate('grpc_server_started_total', infer)})", "begun"), kind="stat"
        ),
        panel("Successful inferences", "reqps", (f"sum {BY_MODEL} ({rate('nv_inference_request_success')})", NAMED)),
        panel(
            "Failed inferences by reason",
            "reqps",
            (f"sum by (model, version, reason) ({rate('nv_inference_request_failure')})", NAMED + " {{reason}}"),
        ),
        panel(
            "Inference latency",
            "s",
            *((quantile(q, "kanserve_request_duration_seconds"), f"p{q * 100:g} {NAMED}") for q in (0.5, 0.95, 0.99)),
        ),
        panel(
            "RPCs by status",
            "reqps",
            (f"sum by (grpc_method, grpc_code) ({rate(handled, SERVER)})", "{{grpc_method}} {{grpc_code}}"),
        ),
    ]


def latency() -> list[Panel]:
    phases = ("queue", "compute_input", "compute_infer", "compute_output")
    return [
        panel("Latency by phase, mean", "s", *((mean_us(phase), phase) for phase in phases)),
        heatmap("Inference latency", "kanserve_request_duration_seconds"),
        panel("Queue p99", "s", (quantile(0.99, "kanserve_queue_duration_seconds"), NAMED)),
        panel("Graph p99", "s", (quantile(0.99, "kanserve_inference_duration_seconds"), NAMED)),
        panel(
            "RPC handling p99",
            "s",
            (quantile(0.99, "grpc_server_handling_seconds", SERVER, "grpc_method"), "{{grpc_method}}"),
        ),
        panel("Whole request, mean", "s", (mean_us("request"), "request")),
    ]


def models() -> list[Panel]:
    return [
        table(
            "Model versions",
            (f"kanserve_model_loaded{{{MODEL}}}", ""),
            (f"kanserve_model_load_duration_seconds{{{MODEL}}}", ""),
            help="1: ready. 0: in the repository, but not ready.",
        ),
        panel(
            "Repository changes",
            "none",
            (f"sum {BY_MODEL} ({rate('kanserve_model_loads_total')})", f"{NAMED} loads per second"),
            (f"sum {BY_MODEL} (kanserve_model_rejected{{{MODEL}}})", f"{NAMED} rejected"),
            (f"sum {BY_MODEL} (kanserve_model_files_missing{{{MODEL}}})", f"{NAMED} files missing"),
        ),
        panel("Rows per second", "rowsps", (f"sum {BY_MODEL} ({rate('nv_inference_count')})", NAMED)),
        panel(
            "Rows per execution, mean",
            "none",
            (
                f"sum {BY_MODEL} ({rate('nv_inference_count')}) / sum {BY_MODEL} ({rate('nv_inference_exec_count')})",
                NAMED,
            ),
        ),
        panel("Rows per execution p95", "none", (quantile(0.95, "kanserve_batch_rows"), NAMED)),
        panel("Load time", "s", (f"nv_model_load_duration_secs{{{MODEL}}}", NAMED)),
        panel(
            "Failed loads by reason",
            "none",
            (f"sum by (reason) (kanserve_model_load_failures_total{{{SERVER}}})", "{{reason}}"),
        ),
    ]


def resources() -> list[Panel]:
    busy = rate("nv_inference_compute_infer_duration_us")
    return [
        panel("RPCs in flight", "none", (f"kanserve_inflight_requests{{{SERVER}}}", "{{instance}}")),
        panel("Requests waiting", "none", (f"sum {BY_MODEL} (nv_inference_pending_request_count{{{MODEL}}})", NAMED)),
        panel(
            "Busy",
            "percentunit",
            (f"sum by (instance) ({busy}) / 1e6", "{{instance}}"),
            help="Graph seconds per second; above 1 where graphs run at the same time.",
        ),
        panel("Resident memory", "bytes", (f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}}")),
        panel("Open files", "none", (f"process_open_fds{{{SERVER}}}", "{{instance}}")),
        table("Build", (f"kanserve_build_info{{{SERVER}}}", "")),
    ]


def edge_queries() -> list[Panel]:
    name = "kanserve_edge_query_duration_seconds"
    return [
        panel(
            "Edge queries by status",
            "reqps",
            (f"sum by (model, version, grpc_code) ({rate('kanserve_edge_queries_total')})", NAMED + " {{grpc_code}}"),
        ),
        panel("Edge query latency", "s", *((quantile(q, name), f"p{q * 100:g} {NAMED}") for q in (0.5, 0.99))),
        panel("Edge values per second", "ops", (f"sum {BY_MODEL} ({rate('kanserve_edge_values_total')})", NAMED)),
    ]


def data() -> list[Panel]:
    layer = f"{NAMED} layer {{{{layer}}}}"
    by = "by (model, version, layer)"
    return [
        panel(
            "Drift, ratio to the no-drift threshold",
            "short",
            (f"max {by} (kanserve_drift_psi_ratio{{{MODEL}}})", layer),
        ),
        panel(
            "Out of range",
            "percentunit",
            (f"max {by} (kanserve_out_of_range_ratio{{{MODEL}}})", layer),
            (f"max {by} (kanserve_baseline_out_of_range_ratio{{{MODEL}}})", f"{layer}, baseline"),
        ),
        panel(
            "Rows analysed per second",
            "ops",
            (f"sum {BY_MODEL} ({rate('kanserve_statistics_sampled_rows_total')})", NAMED),
        ),
        panel(
            "Out-of-range rows per second",
            "ops",
            (f"sum {BY_MODEL} ({rate('kanserve_out_of_range_rows_total')})", NAMED),
        ),
        panel(
            "Predicted classes, rows analysed per second",
            "ops",
            (
                f"sum by (model, version, class) ({rate('kanserve_statistics_class_rows_total')})",
                f"{NAMED} {{{{class}}}}",
            ),
        ),
    ]


def laid_out(rows: dict[str, list[Panel]]) -> list[Panel]:
    """Panels with ids and places: a title bar per row, stats in fours, the rest in threes."""
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
    """A drop-down of a label's values, several at once or all.

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
        "description": "Trained Kolmogorov-Arnold Networks over gRPC.",
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
                variable("job", "label_values(kanserve_build_info, job)"),
                variable("instance", 'label_values(kanserve_build_info{job=~"$job"}, instance)'),
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
                "Data": data(),
            }
        ),
    }


def text() -> str:
    """The content of the committed file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
