"""Telemetry."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="36",
    title="Telemetry",
    method="a fresh HOME and no network, under the exporter and the server",
    goal="no file, no thread, no connection",
    run=not_yet("not written yet"),
)
