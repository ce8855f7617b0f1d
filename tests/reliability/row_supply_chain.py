"""Supply chain."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="supply",
    title="Supply chain",
    method="pip-audit over the locked requirements",
    goal="0 known to be vulnerable, 0 without a hash",
    run=not_yet("the row is not written yet"),
)
