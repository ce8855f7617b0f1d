"""Generated parts of docs/reliability: a summary, and the tables of results, methods and runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tools.reliability.base import Row
from tools.reliability.record import FAIL, FOLDER, NOT_RUN, PASS, Record, latest

INDEX, TESTS = FOLDER / "index.md", FOLDER / "tests.md"
FIGURE = re.compile(r"\{([^}]*)\}")
Records = Iterable[Record]
Rows = Mapping[str, Row]


def summary(rows: Rows, records: Records) -> str:
    """How many tests pass, and the results that do not."""
    best = latest(records)
    verdicts = {name: [_verdict(best.get((name, way))) for way in row.ways] for name, row in rows.items()}
    every = [verdict for several in verdicts.values() for verdict in several]
    good = sum(all(verdict == PASS for verdict in several) for several in verdicts.values())
    bad = [
        _line(_title(row, way), row.goal, _result(row, best.get((name, way))), _shown(best.get((name, way))))
        for name, row in rows.items()
        for way, verdict in zip(row.ways, verdicts[name], strict=True)
        if verdict != PASS
    ]
    text = (
        f"{good} of {len(rows)} tests pass: {every.count(PASS)} of {len(every)} results, {every.count(FAIL)} fail, "
        f"{every.count(NOT_RUN)} not run.\n"
    )
    return text + ("\n" + _table(("test", "target", "result", "verdict"), bad) if bad else "")


def results(rows: Rows, records: Records) -> str:
    """One line per test and transport."""
    best = latest(records)
    lines = []
    for row, way in _each(rows):
        record = best.get((row.number, way))
        date = record.date.partition(" ")[0] if record and record.verdict != NOT_RUN else ""
        lines.append(_line(_title(row, way), row.goal, _result(row, record), _shown(record), date))
    return _table(("test", "target", "result", "verdict", "date"), lines)


def methods(rows: Rows, records: Records) -> str:
    """One line per test."""
    return _table(("test", "method"), [_line(_title(row), row.method) for row in rows.values()])


def runs(rows: Rows, records: Records) -> str:
    """One line per run, and the machines."""
    best = latest(records)
    lines, places = [], []
    for row, way in _each(rows):
        record = best.get((row.number, way))
        if record is None or record.verdict == NOT_RUN:
            continue
        load = f"{record.load:.0f}" if record.load else ""
        effort = (str(record.seed), _number(record.count), _seconds(record.seconds), load, record.commit)
        lines.append(_line(f"{row.number} ({way})" if way else row.number, *effort))
        places.append(f"* {record.machine}. {record.versions}.\n")
    head = ("test", "seed", "attempts", "duration", "load", "commit")
    return _table(head, lines) + "\nMachine and versions:\n\n" + "".join(dict.fromkeys(places))


# Page and name of each part, and the function that writes it.
PARTS = {
    (INDEX, "reliability summary"): summary,
    (TESTS, "reliability results"): results,
    (TESTS, "reliability methods"): methods,
    (TESTS, "reliability runs"): runs,
}


def write(text: str, page: Path, name: str) -> None:
    """Replace a generated part of a page. Raises ValueError if the page does not have it."""
    before = page.read_text()
    begin, end = marks(name)
    place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not place.search(before):
        raise ValueError(f"{page} has no line {begin.strip()}")
    page.write_text(place.sub(lambda _: begin + text + end, before))


def marks(name: str) -> tuple[str, str]:
    """First and last line of a generated part."""
    return f"<!-- {name}: written by python -m tools.reliability -->\n", f"<!-- end of {name} -->\n"


def verdicts(row: Row, best: Mapping[tuple[str, str], Record]) -> str:
    """Verdict of a test over each transport."""
    return ", ".join(_shown(best.get((row.number, way))) + (f" ({way})" if way else "") for way in row.ways)


def _each(rows: Rows) -> Iterator[tuple[Row, str]]:
    return ((row, way) for row in rows.values() for way in row.ways)


def _title(row: Row, way: str = "") -> str:
    number = f"{row.number} " if row.number.isdigit() else ""
    return number + row.title + (f" ({way})" if way else "")


def _verdict(record: Record | None) -> str:
    return NOT_RUN if record is None else record.verdict


def _shown(record: Record | None) -> str:
    if record is None or record.verdict == NOT_RUN:
        return NOT_RUN
    verdict = f"**{FAIL}**" if record.verdict == FAIL else record.verdict
    return verdict + (" (short form)" if record.form == "short" else "")


def _result(row: Row, record: Record | None) -> str:
    """The figures in the words of the test; all of them if it has no words. For a test that did not run, the reason."""
    if record is None:
        return ""
    if record.verdict == NOT_RUN or not record.figures:
        return record.notes
    if not row.result:
        return ", ".join(f"{name} {_number(value)}" for name, value in record.figures.items())
    return FIGURE.sub(lambda match: _number(record.figures.get(match[1], "unknown")), row.result)


def _table(head: Sequence[str], lines: Sequence[str]) -> str:
    return "\n".join([_line(*head), "|" + "---|" * len(head), *lines]) + "\n"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 180 else f"{value / 60:.0f} min"
