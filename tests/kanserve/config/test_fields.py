"""Tests of `config/fields.py`."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from kanserve.config import fields


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        (
            fields.Size,
            {"4MiB": 4 * 2**20, " 2 kib": 2048, "1GiB": 2**30, 4096: 4096},
            ["4MB", "MiB", "-1MiB", "1.5MiB", 1023, "2GiB"],
        ),
        (fields.Pause, {"2s": 2.0, "500ms": 0.5, "1.5 min": 90.0, 0: 0.0}, ["2h", "s", "1.2.3s", -1, "1441min"]),
    ],
    ids=["size", "pause"],
)
def test_a_number_may_have_a_known_unit(field: Any, right: dict[Any, float], wrong: list[Any]) -> None:
    for text, expected in right.items():
        assert TypeAdapter(field).validate_python(text) == expected
    for text in wrong:
        with pytest.raises(ValidationError):
            TypeAdapter(field).validate_python(text)


def test_a_pattern_matches_the_whole_value() -> None:
    """pydantic searches for a pattern anywhere in a value, so `setting` adds both anchors."""
    field = fields.setting(fields.Group.LOGS, "a", pattern="a|b")
    assert [item.pattern for item in field.metadata if hasattr(item, "pattern")] == ["^(a|b)$"]
