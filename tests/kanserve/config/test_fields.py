"""Tests of `config/fields.py`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from kanserve.config import fields


@pytest.mark.parametrize(("text", "size"), [("4MiB", 4 * 2**20), (" 2 kib", 2048), ("1GiB", 2**30), (4096, 4096)])
def test_a_size_may_have_a_unit(text: Any, size: int) -> None:
    assert TypeAdapter(fields.Size).validate_python(text) == size


@pytest.mark.parametrize("text", ["4MB", "MiB", "-1MiB", "1.5MiB", 1023, "2GiB"])
def test_a_size_without_a_known_unit_or_out_of_range_is_an_error(text: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(fields.Size).validate_python(text)


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("1.5 min", 90.0), (0, 0.0)])
def test_a_pause_may_have_a_unit(text: Any, seconds: float) -> None:
    assert TypeAdapter(fields.Pause).validate_python(text) == seconds


@pytest.mark.parametrize("text", ["2h", "s", "1.2.3s", -1, "1441min"])
def test_a_pause_without_a_known_unit_or_out_of_range_is_an_error(text: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(fields.Pause).validate_python(text)


def test_a_pattern_matches_the_whole_value() -> None:
    """pydantic searches for a pattern anywhere in a value, so `setting` adds both anchors."""
    field = fields.setting("a", "text", group=fields.Group.LOGS, pattern="a|b")
    assert [item.pattern for item in field.metadata if hasattr(item, "pattern")] == ["^(a|b)$"]
