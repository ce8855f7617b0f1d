"""Deadlines in the queue."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="24",
    title="Deadlines in the queue",
    method="10^4 requests wait that have 20 ms",
    goal="0 of those whose time is over are run",
    wire=True,
    run=not_yet("the row is not written yet"),
)
