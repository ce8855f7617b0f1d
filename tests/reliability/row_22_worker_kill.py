"""A worker is killed."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="22",
    title="A worker is killed",
    method="20 times one of 2 workers, under clients that ask again and clients that do not",
    goal="with retry 0 lost, without at most what that worker held, back within 3 s",
    wire=True,
    run=not_yet("the row is not written yet"),
)
