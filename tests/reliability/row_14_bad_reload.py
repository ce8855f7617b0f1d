"""Reloads that fail."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="14",
    title="Reloads that fail",
    method="200 versions half-written, truncated, swapped, deleted or with a wrong hash",
    goal="0 failed calls, the old version serves, the metric counts each reason, back within one poll",
    wire=True,
    run=not_yet("the live repository is not there yet"),
)
