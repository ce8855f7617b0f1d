"""Tests of `bundle/publish.py`."""

import ast
from pathlib import Path

import pytest

from kanexport.bundle.publish import VerificationBasis
from kanexport.errors import OptionError
from kanexport.shared import manifest

ROOT = Path(__file__).parents[3]
NAMES = ("verified", "verified error", "verified_error")  # keys of documents, headings of columns


def test_every_sentence_with_verified_says_against_what() -> None:
    """Nothing that is shown calls a result verified without saying against what."""
    files = [path for folder in ("kanexport", "service/kanserve") for path in (ROOT / folder).rglob("*.py")]
    wrong = [
        f"{path}: {text!r}"
        for path in files
        if path.parent.name != "pb" and "verified" in path.read_text()
        for text in _shown_texts(path)
        if "verified" in text.rpartition("verified against")[2] and text not in NAMES
    ]
    assert wrong == []


def _shown_texts(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [text for text in constants if isinstance(text, str) and text not in docstrings]


@pytest.mark.parametrize(("against", "files"), [("", 0), ("nothing", 0), ("expected-outputs", 0), ("reading", 1)])
def test_a_claim_says_what_was_done(against: str, files: int) -> None:
    some = manifest.ParityCheck(name="a", sha256="", rows=1, max_abs=0.0, max_rel=0.0, tolerance=0.0)
    with pytest.raises(OptionError, match="do not fit the verification basis"):
        VerificationBasis(against, (some,) * files)
