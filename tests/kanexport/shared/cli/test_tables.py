"""Tests of `shared/cli/tables.py`."""

import contextlib
import os
import pty
import sys

import pytest

from kanexport.shared.cli.tables import Table
from tests.support import forked_process


def on_a_terminal(code: str) -> str:
    """Run a program whose stderr is a terminal, and return its output."""
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen:
        environment = {**os.environ, "TERM": "xterm"}
        process = forked_process.popen([sys.executable, "-c", code], stderr=follower, env=environment)
        os.close(follower)
        printed = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while chunk := screen.read(4096):
                printed += chunk
        assert process.wait(60) == 0
    return printed.decode()


REPORTS = """
from kanexport.shared.cli import tables
with tables.bar("working", unit="rows", at_once={at_once}) as report:
    report({done}, 4, "a[b]\\x1b[2Jc")
"""


def test_a_bar_counts_and_names_what_is_next() -> None:
    printed = on_a_terminal(REPORTS.format(at_once=True, done=1))
    assert "working" in printed
    assert "1/4 rows, a[b]\\x1b[2Jc" in printed


def test_a_bar_for_what_is_done_at_once_does_not_appear() -> None:
    assert "working" in on_a_terminal(REPORTS.format(at_once=False, done=1))
    assert "working" not in on_a_terminal(REPORTS.format(at_once=False, done=4))


def test_without_a_terminal_there_is_no_bar() -> None:
    program = [sys.executable, "-c", REPORTS.format(at_once=True, done=1)]
    done = forked_process.run(program, input=b"", timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_an_empty_table_is_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    Table("nothing", ("name", "state")).show()
    assert capsys.readouterr().out.split()[:3] == ["nothing", "name", "state"]
