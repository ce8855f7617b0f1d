"""Soak."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="20",
    title="Soak",
    method="everything at once for hours, a fault every minute (--minutes)",
    goal="less than 0.1 MiB an hour, descriptors within 2, the same threads, 0 errors that no fault explains",
    wire=True,
    run=not_yet("the row is not written yet"),
)
