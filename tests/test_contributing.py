"""CONTRIBUTING.md and docs/contributing/add-a-family.md: code equals the files' code, paths and commands exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kanexport.formats import checkpoint
from tests.support.golden_cases import OWN
from tests.support.tiers import full

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FAMILY = (ROOT / "docs" / "contributing" / "add-a-family.md").read_text()
BLOCKS = re.findall(r"^```python\n# (\S+)\n(.*?)^```", FAMILY, re.MULTILINE | re.DOTALL)
COMMANDS = [line for line in FAMILY.splitlines() if line.startswith(".venv/bin/python -m pytest ")]
WALK = FAMILY.partition("## How one is made")[2].partition("\n## ")[0]


def test_the_document_is_short_and_has_its_parts() -> None:
    assert len(TEXT.splitlines()) <= 200
    assert [path for path, _ in BLOCKS] == ["kanexport/bases/sine.py", "kanexport/readers/sinekan.py"]
    assert len(COMMANDS) >= 4
    assert "docs/contributing/architecture.md" in TEXT
    assert {
        "## Propose a change",
        "## Questions",
        "## Rules for code",
        "## Rules for words",
    } <= set(TEXT.splitlines())


@pytest.mark.parametrize(("path", "code"), BLOCKS, ids=[path for path, _ in BLOCKS])
def test_its_code_stands_in_the_file_in_that_order(path: str, code: str) -> None:
    """Lines may be left out (docstrings, what three dots stand for), but none may be another."""
    lines = iter((ROOT / path).read_text().splitlines())
    for line in code.splitlines():
        if line.strip() and not line.strip().startswith("..."):
            assert line in lines, f"{path} has no line {line!r} after those before it"


def test_its_equation_is_the_readers() -> None:
    (equation,) = re.findall(r"^    (\S.*)$", WALK.partition("**2.")[0], re.MULTILINE)
    assert f"    {equation}\n" in (ROOT / "kanexport" / "readers" / "sinekan.py").read_text()


def test_its_shapes_are_those_of_the_golden_file() -> None:
    tensors = checkpoint.load(OWN / "sinekan-digits" / "model.pt").tensors
    named = re.findall(r"`(\w+)` \[([^\]]+)\]", WALK.partition("**2.")[2].partition("**3.")[0])
    assert [name for name, _ in named] == ["amplitudes", "freq", "phase", "bias"]
    sizes: dict[str, int] = {}
    for name, shape in named:
        (result, *_) = [value.shape for key, value in tensors.items() if key.endswith(f".{name}")]
        symbols = shape.split(", ")
        assert len(symbols) == len(result), name
        for symbol, size in zip(symbols, result, strict=True):
            assert size == sizes.setdefault(symbol, int(symbol) if symbol.isdigit() else size), (name, symbol)


@full("document")
def test_its_pytest_lines_select_tests() -> None:
    lines = [shlex.split(command, comments=True) for command in COMMANDS]
    for line in lines:
        assert line[:4] == [".venv/bin/python", "-m", "pytest", "-q"], line
        assert line[5:6] in ([], ["-k"]), line
    chosen = [(line[4], line[-1] if len(line) > 5 else "") for line in lines]
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *(path for path, _ in chosen)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    selected = done.stdout.splitlines()
    assert [
        item for item in chosen if not any(at.startswith(f"{item[0]}::") and item[1] in at for at in selected)
    ] == []
