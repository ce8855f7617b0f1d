"""Mutation score."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="mutation",
    title="Mutation score",
    method="batcher, loader, access and validator changed one spot at a time (make mutate)",
    goal="at least 85 % noticed, 100 % of the branches covered",
    run=not_yet("the row is not written yet"),
)
