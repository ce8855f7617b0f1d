"""Folder with a short path, and a device file, for tests of files that a program must not follow."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes a device")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    created = tmp_path / "place"
    created.mkdir()
    yield created
    for path in (created, *created.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
