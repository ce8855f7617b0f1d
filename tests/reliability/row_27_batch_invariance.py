"""Batch invariance."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="27",
    title="Batch invariance",
    method="random splits of rows into requests and batches",
    goal="over the wire bit by bit what onnxruntime gives; in company at most 2 ulp from alone",
    wire=True,
    run=not_yet("the row is not written yet"),
)
