"""Conformance."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="34",
    title="Conformance",
    method="tritonclient, the cases of gRPC's interoperability tests, and the bytes of every message",
    goal="100 %",
    wire=True,
    run=not_yet("the row is not written yet"),
)
