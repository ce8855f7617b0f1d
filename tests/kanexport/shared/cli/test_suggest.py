"""Tests of `shared/cli/suggest.py`."""

import pytest

from kanexport.shared.cli import suggest


@pytest.mark.parametrize(
    ("word", "known", "says"),
    [
        ("modles", ["models", "infer"], "did you mean 'models'?"),
        ("MAX_ROWS", ["max-rows"], "did you mean 'max-rows'?"),
        ("xyz", ["models", "infer", "models"], "known: models, infer"),
        ("xyz", [], ""),
        ("xyz", map(str, range(50)), "known: " + ", ".join(map(str, range(40))) + " and 10 more"),
        ("a" * 10**6, ["b" * 10], "known: bbbbbbbbbb"),
    ],
)
def test_spelling_help(word: str, known: list[str], says: str) -> None:
    assert suggest.advice(word, known) == says
