"""Tests of `shared/cli/program.py`."""

import json

import pytest

from kanexport.shared.cli import console, program
from kanexport.shared.cli.console import Exit, Failure


class Wrong(Failure):
    """A custom kind."""


def test_a_failure_is_one_document_and_one_text(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> int:
        raise Wrong("x is 1,\n2 was expected", hint="say 2", exit_code=Exit.UNPROVED)

    assert program.run("prog", ["--json"], act) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {
            "kind": "Wrong", "code": "wrong", "message": "x is 1,\n2 was expected", "hint": "say 2", "exit_code": 3,
        }
    }  # fmt: skip
    assert err == "prog: error[wrong]: x is 1,\\n2 was expected\n  help: say 2\n"


def test_without_json_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> int:
        raise Wrong("no", kind="Other")

    assert program.run("prog", [], act) == Exit.WRONG
    assert capsys.readouterr() == ("", "prog: error[other]: no\n")
    assert console.document(Wrong("no", kind="Other"))["error"]["kind"] == "Other"


def test_a_parser_keeps_its_own_errors() -> None:
    parser = program.Parser(prog="prog")
    parser.add_argument("--count", type=int, required=True)
    with pytest.raises(program.UsageError, match="missing argument: --count") as caught:
        program.parse(parser, ["--cuont", "3"])
    assert (caught.value.hint, caught.value.usage) == (
        "--cuont: did you mean --count?",
        "usage: prog --count COUNT [options]",
    )
    with pytest.raises(program.UsageError, match="--count: invalid value 'x', expected a whole number") as caught:
        program.parse(parser, ["--count", "x"])
    assert (caught.value.code, caught.value.hint) == ("argument-invalid", "run `prog --help` for the arguments")


def test_a_failed_allocation_is_an_error_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run("kanserve edit", ["--json"], lambda: len(bytearray(2**62))) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["code"] == "memory-limit-exceeded"
    assert printed.err.startswith("kanserve edit: error[memory-limit-exceeded]: the command needs more memory")
