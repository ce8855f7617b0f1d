"""Requirements on the documentation of every reader."""

import ast
import re
from pathlib import Path

from kanexport import readers
from kanexport.detection import registry

ROOT = Path(__file__).parents[3]
FILES = sorted(Path(readers.__path__[0]).glob("[a-z]*.py"))


def test_each_has_a_row_in_the_document() -> None:
    document = (ROOT / "docs" / "reference" / "supported-libraries.md").read_text()
    assert not [family for family in registry.readers() if f"`{family}`" not in document]


def test_each_file_says_where_the_formula_comes_from() -> None:
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in FILES}
    assert not [name for name, text in texts.items() if not re.search(r"^Source: \S", text, re.MULTILINE)]
