"""Differential."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="28",
    title="Differential",
    method="10^3 random KANs: torch in float64, numpy, the ONNX reference, onnxruntime",
    goal="within the tolerances, 0 disagreements, knots, beyond the grid and NaN included",
    run=not_yet("the row is not written yet"),
)
