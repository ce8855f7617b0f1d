"""Page docs/reference/metrics.md, from the definitions of the metrics."""

from __future__ import annotations

from kanserve.observability.metrics import DEFINITIONS, TRITON_COUNTERS, TRITON_FAILURES, TRITON_GAUGES
from tools.reference.tables import table

HEAD = """# Metrics

This page lists every metric of the server, for SREs who write queries and alerts.

`make reference` writes this file from `service/kanserve/observability/metrics.py`. The server serves the metrics at
`http://127.0.0.1:8002/metrics`; [Metrics](../guides/monitor/metrics.md) explains how to scrape and combine them.

With several workers, the metrics port merges the values of all workers by the rule in the column "workers". Labels hold
no value that a client chooses: an unknown model counts as `_unknown_`.
"""
TRITON = """## Triton's metrics

These metrics have the names and units of Triton, so that dashboards for Triton work. All have the labels `model` and
`version`; `{failures}` also has `reason`.
"""
LABELS = """## Histograms

A histogram `NAME` has the series `NAME_bucket`, `NAME_sum` and `NAME_count`.
"""


def page() -> str:
    """The page."""
    own = table(
        ("metric", "type", "labels", "workers", "meaning"),
        (
            (
                f"`{metric.name}`",
                metric.kind,
                ", ".join(f"`{label}`" for label in metric.labels) or "-",
                metric.merge.name.lower(),
                metric.help,
            )
            for metric in DEFINITIONS
        ),
    )
    buckets = table(
        ("histogram", "upper bounds of the buckets"),
        (
            (f"`{metric.name}`", ", ".join(f"{bound:g}" for bound in metric.buckets))
            for metric in DEFINITIONS
            if metric.buckets
        ),
    )
    triton = table(
        ("metric", "type", "meaning"),
        [
            *((f"`{name}`", "counter", text) for name, text, _ in TRITON_COUNTERS),
            (f"`{TRITON_FAILURES}`", "counter", "Number of failed inference requests"),
            *((f"`{name}`", "gauge", text) for name, text, _ in TRITON_GAUGES),
        ],
    )
    return "\n".join(
        [HEAD, "## kanserve's metrics\n", own, LABELS, buckets, TRITON.format(failures=TRITON_FAILURES), triton]
    )
