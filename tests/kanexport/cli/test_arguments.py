"""Tests of `cli/arguments.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanexport.cli import export_command

Golden = Callable[[str], tuple[Path, tuple[str, ...]]]


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    code = export_command.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    return code, json.loads(out), err


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
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
    ],
)
def test_wrong_arguments_change_nothing(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], kind: str, text: str
) -> None:
    path, _ = golden("pykan-diabetes")
    code, document, _ = _json(capsys, path, "--repository", tmp_path / "models", *arguments)
    assert document["error"]["exit_code"] == 2
    assert (code, document["error"]["kind"]) == (2, kind)
    assert text in document["error"]["message"]
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--family", "efficient_kan"], "did you mean 'efficient-kan'?"),
        (["--family", "magic"], "available: "),
        (["--option", "base_fn=silu"], "did you mean 'base_fun'?"),
        (["--option", "colour=red"], "available: base_fun, "),
    ],
)
def test_a_misspelt_name_is_helped(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    path, _ = golden("pykan-diabetes")
    for supplied in ((path,), (path.parent, "--recursive")):
        if supplied[1:] and "--option" in arguments:
            continue  # told at the end, as of no use to any file
        _, document, _ = _json(capsys, *supplied, "--repository", tmp_path / "models", *arguments)
        assert document["error"]["hint"].startswith(hint)
