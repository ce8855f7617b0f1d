"""Atomic export into the repository: kills, races, links and rejections."""

import dataclasses
import hashlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kanexport.bundle import repository as pack
from kanexport.errors import RepositoryError
from kanexport.shared import atomic, manifest, temp_dirs
from tests.support import forked_process
from tests.support.golden_cases import case, exported

Pack = Callable[..., Path]
EXPORTED = "pykan-mult-affine"
HOST = temp_dirs.owner().rpartition("-")[0]
# An export that sends itself a signal at the n-th call that flushes a file.
MORTAL = """
import os, sys
from kanexport.cli import export_command
number, left, fsync = int(sys.argv[1]), [int(sys.argv[2])], os.fsync
def dying(descriptor):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), number)
    fsync(descriptor)
os.fsync = dying
raise SystemExit(export_command.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished version directory to pack again and again."""
    return exported(EXPORTED, tmp_path_factory.mktemp("source")).directory


@pytest.fixture
def packed(source: Path) -> Pack:
    document = manifest.load(source)
    files = {entry.path: (source / entry.path).read_bytes() for entry in document.files}

    def run(repository: Path, *, force: bool = False, **changes: object) -> Path:
        return pack.pack(repository, dataclasses.replace(document, **changes), files, force=force)

    return run


def assert_whole(repository: Path) -> int:
    """Every version a reader can see is complete and hashes right; how many there are."""
    result = 0
    for home in repository.glob("[!.]*"):
        for version in (path for path in home.iterdir() if path.name.isdecimal()):
            document = manifest.load(version)
            for entry in document.files:
                data = (version / entry.path).read_bytes()
                assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size, entry.sha256)
            assert {path.name for path in version.iterdir()} == {e.path for e in document.files} | {"manifest.json"}
            result += 1
        assert (home / "config.pbtxt").is_file()
    return result


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def hidden(repository: Path) -> list[Path]:
    return list(repository.rglob(f"{temp_dirs.HIDDEN}*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_whole_export_killed_at_any_moment_leaves_nothing_half_made(tmp_path: Path, number: signal.Signals) -> None:
    """Killed at the first, second, fourth, ... flush of a file, until an export has fewer of them. A terminated export
    removes its hidden files; what a killed one left is swept by the next."""
    command = [case(EXPORTED).path, "--repository", tmp_path / "models", "--name", "m", "--force"]
    left, kills = 0, 0
    for calls in (2**at for at in itertools.count()):
        program = [sys.executable, "-c", MORTAL, str(int(number)), str(calls), *map(str, command)]
        done = forked_process.run(program, input=b"", timeout=120)
        if done.returncode == 0:
            break
        assert done.returncode == (-number if number == signal.SIGKILL else 128 + number), done.stderr
        assert_whole(tmp_path / "models")
        left, kills = left + len(hidden(tmp_path)), kills + 1
    assert kills >= 3
    assert (left > 0) == (number == signal.SIGKILL)
    assert assert_whole(tmp_path / "models") == 1
    assert hidden(tmp_path) == []


def test_a_version_that_stepped_aside_comes_back_after_a_kill(packed: Pack, tmp_path: Path) -> None:
    """The one moment when neither version is in place: the sweep restores the old one."""
    version = packed(tmp_path)
    before = tree(version)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    os.rename(version, version.with_name(f"{temp_dirs.HIDDEN}{HOST}-{gone.pid}-abcd{temp_dirs.OLD}1"))
    packed(tmp_path, version=2)
    assert tree(version) == before
    assert hidden(tmp_path) == []


def test_a_failed_replacement_puts_the_old_one_back(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "exchange", lambda element, other: False)  # as on a file system that cannot
    version = packed(tmp_path)
    before = tree(version)
    with pytest.raises(FileNotFoundError):
        pack._place(tmp_path / "m" / "never made", version)
    assert tree(version) == before
    assert hidden(tmp_path) == []


def test_an_existing_version_is_kept_unless_forced(packed: Pack, tmp_path: Path) -> None:
    packed(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(RepositoryError, match="1 exists") as caught:
        packed(tmp_path, notes=("changed",))
    assert "--version 2" in caught.value.hint
    assert "--force" in caught.value.hint
    assert tree(tmp_path) == before
    version = packed(tmp_path, notes=("changed",), force=True)
    assert manifest.load(version).notes == ("changed",)
    assert assert_whole(tmp_path) == 1
    packed(tmp_path, version=2)
    assert assert_whole(tmp_path) == 2


NAMES = ["", ".", "..", "../m", "a/b", "/m", ".hidden", "-m", "a b", "m\n", "ü", "m\x00", "a" * 129, 'm"', "*"]


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        *(({"name": name}, "letters, digits") for name in NAMES),
        *(({"version": version}, "") for version in (0, -1, 2**63, 10**400)),
    ],
)
def test_names_and_versions_without_a_folder(packed: Pack, tmp_path: Path, changes: dict[str, Any], hint: str) -> None:
    with pytest.raises(RepositoryError, match=next(iter(changes))) as caught:
        packed(tmp_path, **{"name": "m", **changes})
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_repositories_that_cannot_be_written_are_refused(packed: Pack, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    cases = [(file, "not a folder"), (file / "below", "cannot be"), (tmp_path / ("x" * 300), "cannot be")]
    for repository, text in cases:
        with pytest.raises(RepositoryError, match=text):
            packed(repository)
    assert file.read_bytes() == b"mine"
    (tmp_path / "m").write_bytes(b"also mine")
    with pytest.raises(RepositoryError, match="cannot be written"):
        packed(tmp_path)
    assert (tmp_path / "m").read_bytes() == b"also mine"


def test_links_in_the_way_are_not_followed(packed: Pack, tmp_path: Path) -> None:
    victim, repository = tmp_path / "victim", tmp_path / "models"
    victim.mkdir()
    (victim / "file").write_bytes(b"precious")
    packed(repository)
    (repository / "m" / "2").symlink_to(victim)
    (repository / "m" / "3").symlink_to(tmp_path / "nowhere")
    (repository / "m" / "config.pbtxt").unlink()
    (repository / "m" / "config.pbtxt").symlink_to(victim / "file")
    with pytest.raises(RepositoryError, match="2 exists"):
        packed(repository, version=2)
    with pytest.raises(RepositoryError):
        packed(repository, version=3)
    packed(repository, version=2, force=True)
    assert not (repository / "m" / "2").is_symlink()
    assert not (repository / "m" / "config.pbtxt").is_symlink()
    assert tree(victim) == {"file": b"precious"}
    assert not (tmp_path / "nowhere").exists()
    assert hidden(repository) == []


def test_what_an_operator_added_to_the_config_stays(packed: Pack, tmp_path: Path) -> None:
    packed(tmp_path)
    path = tmp_path / "m" / "config.pbtxt"
    fresh = path.read_bytes()
    start = fresh[: fresh.index(b"version_policy")]
    for text, kept in (
        (fresh + b"instance_group [ { count: 2 } ]\n", True),
        (start + b"# mine\n", True),
        (start, False),
    ):
        path.write_bytes(text)
        version = 1 + max(int(item.name) for item in path.parent.iterdir() if item.name.isdecimal())
        packed(tmp_path, version=version)
        assert path.read_bytes() == (text if kept else fresh)
    path.write_bytes(fresh.replace(b"max_batch_size: ", b"max_batch_size: 9"))
    with pytest.raises(RepositoryError, match="other inputs, outputs or batch size"):
        packed(tmp_path, version=99)
    packed(tmp_path, version=99, force=True)
    assert path.read_bytes() == fresh
