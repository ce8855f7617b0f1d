"""`make stack-test`: the parts exist, and the table shows what passed, failed, was skipped or is absent."""

import re
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
    note = "no-such-program is not installed (Debian: apt-get install no-such-program)"
    assert outcome == Outcome("x", "absent", "-", 0.0, (note,))


PARTS = (Part(needs=("pasta",), uses=("oras", "pasta")), Part(needs=("sh",)))
INSTALL = "apt-get install -y -qq --no-install-recommends passt oras"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, the only one on PATH, with `sh` and an apt-get that writes its arguments to `calls`."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "apt-get $*" >>{tmp_path}/calls\n')
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_root_on_debian_gets_the_absent_programs(machine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stack_test.provide(PARTS, root=True)
    assert (machine / "calls").read_text().splitlines() == ["apt-get update -qq", INSTALL]
    assert "installing passt, oras, for pasta, oras" in capfd.readouterr().out
    for program in ("pasta", "oras"):
        (machine / program).symlink_to("/bin/sh")
    stack_test.provide(PARTS, root=True)
    assert len((machine / "calls").read_text().splitlines()) == 2


@pytest.mark.parametrize(("root", "debian"), [(False, True), (True, False)])
def test_others_read_what_installs_them(
    machine: Path, capfd: pytest.CaptureFixture[str], root: bool, debian: bool
) -> None:
    if not debian:
        (machine / "apt-get").unlink()
    stack_test.provide(PARTS, root=root)
    assert not (machine / "calls").exists()
    said = capfd.readouterr().out
    assert "not installed: pasta, oras; parts and tests that need them do not run" in said
    assert INSTALL in said


def test_the_packages_of_parts_are_locked() -> None:
    for name in (name for name, part in stack_test.PARTS.items() if part.locked):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        pinned = re.findall(r"^[\w.\[\],-]+==.*$", text, re.MULTILINE)
        assert pinned
        assert all(line.endswith(" \\") for line in pinned), "each has a hash"
        for wanted in re.findall(r"^([\w-]+)", (ROOT / "requirements" / f"{name}.in").read_text(), re.MULTILINE):
            assert any(re.match(rf"{wanted}[\[=]", line) for line in pinned), wanted
        assert "://" not in text


def test_skipped_tests_are_counted_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert stack_test.counted(tmp_path / "report.xml") == ("1 of 3", ("2 skipped: no promtool",))
