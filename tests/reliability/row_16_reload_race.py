"""Reloads that race."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="16",
    title="Reloads that race",
    method="10^4 flips by another thread while versions are read",
    goal="what is loaded is always one that a manifest describes",
    run=not_yet("the live repository is not there yet"),
)
