"""Structured fuzz."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="3",
    title="Structured fuzz",
    method="a valid request with one field broken: datatype, shape, length, a name twice, both contents",
    goal="100 % INVALID_ARGUMENT, and the words name the field",
    wire=True,
    run=not_yet("the row is not written yet"),
)
