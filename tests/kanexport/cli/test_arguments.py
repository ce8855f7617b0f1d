"""Tests of `cli/arguments.py`."""

from pathlib import Path
from typing import Any

import pytest

from kanexport.shared.cli import program
from tests.kanexport.cli.test_export_command import served
from tests.support.golden_cases import case

FILE = case("pykan-diabetes").path


def run_command(command: Any, *arguments: object) -> int:
    """The exit code of a command with such arguments."""
    parser = program.Parser(prog="kanserve")
    command.configure(parser)
    return command.run(program.parse(parser, [str(argument) for argument in arguments]))


def test_wrong_arguments_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run over a folder reports unused options only at its end."""
    for arguments, kind, text in (
        (["--tolerance", "0"], "OptionError", "tolerance is 0"),
        (["--tolerance", "nan"], "OptionError", "tolerance is nan"),
        (["--tolerance", "1e9"], "OptionError", "tolerance"),
        (["--max-batch-size", "0"], "OptionError", "--max-batch-size is 0"),
        (["--version", "0"], "RepositoryError", "version 0"),
        (["--version", "9" * 300], "RepositoryError", "version 9"),
        (["--name", "../up"], "RepositoryError", "'../up'"),
        (["--family", "magic"], "FamilyError", "'magic'"),
        (["--option", "colour=red"], "OptionError", "'colour'"),
        (["--option", "colour"], "OptionError", "expected KEY=VALUE"),
    ):
        code, document, _ = served(capsys, FILE, "--repository", tmp_path / "models", *arguments)
        assert (code, document["error"]["exit_code"], document["error"]["kind"]) == (2, 2, kind)
        assert text in document["error"]["message"]
        assert not (tmp_path / "models").exists()
    for supplied, arguments, hint in (
        ((FILE,), ["--family", "efficient_kan"], "did you mean 'efficient-kan'?"),
        ((FILE,), ["--family", "magic"], "available: "),
        ((FILE,), ["--option", "base_fn=silu"], "did you mean 'base_fun'?"),
        ((FILE,), ["--option", "colour=red"], "available: base_fun, "),
        ((FILE.parent, "--recursive"), ["--family", "magic"], "available: "),
        (
            ("--module", "nets:make"),
            ["--input-scaler", FILE],
            "remove --input-scaler, and scale the values in the forward",
        ),
    ):
        _, document, _ = served(capsys, *supplied, "--repository", tmp_path / "models", *arguments)
        assert document["error"]["hint"].startswith(hint)
