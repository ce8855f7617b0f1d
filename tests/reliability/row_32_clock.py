"""The clock jumps."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="32",
    title="The clock jumps",
    method="one hour forth and back, and summer time (faketime)",
    goal="0 timeouts and 0 reloads without a cause",
    wire=True,
    run=not_yet("not written yet"),
)
