"""The reliability tests: each exists, results accumulate, and the tables show tests with and without a run."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.reliability import __main__ as command
from tools.reliability import base, incident_table, record, table
from tools.reliability.base import NUMBERS, NotRun, Outcome, Row, Scale, rows

ROWS, FULL = rows(), Scale(full=True)
GOOD = Row("1", "A", "asked", "0 lost", lambda scale, seed, transport: Outcome({"lost": scale.of(0, 1)}, True, 7))


def bad(scale: Scale, seed: int, transport: str) -> Outcome:
    return Outcome({"lost": 3}, False)


def endless(scale: Scale, seed: int, transport: str) -> Outcome:
    while True:
        pass


def test_every_row_is_there_once() -> None:
    assert tuple(ROWS) == NUMBERS
    assert len(list(base.FOLDER.glob("row_*.py"))) == len(NUMBERS)


def absent(guards: Iterable[str]) -> list[str]:
    """Those of path, or path::name, that name no test."""
    parts = {guard: guard.partition("::") for guard in guards}
    texts = {path: (record.ROOT / path).read_text() for path in {path for path, _, _ in parts.values()}}
    return [guard for guard, (path, _, test) in parts.items() if test and f"def {test}(" not in texts[path]]


def test_what_verifies_a_row_and_an_issue_exists() -> None:
    assert absent(name for row in ROWS.values() for name in row.guarded_by) == []
    assert [entry.issue for entry in incident_table.ISSUES if bool(entry.row) == bool(entry.guard)] == []
    assert absent(name for entry in incident_table.ISSUES for name in incident_table.guards(entry, ROWS)) == []


def test_figures_of_issues_are_on_their_pages() -> None:
    for entry in incident_table.ISSUES:
        if entry.figures:
            page = (incident_table.PAGE.parent / entry.figures).resolve().read_text()
            text = entry.here.partition("per request: ")[2] or entry.here
            figures = re.findall(r"\d[\d.,]*\d(?:x| s| us)", text)
            assert figures, entry.issue
            missing = [item for item in figures if not re.search(rf"(?<![\d.]){item.removesuffix(' us')}", page)]
            assert missing == [], entry.issue


def test_a_row_is_described_in_short_sentences_with_recorded_figures() -> None:
    seen = record.latest(record.load(record.RESULTS))
    for row in ROWS.values():
        for text in (row.method, row.goal, row.result):
            assert text.endswith("."), text
            long = [part for part in re.split(r"[.:] ", table.FIGURE.sub("0", text)) if len(part.split()) > 25]
            assert long == [], row.number
        for way in row.ways:
            unknown = set(table.FIGURE.findall(row.result)) - set(seen[row.number, way].figures)
            assert unknown == set(), (row.number, way)


@pytest.mark.parametrize(
    ("changes", "verdict", "notes"),
    [
        ({}, "pass", ""),
        ({"run": lambda *_: Outcome({}, False, notes="why")}, "fail", "why"),
        ({"run": base.not_yet("no transport")}, "not run", "no transport"),
        ({"run": lambda *_: 1 // 0}, "fail", "it ended with ZeroDivisionError"),
        ({"run": endless, "minutes": 0.001}, "fail", "TooLong"),
        ({"needs": ("no_such_module",)}, "not run", "no_such_module is not installed"),
    ],
)
def test_whatever_comes_of_a_run_is_a_record(changes: dict[str, Any], verdict: str, notes: str) -> None:
    result = command.one(replace(GOOD, **changes), Scale(full=False), 3, "")
    assert (result.verdict, result.seed, result.form) == (verdict, 3, "short")
    assert notes in result.notes
    assert result.commit
    assert result.machine
    assert "Python 3" in result.versions


def test_the_last_full_run_counts(tmp_path: Path) -> None:
    full = command.one(GOOD, Scale(full=True), 1, "")
    for number, item in enumerate(
        (full, replace(full, count=8), replace(full, form="short"), replace(full, verdict="not run"))
    ):
        record.append(replace(item, date=f"2026-01-0{number + 1}"), tmp_path / "results")
    assert record.latest(record.load(tmp_path / "results"))["1", ""].count == 8


def test_what_is_written_by_itself_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing after the first row of a run would count as of its commit, and be run again."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    assert record.commit() == "no commit"
    record.git("init", "-q")
    (tmp_path / "docs" / "reliability").mkdir(parents=True)
    for path in (*record.WRITTEN, "docs/other.md"):
        (tmp_path / path).write_text("before")
    record.git("add", "-A")
    record.git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "before")
    clean = record.commit()
    (tmp_path / record.WRITTEN[0]).write_text("a line more")
    assert record.commit() == clean
    assert not clean.endswith("+")
    (tmp_path / "docs" / "other.md").write_text("changed")
    assert record.commit() == f"{clean}+"


def test_the_tables_show_what_was_not_run() -> None:
    wire = replace(GOOD, number="2", title="B", wire=True, result="{lost} of {all} lost.")
    known = {"1": GOOD, "2": wire}
    seen = [command.one(wire, Scale(full=False), 1, "grpcio"), command.one(replace(wire, run=bad), FULL, 1, "asgi")]
    first, asgi, grpcio = table.results(known, seen).splitlines()[2:5]
    assert first == "| 1 A | 0 lost |  | not run |  |"
    assert asgi.startswith("| 2 B (asgi) | 0 lost | 3 of unknown lost. | **fail** | 2")
    assert grpcio.startswith("| 2 B (grpcio) | 0 lost | 0 of unknown lost. | pass (short form) | 2")
    text = table.runs(known, seen)
    assert "| 2 (grpcio) | 1 | 7 | 0 s |" in text
    assert text.count(seen[0].machine) == 1
    lines = table.summary(known, seen).splitlines()
    assert lines[0] == "0 of 2 tests pass: 1 of 3 results, 1 fail, 1 not run."
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| 1 A", "| 2 B (asgi)"]
    assert incident_table.table.verdicts(wire, record.latest(seen)) == "**fail** (asgi), pass (short form) (grpcio)"


def test_a_short_form_that_fails_is_a_test_that_fails() -> None:
    failing = replace(GOOD, run=bad)
    with pytest.raises(AssertionError, match="'lost': 3"):
        base.suite(failing)("")
    with pytest.raises(pytest.skip.Exception, match="no transport"):
        base.suite(replace(GOOD, run=base.not_yet("no transport")))("")
    with pytest.raises(NotRun):
        base.not_yet("x")(Scale(full=True), 1, "")


def test_the_pages_have_what_was_seen() -> None:
    """`python -m tools.reliability --table` writes them again."""
    seen = record.load(record.RESULTS)
    for (page, name), text in table.PARTS.items():
        begin, end = table.marks(name)
        assert begin + text(ROWS, seen) + end in page.read_text(), name
    assert incident_table.markdown(ROWS, seen) in incident_table.PAGE.read_text()
