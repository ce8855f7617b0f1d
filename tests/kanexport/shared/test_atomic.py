"""Tests of `shared/atomic.py`."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kanexport.shared import atomic


def test_a_file_appears_whole_with_the_mode_of_any_file(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250)
    before = os.umask(0o027)
    try:
        atomic.write(target, b"one")
    finally:
        os.umask(before)
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"one", 0o640)
    (tmp_path / "link").symlink_to(target)
    atomic.write(tmp_path / "link", b"two")
    assert (target.read_bytes(), (tmp_path / "link").is_symlink()) == (b"two", True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "y.npz"
    target.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            atomic.write(target, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("y.npz", b"old")]
    with pytest.raises(IsADirectoryError):
        atomic.write(tmp_path, b"new")
    with pytest.raises(FileNotFoundError):
        atomic.write(tmp_path / "no" / "y", b"new")


def test_pipes_and_what_is_open_are_written_to(tmp_path: Path) -> None:
    code = "from pathlib import Path; from kanexport.shared import atomic; atomic.write(Path('/dev/stdout'), b'text')"
    with (tmp_path / "out").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, timeout=60)
    assert (tmp_path / "out").read_bytes() == b"text"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"text"
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize(("name", "says"), [("", "is a folder"), ("no/y.npz", "does not exist"), ("y.npz", "")])
def test_a_name_is_checked_before_long_work(tmp_path: Path, name: str, says: str) -> None:
    fault = atomic.check(tmp_path / name)
    assert says in fault
    assert bool(fault) == bool(says)
