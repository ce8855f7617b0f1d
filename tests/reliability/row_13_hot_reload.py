"""Reload under load."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="13",
    title="Reload under load",
    method="200 changes of version under 8 clients",
    goal="0 lost of 10^6 requests, every answer equal to one version's exactly, and its version is told truly",
    wire=True,
    run=not_yet("the live repository is not there yet"),
)
