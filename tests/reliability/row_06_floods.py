"""Floods and silence."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="6",
    title="Floods and silence",
    method="CONTINUATION, HPACK, half prefaces, streams without a body, 500 connections",
    goal="others answered 100 %, p99 below 250 ms, RSS + less than 64 MiB",
    wire=True,
    run=not_yet("the row is not written yet"),
)
