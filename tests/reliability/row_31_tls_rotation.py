"""Certificates rotate."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="31",
    title="Certificates rotate",
    method="50 rotations, 5 with broken files",
    goal="0 failed calls, the new one seen in the next handshake, broken ones ignored and counted",
    wire=True,
    run=not_yet("access is not there yet"),
)
