"""Fairness."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="29",
    title="Fairness",
    method="model A asked for ten times its capacity, B steadily",
    goal="p99 of B at most twice of what it is alone, 0 errors of B",
    wire=True,
    run=not_yet("the row is not written yet"),
)
