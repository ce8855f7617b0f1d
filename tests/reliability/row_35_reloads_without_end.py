"""Reloads without end."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="35",
    title="Reloads without end",
    method="10 000 reloads",
    goal="the slopes of latency and of RSS are 0",
    run=not_yet("the live repository is not there yet"),
)
