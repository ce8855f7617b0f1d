"""What is open by default."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="12",
    title="What is open by default",
    method="a start without flags, and a scan",
    goal="127.0.0.1 only: the port and the metrics; admin, reflection and channelz UNIMPLEMENTED",
    wire=True,
    run=not_yet("access is not there yet"),
)
