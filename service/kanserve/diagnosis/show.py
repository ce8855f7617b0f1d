"""Findings for people, on stdout, and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kanexport.shared.tables import Table
from kanserve.diagnosis.finding import Finding, Level, well

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    return {"well": well(findings), "findings": [asdict(finding) for finding in findings]}


def show(title: str, findings: Sequence[Finding]) -> None:
    """A row a finding, and how many of each kind there are."""
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    caption = ", ".join(
        f"{count} {level}{'s' * (count != 1 and level is not Level.OK)}" for level, count in counts.items()
    )
    table = Table(title, ("", "of", "found", "what to do"), caption=(caption,))
    for finding in findings:
        table.add(finding.level, finding.about, finding.text, finding.advice, style=STYLES[finding.level])
    table.show()
