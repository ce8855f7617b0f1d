"""Hostile checkpoints."""

from __future__ import annotations

from tests.reliability.frame import Row, not_yet

ROW = Row(
    number="8",
    title="Hostile checkpoints",
    method="pickles, zips, YAML and safetensors made to harm, each exported in a process",
    goal="0 canary files, 100 % typed errors, less than 2 s and 500 MiB each",
    run=not_yet("the row is not written yet"),
)
