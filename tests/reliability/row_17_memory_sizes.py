"""Memory, sizes of requests."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="17",
    title="Memory, sizes of requests",
    method="10^6 requests of 64 sizes",
    goal="RSS + less than 2 % from 10 % to 100 % of them",
    wire=True,
    run=not_yet("the row is not written yet"),
)
