"""Helpers that both command-line programs share: text, spelling suggestions, CSV, atomic files."""

import math

import pytest

from kanexport.shared.cli import console
from kanexport.shared.cli.console import Exit


def test_every_exit_code_has_a_meaning() -> None:
    assert set(console.MEANINGS) == set(Exit)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("φ → 1", "φ → 1"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("a\nb\rc", "a\\nb\\rc"),
        ("\u202eab", "\\u202eab"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_only_text(raw: str, shown: str) -> None:
    assert console.printable(raw) == shown


def test_numbers_that_json_lacks_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": (math.nan, math.inf, -math.inf, 1.5), "b": None})
    assert capsys.readouterr().out == '{"a": ["NaN", "Infinity", "-Infinity", 1.5], "b": null}\n'
