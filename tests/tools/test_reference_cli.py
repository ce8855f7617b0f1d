"""Generated page of the command line: each command and each flag, the same on each machine."""

import re

import pytest

from kanexport.shared.cli import console
from kanserve.cli import main
from tools.reference import cli

PAGE = cli.page()


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The text below each heading."""
    parts = re.split(r"^##+ (.*)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_argument_of_a_command_is_on_the_page(sections: dict[str, str]) -> None:
    for parser in main.every_parser().values():
        section = sections[parser.prog]
        shared = section + sections["Common options"]
        shared += sections["Connection options"] if "#connection-options" in section else ""
        rows: dict[str, tuple[str, str]] = {}
        for line in shared.splitlines():
            if line.startswith("| `"):
                cell, default, meaning = (text.strip() for text in re.split(r"(?<!\\)\|", line)[1:4])
                words = [word.partition(" ")[0] for word in cell.strip("`").split(", ") if word.startswith("-")]
                rows.update(dict.fromkeys(words or [cell.strip("`")], (default, meaning)))
        named = [word for action in parser.actions() for word in action.option_strings or [cli._name(action)]]
        lacking = [word for word in named if not all(rows.get(word.replace("|", r"\|"), ("",)))]
        assert lacking == [], parser.prog


def test_each_command_has_its_summary_usage_examples_and_exit_codes(sections: dict[str, str]) -> None:
    for name, command in main.COMMANDS.items():
        section = sections[f"kanserve {name}"]
        assert f"| [`kanserve {name}`](#kanserve-{name}) | {command.summary} | {command.group} |" in PAGE
        assert f"```text\nkanserve {name}" in section
        assert re.search(rf"```console\n(?:.*\n)*?(?:.*\| )?kanserve {name}\b", section), name
        assert "| exit code | meaning |" in section or "Exit codes: 0, 1, 2, 130." in section
        assert f"## {command.group}\n" in PAGE
    for code in console.Exit:
        assert f"| {int(code)} | " in sections["Exit codes"]
    for code in (70, 143):
        assert f"| {code} | " in sections["kanserve serve"]


def test_the_page_is_the_same_on_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for name in ("URL", "GRPC_PORT", "CA", "TOKEN_FILE", "TOKENS", "SERVER_NAME"):
        monkeypatch.setenv(f"KANSERVE_{name}", "31999")
    monkeypatch.setattr("os.cpu_count", lambda: 97)
    assert cli.page() == PAGE
    assert "31999" not in PAGE
