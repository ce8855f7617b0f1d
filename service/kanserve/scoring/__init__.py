"""Scores of tables without a server: `Scorer` for record batches, `run` for files. It needs the extras `serve` and
`tables`."""

from __future__ import annotations

from kanserve.scoring.scorer import Scorer as Scorer
