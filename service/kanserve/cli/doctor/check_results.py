"""Findings of the checks, with their severity and the advice for the user."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kanexport.shared.cli.tables import Table


class Level(enum.StrEnum):
    """Severity of a finding. A warning may be intended. A problem prevents the start or a part of the service."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. `about` names the subject, `advice` says what to do if it is not in order."""

    level: Level
    about: str
    text: str
    advice: str = ""


def ok(about: str, text: str) -> Finding:
    """Finding without a fault."""
    return Finding(Level.OK, about, text)


def warning(about: str, text: str, advice: str) -> Finding:
    """Finding that you should check."""
    return Finding(Level.WARNING, about, text, advice)


def problem(about: str, text: str, advice: str) -> Finding:
    """Finding that you have to correct."""
    return Finding(Level.PROBLEM, about, text, advice)


def well(findings: Iterable[Finding]) -> bool:
    """True if no finding is a problem."""
    return all(finding.level is not Level.PROBLEM for finding in findings)


STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings as the document that `--json` prints."""
    return {"well": well(findings), "findings": [asdict(finding) for finding in findings]}


def show(title: str, findings: Sequence[Finding]) -> None:
    """Print one row per finding, and the number of findings of each level."""
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    caption = ", ".join(
        f"{count} {level}{'s' * (count != 1 and level is not Level.OK)}" for level, count in counts.items()
    )
    table = Table(title, ("result", "subject", "finding", "action"), caption=(caption,))
    for finding in findings:
        table.add(finding.level, finding.about, finding.text, finding.advice, style=STYLES[finding.level])
    table.show()
