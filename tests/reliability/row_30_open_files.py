"""Descriptors and connections run out."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="30",
    title="Descriptors and connections run out",
    method="a low limit of open files, 1000 idle connections",
    goal="streams that are there go on, new ones within 5 s after",
    wire=True,
    run=not_yet("the row is not written yet"),
)
