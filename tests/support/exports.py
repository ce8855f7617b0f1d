"""Exports that several tests and workers share: each is made once in a run, by its checkpoint and its arguments."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from tests.support.command_line import document, kanserve

# conftest.py sets it to a folder that all workers of one run share.
PLACE = "TESTED_EXPORTS"


def exported(checkpoint: Path, name: str, *arguments: object, into: Path | None = None) -> Path:
    """A repository with version 1 of `name`, as `kanserve export CHECKPOINT *ARGUMENTS` writes it. Tests only read from
    it. With `into`, the version is copied into that repository, which a test can change."""
    place = Path(os.environ[PLACE]) / _key(checkpoint, name, arguments)
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "models").exists():
            with tempfile.TemporaryDirectory(dir=place) as folder:
                target = Path(folder) / "models"
                document(kanserve("export", checkpoint, "--repository", target, "--name", name, *arguments, "--json"))
                target.rename(place / "models")
    if into is None:
        return place / "models"
    shutil.copytree(place / "models" / name, into / name, dirs_exist_ok=True)
    return into


def _key(checkpoint: Path, name: str, arguments: tuple[object, ...]) -> str:
    """Digest of the checkpoint's files and of the arguments, in which a file counts by its content."""
    digest = hashlib.sha256(repr((name, checkpoint.name)).encode())
    files = [checkpoint] if checkpoint.is_file() else sorted(checkpoint.parent.glob(f"{checkpoint.name}_*"))
    for value in (*files, *arguments):
        path = Path(str(value))
        digest.update(path.read_bytes() if path.is_file() else str(value).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:24]
