"""Memory after one large batch."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="19",
    title="Memory after one large batch",
    method="one batch as large as may be, then 10^4 small ones",
    goal="RSS back within 10 % of before",
    wire=True,
    run=not_yet("the row is not written yet"),
)
