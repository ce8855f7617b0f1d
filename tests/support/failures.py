"""Failures in the middle of work: of the n-th disk call, and of concurrent calls of the sandbox."""

import asyncio
import dataclasses
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kanexport.bundle import repository as pack
from kanexport.errors import RepositoryError
from kanexport.shared import atomic, temp_dirs
from kanexport.shared import manifest as manifests
from kanserve.config.settings import Settings
from kanserve.models.admission import Sandbox
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from tests.support import hostile_bundles as hostile
from tests.support import toy_model
from tests.support.wait import until_async

FILES = {
    manifests.MODEL_FILE: toy_model.graph(),
    "edges_l0.onnx": toy_model.edge_graph(0),
    "edges_l1.onnx": toy_model.edge_graph(1),
}
WIDE, NARROW = 64, 7  # max_batch_size: what two kinds of the model differ in
FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk would be asked thousands of times to write
CALLS = ("open", "mkdir", "rename", "fsync", "fdopen", "read", "listdir", "scandir", "unlink", "rmdir")
CALLS += ("stat", "lstat", "fstat")


def packed(repository: Path, version: int = 1, batch: int = WIDE, *, force: bool = False) -> Path:
    """One of two kinds of the toy, exported. Raises RepositoryError."""
    document = toy_model.manifest("toy", version)
    document = dataclasses.replace(document, max_batch_size=batch, files=toy_model.listed(FILES))
    return pack.pack(repository, document, FILES, force=force)


def agree(repository: Path) -> dict[int, int]:
    """The batch size of each version; every one is whole, and one of them is what config.pbtxt is about."""
    config = (repository / "toy" / "config.pbtxt").read_text()
    result = {}
    for candidate in layout.scan(repository, plain_onnx=False):
        manifest = layout.load(candidate, 2**20).manifest
        assert manifest is not None
        result[candidate.version] = manifest.max_batch_size
    assert any(f"max_batch_size: {batch}\n" in config for batch in result.values()), (config, result)
    return result


def hidden(repository: Path) -> list[str]:
    """Return the names of hidden files that exports left in the repository."""
    return sorted(path.name for path in repository.rglob(f"{temp_dirs.HIDDEN}*"))


def state(repository: Path) -> dict[str, bytes]:
    """Every file that is not hidden."""
    paths = {str(path.relative_to(repository)): path for path in repository.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if temp_dirs.HIDDEN not in name}


class Failing:
    """The n-th call of any of some functions of `os`, and of `atomic.exchange`, fails."""

    def __init__(self, patch: pytest.MonkeyPatch, n: int, error: type[BaseException]) -> None:
        self.left, self.error, self.failed = n, error, ""
        for name in CALLS:
            patch.setattr(os, name, self.wrapped(getattr(os, name), name))
        patch.setattr(atomic, "exchange", self.wrapped(atomic.exchange, "exchange"))

    def wrapped(self, function: Callable[..., object], name: str) -> Callable[..., object]:
        def call(*parts: object, **named: object) -> object:
            self.left -= 1
            if self.left == 0:
                self.failed = name
                raise self.error(5, "injected") if self.error is OSError else self.error("injected")
            return function(*parts, **named)

        return call


@dataclass(frozen=True, slots=True)
class Case:
    """A forced export of version 1 over a model of two versions. `batch`: of the same kind, or one whose config is
    another; `exchanges`: whether the file system can exchange two names."""

    batch: int
    exchanges: bool
    error: type[BaseException]

    def run(self, repository: Path, n: int) -> str:
        """With the n-th call failing. Which call it was, "" if there are not so many. Asserts what must hold."""
        shutil.rmtree(repository, ignore_errors=True)
        packed(repository, 1)
        packed(repository, 2)
        before, refused = state(repository), False
        with pytest.MonkeyPatch.context() as patch:
            if not self.exchanges:
                patch.setattr(atomic, "exchange", lambda item, other: False)
            failing = Failing(patch, n, self.error)
            try:
                packed(repository, 1, self.batch, force=True)
            except RepositoryError:
                refused = True
        if refused:
            assert failing.failed, "nothing failed, and yet it says so"
            self.old(repository, before)
        else:
            assert agree(repository) == {1: self.batch, 2: WIDE}
        packed(repository, 2, self.batch, force=True)
        assert hidden(repository) == []
        return failing.failed

    def old(self, repository: Path, before: dict[str, bytes]) -> None:
        """As it was; without an exchange of names the next sweep may have to put the old one back."""
        if not self.exchanges and state(repository) != before:
            for folder in (repository, repository / "toy"):
                temp_dirs.sweep(folder)
        assert state(repository) == before


CASES = [  # each pair of them
    Case(WIDE, True, OSError),
    Case(WIDE, False, MemoryError),
    Case(NARROW, True, MemoryError),
    Case(NARROW, False, OSError),
]


def bundle(root: Path, data: bytes | None = None, name: str = manifests.MODEL_FILE) -> Bundle:
    """The toy, with another file in it."""
    directory = toy_model.write(root)
    if data is not None:
        hostile.replaced(directory, data, name)
    (candidate,) = layout.scan(root, plain_onnx=False)
    return layout.load(candidate, 2**30)


def during(
    root: Path, meanwhile: Callable[[Sandbox, asyncio.Task[None]], Awaitable[None]], **settings: Any
) -> asyncio.Task[None]:
    """Run `meanwhile` during the load check of an endless version; returns the task of the load check."""
    item = bundle(root, hostile.endless())

    async def main() -> asyncio.Task[None]:
        trial = Sandbox(Settings(repository=root, graph_allowlist="relaxed", **settings))
        task = asyncio.create_task(trial.validate(item))
        await grandchildren(trial, 1)
        await meanwhile(trial, task)
        await asyncio.wait([task])
        trial._asker.close()
        return task

    return asyncio.run(main())


def forker(trial: Sandbox) -> int:
    """The process that forks."""
    assert trial._asker._end is not None
    peeked = trial._asker._end.peek()
    assert peeked is not None
    return int(peeked[2][0].pid)


async def grandchildren(trial: Sandbox, wanted: int) -> list[int]:
    """Those that try something, once there are so many."""

    def children() -> list[int] | None:
        if trial._asker._requests is None:
            return None
        pid = forker(trial)
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def reached() -> tuple[list[int]] | None:
        pids = children()
        return (pids,) if pids is not None and len(pids) == wanted else None

    (result,) = await until_async(reached, f"{wanted} processes") or ([],)
    return result
