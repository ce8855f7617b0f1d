"""Linter of user-facing text: what it reads, and what it reports."""

import pytest

from tools import prose

WORDS = prose.words(prose.GUIDE.read_text())


def rules(path: str, source: str) -> list[str]:
    """The violations of a file, each as its line and rule."""
    return [f"{violation.line}: {violation.rule.partition(',')[0]}" for violation in prose.check(path, source, WORDS)]


def test_the_table_of_words_has_patterns_and_exceptions() -> None:
    assert len(WORDS) > 40
    assert rules("docs/a.md", "The server refused the call.\n") == ["1: 'refused'"]
    assert rules("docs/a.md", "The message is: connection refused.\n") == []
    with pytest.raises(ValueError, match="table of words"):
        prose.words("# No table\n")


@pytest.mark.parametrize("word", ["What", "Who", "Whose", "Of"])
def test_sentences_name_the_actor_first(word: str) -> None:
    text = f"The server runs. {word} runs is a model.\n"
    assert rules("docs/a.md", text) == ["1: sentence begins with What"]
    assert rules("docs/a.md", f"{word} runs?\n") == []


def test_sentences_of_pages_are_short() -> None:
    assert rules("docs/a.md", f"{'word ' * 25}end.\n") == ["1: sentence of 26 words"]
    assert rules("docs/a.md", f"{'word ' * 24}end.\n") == []


def test_code_is_not_text() -> None:
    block = "```sh\nrefused\n```\n\n    ```sh\n    refused\n    ```\n"
    assert rules("docs/a.md", f"Run `refused`:\n\n{block}\n[link](refused.md) <!-- refused -->\n") == []


def test_tables_and_lists_are_read_line_by_line() -> None:
    assert rules("docs/a.md", "| a | b |\n|---|---|\n| x | told |\n\n* one\n* told\n") == ["3: 'told'", "6: 'told'"]


def test_long_pages_are_reported_unless_a_program_writes_them() -> None:
    lines = "line\n\n" * 130
    assert rules("docs/a.md", lines) == ["1: long page"]
    assert rules("docs/a.md", f"`make reference` writes this file.\n\n{lines}") == []


def test_docstrings_are_read_everywhere_and_strings_in_the_product() -> None:
    source = '"""A page that is told."""\n\nx = "the call was refused"\ny = f"the {x} was refused"\nz = "refused"\n'
    assert rules("examples/a.py", source) == ["1: 'told'"]
    assert rules("kanexport/a.py", source) == ["1: 'told'", "3: 'refused'", "4: 'refused'"]


def test_texts_of_the_web_ui_are_read_without_comments() -> None:
    source = "// told\n/* told */\nconst a = 'rows were told', b = `rows ${told} here`, c = 'told'\n"
    assert rules("service/kanserve/ui/static/a.js", source) == ["3: 'told'"]
    assert rules("service/kanserve/ui/static/a.html", "<p class='told'>rows are told</p>\n") == ["1: 'told'"]


def test_comments_of_proto_files_alerts_and_dashboards_are_read() -> None:
    assert rules("proto/a.proto", "// Rows\n// are told.\nmessage A {} // told too\n") == ["1: 'told'", "3: 'told'"]
    assert rules("proto/a.proto", "//@@ Rows are told.\n//@@\n  //@@  told\n") == []
    assert rules("a/rules.yml", '  expr: told\n  summary: "{{ $labels.told }} is told"\n') == ["2: 'told'"]
    panel = '{"panels": [{"title": "Told", "expr": "told", "description": "asked"}]}'
    assert rules("grafana/a.json", panel) == ["1: 'told'", "1: 'asked'"]


def test_the_program_reports_a_place_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert prose.main(["docs/contributing/style-guide.md"]) == 0
    assert capsys.readouterr().err == "0 violations in 1 files\n"
