"""Memory, loading and unloading."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="18",
    title="Memory, loading and unloading",
    method="500 times loaded and unloaded",
    goal="less than 5 MiB after the first 50",
    run=not_yet("the live repository is not there yet"),
)
