"""One bad row among good ones."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="26",
    title="One bad row among good ones",
    method="10^4 batches with one request that cannot be answered",
    goal="0 others fail, and theirs are bit by bit what they are alone",
    wire=True,
    run=not_yet("the row is not written yet"),
)
