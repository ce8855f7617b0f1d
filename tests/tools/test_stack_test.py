"""`make stack-test`: the parts exist, and the table shows what passed, failed, was skipped or is absent."""

import re
from pathlib import Path

from tools import stack_test
from tools.stack_test import PARTS, Outcome, Part

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


def test_a_folder_is_present_and_has_a_package() -> None:
    assert stack_test.present("sh")
    assert stack_test.present("/usr")
    assert not stack_test.present("/usr/no-such-folder")
    folders = {name for name in PARTS["clients"].uses if name.startswith("/")}
    assert len(folders) == 10
    assert folders <= stack_test.DEBIAN.keys()


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
