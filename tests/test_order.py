"""The files that tests/conftest.py names, for the order and for `make test-fast`, are there."""

from __future__ import annotations

from pathlib import Path

import conftest


def test_every_file_that_is_named_exists() -> None:
    named = [*conftest.SLOW, *conftest.FIRST]
    assert [name for name in named if not (Path(__file__).parent / f"{name}.py").is_file()] == []
    assert len(set(named)) == len(named)
