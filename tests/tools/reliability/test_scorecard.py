"""The reliability scorecard: every row exists, results accumulate, and the table shows seen and unseen tests."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.reliability import __main__ as command
from tools.reliability import base, incident_table, record, table
from tools.reliability.base import NUMBERS, NotRun, Outcome, Row, Scale, rows

pytestmark = pytest.mark.slow


ROWS = rows()
GOOD = Row("1", "A", "asked", "0 lost", lambda scale, seed, transport: Outcome({"lost": scale.of(0, 1)}, True, 7))


def test_every_row_is_there_once() -> None:
    assert tuple(ROWS) == NUMBERS
    assert len(list(base.FOLDER.glob("row_*.py"))) == len(NUMBERS)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_guards_a_row_exists(row: Row) -> None:
    for name in row.guarded_by:
        path, _, test = name.partition("::")
        assert f"def {test}" in (record.ROOT / path).read_text()


@pytest.mark.parametrize("entry", incident_table.COMPLAINTS, ids=lambda entry: entry.complaint[:40])
def test_what_guards_against_a_complaint_exists(entry: incident_table.Complaint) -> None:
    assert bool(entry.row) != bool(entry.guard)
    for name in incident_table.guards(entry, ROWS):
        path, _, test = name.partition("::")
        assert (f"def {test}" if test else "") in (record.ROOT / path).read_text()


@pytest.mark.parametrize(
    ("run", "verdict", "notes"),
    [
        (GOOD.run, "pass", ""),
        (lambda *_: Outcome({}, False, notes="why"), "fail", "why"),
        (base.not_yet("no transport"), "not run", "no transport"),
        (lambda *_: 1 // 0, "fail", "it ended with ZeroDivisionError"),
    ],
)
def test_whatever_comes_of_a_run_is_a_record(run: base.Run, verdict: str, notes: str) -> None:
    result = command.one(replace(GOOD, run=run), Scale(full=False), 3, "")
    assert (result.verdict, result.seed, result.form) == (verdict, 3, "short")
    assert notes in result.notes
    assert result.commit
    assert result.machine
    assert "Python 3" in result.versions


def test_a_row_that_lacks_something_is_not_run() -> None:
    result = command.one(replace(GOOD, needs=("no_such_module",)), Scale(full=True), 1, "")
    assert (result.verdict, result.notes) == ("not run", "no_such_module is not installed")


def test_a_row_without_an_end_is_ended() -> None:
    def run(scale: Scale, seed: int, transport: str) -> Outcome:
        while True:
            pass

    result = command.one(replace(GOOD, run=run, minutes=0.001), Scale(full=False), 1, "")
    assert (result.verdict, "TooLong" in result.notes) == ("fail", True)


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
    (tmp_path / "docs").mkdir()
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


def test_the_table_says_what_was_not_run() -> None:
    wire = replace(GOOD, number="2", wire=True)
    seen = command.one(wire, Scale(full=False), 1, "grpcio")
    text = table.markdown({"1": GOOD, "2": wire}, [seen])
    first, asgi, grpcio = text.splitlines()[2:5]
    assert first.endswith("| not run |")
    assert asgi.endswith("| not run |")
    assert "| lost 0 | 1, 7, 0 s" in grpcio
    assert "**pass** (short form)" in grpcio
    assert seen.machine in text


def test_a_short_form_that_fails_is_a_test_that_fails() -> None:
    bad = replace(GOOD, run=lambda *_: Outcome({"lost": 3}, False))
    with pytest.raises(AssertionError, match="'lost': 3"):
        base.suite(bad)("")
    with pytest.raises(pytest.skip.Exception, match="no transport"):
        base.suite(replace(GOOD, run=base.not_yet("no transport")))("")
    with pytest.raises(NotRun):
        base.not_yet("x")(Scale(full=True), 1, "")


def test_the_page_has_what_was_seen() -> None:
    """`python -m tools.reliability --table` writes it again."""
    page, seen = table.PAGE.read_text(), record.load(record.RESULTS)
    assert table.markdown(ROWS, seen) in page
    assert incident_table.markdown(ROWS, seen) in page


def test_unknown_rows_are_refused() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "tools.reliability", "--rows", "99"], cwd=record.ROOT, capture_output=True, text=True
    )
    assert said.returncode == 2
    assert "no row 99" in said.stderr
