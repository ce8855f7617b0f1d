"""Requirements on every reader, by family: documentation, and a named error for each corrupted tensor."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from kanexport import readers
from kanexport.detection import registry

ROOT = Path(__file__).parents[3]
FAMILIES = registry.readers()
DOCUMENT = (ROOT / "docs" / "reference" / "supported-libraries.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_a_row_in_the_document(family: str) -> None:
    assert f"`{family}`" in DOCUMENT


@pytest.mark.parametrize("path", sorted(Path(readers.__path__[0]).glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_its_file_says_where_the_formula_comes_from(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert re.search(r"^Source: \S", text, re.MULTILINE)
