"""Who may call what."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="11",
    title="Who may call what",
    method="every method and route, with no, bad, read, admin and expired credentials, over TLS and mTLS",
    goal="100 % as the table says; a method without an entry fails",
    wire=True,
    run=not_yet("access is not there yet"),
)
