"""Hostile bundles."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="9",
    title="Hostile bundles",
    method="paths that leave, operators and domains that are not ours, two copies of data, deep functions",
    goal="100 % refused, 0 files opened outside the repository",
    run=not_yet("the try-out of versions in a child is not there yet"),
)
