"""Page docs/reference/alerts.md, from the Prometheus rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tools.reference.tables import table

RULES = Path(__file__).resolve().parents[2] / "service" / "deploy" / "monitoring" / "prometheus" / "rules.yml"
HEAD = """# Alerts

This page lists every alert that kanserve ships, for the SRE who routes them.

`make reference` writes this file from `service/deploy/monitoring/prometheus/rules.yml`. Severity `page` needs a person
now. `ticket` can wait until the next working day. `info` needs no action by itself. Each name links to its section of
the [runbook](../operations/runbook.md).
"""
VARIABLE = re.compile(r"\{\{\s*\$labels\.(\w+)\s*\}\}")
VALUE = re.compile(r"\{\{\s*\$value[^}]*\}\}")


class Alert(NamedTuple):
    """One alert rule. `wait`: how long the expression holds before the alert fires."""

    name: str
    wait: str
    severity: str
    summary: str
    description: str
    runbook: str


def alerts(text: str) -> list[Alert]:
    """The alerts of a rules file in its order."""
    known = []
    for block in re.split(r"(?m)^ +- (?=alert: )", text)[1:]:

        def field(name: str, block: str = block) -> str:
            match = re.search(rf"(?m)\b{name}: *(.+?)\}}?$", block)
            return match[1].strip().strip('"') if match else ""

        known.append(
            Alert(
                field("alert"),
                field("for") or "0s",
                field("severity"),
                field("summary"),
                field("description"),
                field("runbook_url"),
            )
        )
    return known


def page() -> str:
    """The page."""
    rows = (
        (
            f"[`{alert.name}`](../{alert.runbook.partition('/docs/')[2]})",
            alert.severity,
            alert.wait,
            _plain(alert.summary),
            _plain(alert.description),
        )
        for alert in alerts(RULES.read_text())
    )
    return "\n".join([HEAD, table(("alert", "severity", "after", "summary", "description"), rows)])


def _plain(text: str) -> str:
    return VALUE.sub("`value`", VARIABLE.sub(r"`\1`", text))
