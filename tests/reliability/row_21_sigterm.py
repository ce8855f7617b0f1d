"""SIGTERM under load."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="21",
    title="SIGTERM under load",
    method="16 clients that ask without a pause, 50 rounds",
    goal="0 failed in flight, 0 CANCELLED, not ready 2 probes before the first refusal, exit code 0 within 40 s",
    wire=True,
    run=not_yet("the row is not written yet"),
)
