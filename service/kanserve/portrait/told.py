"""The parts of a report as JSON, each picture as the text of an SVG file."""

from __future__ import annotations

from typing import Any

from kanserve.pictures import svg
from kanserve.pictures.page import Bars, Facts, Grid, Part, Report


def plain(report: Report) -> dict[str, Any]:
    """Of dicts, lists, strings and numbers."""
    return {
        "title": report.title,
        "lead": report.lead,
        "parts": [_part(part) for part in report.parts],
        "footer": report.footer,
    }


def _part(part: Part) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": type(part).__name__.lower(), "heading": part.heading}
    if isinstance(part, Facts):
        return found | {"lines": [list(line) for line in part.lines]}
    found["remark"] = part.remark
    if isinstance(part, Grid):
        return found | {"head": list(part.head), "lines": [list(line) for line in part.lines]}
    if isinstance(part, Bars):
        return found | {"lines": [[name, number] for name, number in part.lines]}
    return found | {"pictures": [{"title": scene.title, "svg": svg.text(scene)} for scene in part.scenes]}
