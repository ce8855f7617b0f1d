"""Markdown table of the scorecard, written to docs/reliability.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.reliability.base import Row
from tools.reliability.record import NOT_RUN, ROOT, Record, latest

PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- the scorecard: written by python -m tools.reliability -->\n"
END = "<!-- end of the scorecard -->\n"
HEAD = (
    "| row | what is done | goal | transport | figure reached | seed, tries, duration, load | at | verdict |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def markdown(rows: Mapping[str, Row], records: Iterable[Record]) -> str:
    """The table, and on which machines it was filled."""
    best = latest(records)
    lines = [
        _line(row, transport, best.get((row.number, transport))) for row in rows.values() for transport in row.ways
    ]
    shown = [best[key] for row in rows.values() for transport in row.ways if (key := (row.number, transport)) in best]
    places = sorted({f"* {item.machine}; {item.versions}" for item in shown if item.verdict != NOT_RUN})
    reported = "\nWhere, and with what:\n\n" + "\n".join(places) + "\n" if places else ""
    return HEAD + "\n".join(lines) + "\n" + reported


def write(text: str, page: Path = PAGE, begin: str = BEGIN, end: str = END) -> None:
    """Into its place. Raises ValueError if the page has none."""
    before = page.read_text()
    place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not place.search(before):
        raise ValueError(f"{page} has no line {begin.strip()}")
    page.write_text(place.sub(lambda _: begin + text + end, before))


def _line(row: Row, transport: str, record: Record | None) -> str:
    first = transport == row.ways[0]  # the others stand below it
    said = (row.number, f"**{row.title}**: {row.method}" if first else "", row.goal if first else "", transport or "-")
    if record is None:
        return _cells(*said, "", "", "", NOT_RUN)
    if record.verdict == NOT_RUN:
        return _cells(*said, "", "", "", f"{NOT_RUN}: {record.notes}")
    figures = ", ".join(f"{name} {_number(value)}" for name, value in record.figures.items())
    effort = f"{record.seed}, {_number(record.count)}, {_seconds(record.seconds)}"
    effort += f", load {record.load:.0f}" if record.load else ""
    verdict = f"**{record.verdict}**" + (" (short form)" if record.form == "short" else "")
    return _cells(
        *said,
        f"{figures}. {record.notes}".removesuffix(". "),
        effort,
        f"{record.commit}, {record.date.partition(' ')[0]}",
        verdict,
    )


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}".replace(",", " ") if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 180 else f"{value / 60:.0f} min"
