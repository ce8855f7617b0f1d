"""`make stack-test`: the parts exist, and the table shows what passed, failed, was skipped or is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import stack_test
from tools.stack_test import Outcome, Part

ROOT = Path(__file__).parents[2]
REPORT = """<testsuites><testsuite><testcase name="a"/><testcase name="b"><skipped message="Skipped: no promtool"/>
</testcase><testcase name="c"><skipped message="no promtool"/></testcase></testsuite></testsuites>"""


def test_the_files_of_every_part_exist() -> None:
    for part in stack_test.PARTS.values():
        assert bool(part.command) != bool(part.tests)
        files = [*part.tests, *(word for word in part.command if "/" in word and ":" not in word)]
        assert files
        assert [name for name in files if not (ROOT / name).exists()] == []


def test_a_part_without_its_program_is_absent() -> None:
    outcome = stack_test.run("x", Part(command=("false",), needs=("no-such-program",)))
    assert outcome == Outcome("x", "absent", "-", 0.0, ("no-such-program is not installed",))


@pytest.mark.parametrize(("command", "state"), [("true", "passed"), ("false", "failed")])
def test_the_state_is_that_of_the_command(command: str, state: str) -> None:
    assert stack_test.run("x", Part(command=(command,))).state == state


def test_skipped_tests_are_counted_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert stack_test.counted(tmp_path / "report.xml") == ("1 of 3", ("2 skipped: no promtool",))


def test_the_table_has_a_row_for_each_part_and_its_notes() -> None:
    rows = [Outcome("image", "passed", "-", 60.4), Outcome("chart", "absent", "-", 0, ("helm is not installed",))]
    lines = stack_test.table(rows).splitlines()
    assert [line.split() for line in lines[-3:-1]] == [["image", "passed", "-", "60"], ["chart", "absent", "-", "0"]]
    assert lines[-1] == "    helm is not installed"


def test_an_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert stack_test.main(["compose"]) == 2
    assert "compose-stack" in capsys.readouterr().err
