"""Overload."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="23",
    title="Overload",
    method="5 times what can be answered, for 60 s",
    goal="goodput at least 90 % of the peak, refusals below 5 ms p99, RSS + less than 10 %, over within 2 s",
    wire=True,
    run=not_yet("the row is not written yet"),
)
