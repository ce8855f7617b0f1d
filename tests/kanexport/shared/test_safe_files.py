"""Tests of `shared/safe_files.py`."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kanexport.errors import RepositoryError
from kanexport.shared import safe_files
from tests.support.failures import packed

SECRET = b"somebody else's\n" * 4


def test_what_is_open_already_is_read_as_it_comes(tmp_path: Path) -> None:
    """A shell opens such a file for `--token-file <(pass show token)`."""
    back, front = os.pipe()
    os.write(front, b"secret\nmore\n")
    os.close(front)
    try:
        assert safe_files.first_line(f"/dev/fd/{back}", 100) == b"secret\n"
    finally:
        os.close(back)


def test_a_copy_is_of_files_links_and_folders_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "in").mkdir(parents=True)
    target.mkdir()
    (source / "in" / "file").write_bytes(SECRET)
    os.utime(source / "in" / "file", ns=(5, 7))
    (source / "in" / "link").symlink_to("/nowhere")
    with safe_files.directory(source) as old, safe_files.directory(target) as new:
        safe_files.copy("in", old, new)
        assert (target / "in" / "file").read_bytes() == SECRET
        assert (target / "in" / "file").stat().st_mtime_ns == 7
        assert (target / "in" / "link").readlink() == Path("/nowhere")
        os.mkfifo(source / "pipe")
        with pytest.raises(safe_files.UnsafeFile, match="a FIFO"):
            safe_files.copy("pipe", old, new)


def appended(path: Path, most: int) -> bytes:
    with safe_files.Folder(path.parent).append(path.name) as descriptor:
        return os.pread(descriptor, most, 0)


def owned(path: Path, most: int) -> bytes:
    return safe_files.Folder(path.parent).read(path.name, most)


@pytest.mark.parametrize("read", [safe_files.read, safe_files.beginning, appended, owned])
@pytest.mark.parametrize("kind", ["symlink", "FIFO"])
def test_a_file_that_is_replaced_after_its_check_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path, int], bytes], kind: str
) -> None:
    """A file is replaced between the check and the open, which a check by name cannot see."""
    path, victim, check = tmp_path / "folder" / "file", tmp_path / "victim", safe_files.check_regular
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"own")
    victim.write_bytes(SECRET)

    def checked(*supplied: object, **named: object) -> None:
        check(*supplied, **named)  # type: ignore[arg-type]  # as it was called
        if path.is_file() and not path.is_symlink():
            path.unlink()
            os.mkfifo(path) if kind == "FIFO" else path.symlink_to(victim)

    monkeypatch.setattr(safe_files, "check_regular", checked)
    with pytest.raises(OSError, match=r"symbolic link|FIFO"):
        read(path, 1000)


def test_an_export_writes_where_it_began_if_its_folder_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link replaces the hidden folder as soon as it is open: the export does not write to the link's target."""
    victim, create = tmp_path / "victim", safe_files.create
    (victim / "1").mkdir(parents=True)

    def swapped(*supplied: object, **named: object) -> None:
        for staging in (tmp_path / "models").glob(".kanexport-*"):
            if not staging.is_symlink():
                staging.rename(tmp_path / "aside")
                staging.symlink_to(victim)
        create(*supplied, **named)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(safe_files, "create", swapped)
    with contextlib.suppress(RepositoryError):
        packed(tmp_path / "models")
    assert [path.name for path in victim.rglob("*")] == ["1"]
