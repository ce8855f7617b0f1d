"""The page of supported libraries: one row per reader, with what its docstring and its code say."""

import ast
import re
from pathlib import Path

from kanexport.detection import registry
from tests.support.golden_cases import OWN, cases
from tools.reference import libraries

LIBRARIES = libraries.libraries()
LITERAL = re.compile(r"options\.(?:optional|text|number|choice|must|integers?)\(\s*'(\w+)'")


def test_each_reader_and_each_family_has_a_row() -> None:
    assert len(LIBRARIES) == len(registry.modules())
    assert {family for library in LIBRARIES for family in library.tensors} == set(registry.readers())
    page = libraries.page()
    for library in LIBRARIES:
        assert f"| {library.name} | {library.functions} | {library.project} |" in page


def test_docstrings_name_the_options_that_the_code_reads() -> None:
    options = {frozenset(library.tensors): set(library.options) for library in LIBRARIES}
    for module in registry.modules():
        families = frozenset(member.FAMILY for member in getattr(module, "FAMILIES", (module,)))
        read = set(LITERAL.findall(ast.unparse(ast.parse(Path(module.__file__).read_text()))))  # without comments
        assert read - {"prefix"} <= options[families], module.__name__


def test_golden_cases_have_a_class_of_their_library() -> None:
    classes = {family: library.classes.split(", ") for library in LIBRARIES for family in library.tensors}
    own = [case for case in cases() if OWN in case.path.parents]
    assert len(own) > 20
    for case in own:
        assert case.facts["edge_class"] in classes[case.facts["family"]], case.name


def test_fields_end_at_the_next_field_and_at_an_empty_line() -> None:
    docstring = (
        "MyKan: bells.\n\nSource: a/b, X.forward:\n\n    y = x\n\n"
        "Options: h, base_activation,\nwide\nEdge classes: A, B"
    )
    assert libraries.fields(docstring) == {
        "Source": "a/b, X.forward:",
        "Options": "h, base_activation, wide",
        "Edge classes": "A, B",
    }


def test_the_table_of_errors_is_kept_and_replaced() -> None:
    text = libraries.page()
    assert libraries.measured() in text
    other = libraries.with_errors(text, "| a |\n|---|\n| b |\n")
    assert f"{libraries.BEGIN}\n| a |\n|---|\n| b |\n\n{libraries.END}" in other
    assert libraries.with_errors(other, libraries.measured()) == text
    assert libraries.with_errors("no markers", "| a |\n") == "no markers"
