"""Decompression bombs."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="7",
    title="Decompression bombs",
    method="300 KB that are 300 MB, gzip and deflate",
    goal="RESOURCE_EXHAUSTED, RSS + less than 16 MiB, no handler run",
    wire=True,
    run=not_yet("the row is not written yet"),
)
