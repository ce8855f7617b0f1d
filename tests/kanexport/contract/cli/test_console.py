"""What both programs share: text, spelling help, CSV, atomic files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kanexport.contract import atomic, csv_text
from kanexport.contract.cli import console, program, suggest
from kanexport.contract.cli.console import Exit, Failure


class Wrong(Failure):
    """A kind of its own."""


def test_a_failure_is_one_document_and_one_text(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> int:
        raise Wrong("x is 1,\n2 was expected", hint="say 2", exit_code=Exit.UNPROVED)

    assert program.run("prog", ["--json"], act) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {"kind": "Wrong", "message": "x is 1,\n2 was expected", "hint": "say 2", "exit_code": 3}
    }
    assert err == "prog: error: x is 1,\\n2 was expected\n  help: say 2\n"


def test_without_json_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> int:
        raise Wrong("no", kind="Other")

    assert program.run("prog", [], act) == Exit.WRONG
    assert capsys.readouterr() == ("", "prog: error: no\n")
    assert console.facts(Wrong("no", kind="Other"))["kind"] == "Other"


def test_every_exit_code_has_a_meaning() -> None:
    assert set(console.MEANINGS) == set(Exit)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("φ → 1", "φ → 1"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("a\nb\rc", "a\\nb\\rc"),
        ("\u202eab", "\\u202eab"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_only_text(raw: str, shown: str) -> None:
    assert console.printable(raw) == shown


@pytest.mark.parametrize(
    ("word", "known", "says"),
    [
        ("modles", ["models", "infer"], "did you mean 'models'?"),
        ("MAX_ROWS", ["max-rows"], "did you mean 'max-rows'?"),
        ("xyz", ["models", "infer", "models"], "known: models, infer"),
        ("xyz", [], ""),
        ("xyz", map(str, range(50)), "known: " + ", ".join(map(str, range(40))) + " and 10 more"),
        ("a" * 10**6, ["b" * 10], "known: bbbbbbbbbb"),
    ],
)
def test_spelling_help(word: str, known: list[str], says: str) -> None:
    assert suggest.advice(word, known) == says


def test_numbers_that_json_lacks_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": (math.nan, math.inf, -math.inf, 1.5), "b": None})
    assert capsys.readouterr().out == '{"a": ["NaN", "Infinity", "-Infinity", 1.5], "b": null}\n'


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("a,b\n\n1,2\n , \n3,4", [[1, 2], [3, 4]]),
        ('"x","y"\n"1"," 2 "\n', [[1, 2]]),
        ("\ufeff1;\n".replace(";", ",2"), [[1, 2]]),
        ("nan,inf\r\n-1e-3,+2\r\n", [[math.nan, math.inf], [-0.001, 2]]),
        ("7", [[7]]),
    ],
)
def test_rows_of_a_csv(text: str, rows: list[list[float]]) -> None:
    found = csv_text.parse("f.csv", csv_text.decode("f.csv", text.encode()))
    assert repr(found) == repr([[float(value) for value in row] for row in rows])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "f.csv is empty; rows of numbers were expected"),
        (" \n\n,\n", "f.csv is empty"),
        ("a,b\n", "f.csv holds a header line and nothing below it"),
        ("a,b\nc,d\n1,2\n", "f.csv, line 2, column 1: found 'c'; a number was expected"),
        ("a,2\n", "f.csv, line 1, column 1: found 'a'"),
        ("1,2\n3,\n", "f.csv, line 2, column 2: found ''"),
        ("1,2\n\n3\n", "f.csv, line 3: found 1 columns, but the rows before have 2"),
        ("1\n1_0\n", "line 2, column 1: found '1_0'"),
        ("1\n2;3\n", "separated by commas"),
        ("1\n" + "9" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_what_is_no_rows_is_refused_by_its_place(text: str, says: str) -> None:
    with pytest.raises(csv_text.CsvError) as caught:
        csv_text.parse("f.csv", text)
    assert says in str(caught.value)


def test_only_so_many_rows_are_read() -> None:
    assert csv_text.parse("f", "h\n1\n2\nbad\n", most=2) == [[1], [2]]


def test_a_file_appears_whole_with_the_mode_of_any_file(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250)
    before = os.umask(0o027)
    try:
        atomic.write(target, b"one")
    finally:
        os.umask(before)
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"one", 0o640)
    (tmp_path / "link").symlink_to(target)
    atomic.write(tmp_path / "link", b"two")
    assert (target.read_bytes(), (tmp_path / "link").is_symlink()) == (b"two", True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "y.npz"
    target.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            atomic.write(target, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("y.npz", b"old")]
    with pytest.raises(IsADirectoryError):
        atomic.write(tmp_path, b"new")
    with pytest.raises(FileNotFoundError):
        atomic.write(tmp_path / "no" / "y", b"new")


def test_pipes_and_what_is_open_are_written_to(tmp_path: Path) -> None:
    code = "from pathlib import Path; from kanexport.contract import atomic; atomic.write(Path('/dev/stdout'), b'text')"
    with (tmp_path / "out").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, timeout=60)
    assert (tmp_path / "out").read_bytes() == b"text"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"text"
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize(("name", "says"), [("", "is a folder"), ("no/y.npz", "there is no folder"), ("y.npz", "")])
def test_a_name_is_checked_before_long_work(tmp_path: Path, name: str, says: str) -> None:
    fault = atomic.check(tmp_path / name)
    assert says in fault
    assert bool(fault) == bool(says)


def test_a_parser_keeps_its_own_errors() -> None:
    parser = program.Parser(prog="prog")
    parser.add_argument("--count", type=int, required=True)
    with pytest.raises(program.UsageError, match="required: --count") as caught:
        program.parse(parser, ["--cuont", "3"])
    assert (caught.value.hint, caught.value.usage) == (
        "--cuont: did you mean --count?",
        "usage: prog [-h] --count COUNT",
    )
    with pytest.raises(program.UsageError, match="invalid int value") as caught:
        program.parse(parser, ["--count", "x"])
    assert caught.value.hint == ""


def on_a_terminal(code: str) -> str:
    """What a program prints to a stderr that is a terminal."""
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stderr=follower,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(follower)
        printed = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while chunk := screen.read(4096):
                printed += chunk
        assert process.wait(60) == 0
    return printed.decode()


REPORTS = """
from kanexport.contract.cli import tables
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
    done = subprocess.run(
        [sys.executable, "-c", REPORTS.format(at_once=True, done=1)], capture_output=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
