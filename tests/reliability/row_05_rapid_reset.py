"""Rapid reset."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="5",
    title="Rapid reset",
    method="20 000 streams opened and reset",
    goal="0 handlers run after a reset, p99 of others at most 5 times idle, RSS + less than 10 MiB",
    wire=True,
    run=not_yet("the row is not written yet"),
)
