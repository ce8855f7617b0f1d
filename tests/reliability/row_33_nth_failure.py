"""The n-th call fails."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="33",
    title="The n-th call fails",
    method="every open, read, write, sync, rename and allocation of exporter and reloader in turn",
    goal="for all n: the old version intact, a typed error, nothing left over",
    run=not_yet("the try-out of versions in a child is not there yet"),
)
