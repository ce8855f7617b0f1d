"""Tests of `shared/temp_dirs.py`."""

import os
from pathlib import Path

import pytest

from kanexport.errors import RepositoryError
from kanexport.shared import temp_dirs
from tests.support.failures import hidden, packed


def test_who_works_is_not_swept_wherever_it_runs(tmp_path: Path) -> None:
    """Its lock says so; of another machine without one, its age."""
    there, old, young = (tmp_path / f"{temp_dirs.HIDDEN}elsewhere-1-{name}" for name in ("held", "old", "young"))
    for path in (there, old, young):
        path.mkdir()
    for path in (there, old):
        os.utime(path, (0, 0))
    with temp_dirs.locked(there):
        assert temp_dirs.sweep(tmp_path) == [old.name]
    assert temp_dirs.sweep(tmp_path) == [there.name]
    assert hidden(tmp_path) == [young.name]


def test_who_holds_the_last_step_for_ever_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temp_dirs, "PATIENCE", 0.1)
    packed(tmp_path)
    with temp_dirs.locked(tmp_path), pytest.raises(RepositoryError, match="another export has locked it"):
        packed(tmp_path, 2)
    assert hidden(tmp_path) == []
    packed(tmp_path, 2)
