"""Cancellations."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="25",
    title="Cancellations",
    method="10^4 calls cancelled at random moments",
    goal="nothing leaks: no future, no place in a queue; none that was cancelled in the queue is run",
    wire=True,
    run=not_yet("the row is not written yet"),
)
