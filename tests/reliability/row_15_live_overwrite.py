"""A live version's files change."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="15",
    title="A live version's files change",
    method="100 times truncated or overwritten in place",
    goal="0 SIGBUS, 0 changed answers",
    run=not_yet("the live repository is not there yet"),
)
