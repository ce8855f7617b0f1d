"""Mutated bundles."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="10",
    title="Mutated bundles",
    method="10^5 mutated bundles, tried beside a version that serves",
    goal="the server never dies, the old version answers bit by bit the same throughout",
    run=not_yet("the try-out of versions in a child is not there yet"),
)
