"""Message fuzz, in process."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="1",
    title="Message fuzz, in process",
    method="mutated messages into parse and validation of every method",
    goal="10^6 messages: 0 crashes, only codes of the contract, 0 INTERNAL or UNKNOWN",
    run=not_yet("the row is not written yet"),
)
