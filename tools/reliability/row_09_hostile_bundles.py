"""Hostile bundles: versions with links, files outside the repository, or graphs that the server must reject."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from kanserve.config.settings import Settings
from kanserve.errors import LoadError
from kanserve.models.admission import Sandbox
from kanserve.repository import layout
from tests.support import toy_model
from tests.support.hostile_bundles import GRAPHS, PATHS, SECRET, Make
from tools.reliability.base import Outcome, Row, Scale, suite

IN_ACCESS, IN_OPEN, IN_NONBLOCK, EVENT = 0x1, 0x20, 0o4000, 16  # sys/inotify.h; bytes of an event without a name
LISTENERS: list[Callable[[str], None]] = []


def told(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        for listener in LISTENERS:
            listener(str(arguments[0]))


sys.addaudithook(told)


class Watched:
    """An inotify counter of opened and read files in a folder, for all processes."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(IN_NONBLOCK)
        for path in (folder, folder / SECRET):
            assert self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), IN_OPEN | IN_ACCESS) >= 0

    def events(self) -> int:
        """Since the last time."""
        result = 0
        while True:
            try:
                result += len(os.read(self._descriptor, 2**16)) // EVENT
            except BlockingIOError:
                return result

    def close(self) -> None:
        os.close(self._descriptor)


async def refused(trial: Sandbox, repository: Path) -> bool:
    """Whether nothing of it would be loaded."""
    for candidate in layout.scan(repository, plain_onnx=False):
        try:
            await trial.validate(layout.load(candidate, 2**30))
        except LoadError:
            continue
        return False
    return True


async def one(make: Make, trial: Sandbox, root: Path) -> tuple[bool, int]:
    """Whether the server rejected it, and the number of files opened outside."""
    repository, outside = root / "models", root / "outside"
    outside.mkdir(parents=True)
    (outside / SECRET).write_bytes(toy_model.W0.tobytes())
    make(toy_model.write(repository), outside)
    watched, names = Watched(outside), []
    (outside / SECRET).read_bytes()
    assert watched.events() > 0, "an open is not seen"
    LISTENERS.append(names.append)
    try:
        result = await refused(trial, repository)
    finally:
        LISTENERS.clear()
    opened = watched.events() + sum(str(outside) in name or name.endswith(SECRET) for name in names)
    watched.close()
    return result, opened


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Each with the default settings, and those of paths where any operator is allowed as well."""
    cases = [(name, make, "strict") for name, make in {**PATHS, **GRAPHS}.items()]
    cases += [(name, make, "relaxed") for name, make in PATHS.items()]
    passed, opened = [], 0

    async def main(root: Path) -> None:
        nonlocal opened
        trials = {
            screen: Sandbox(Settings(repository=root, graph_allowlist=screen, load_timeout=60))
            for screen in ("strict", "relaxed")
        }
        assert not await refused(trials["strict"], toy_model.write(root / "good").parents[1]), (
            "the toy itself is refused"
        )
        for at, (name, make, screen) in enumerate(cases):
            scale.tell(at, len(cases))
            result, often = await one(make, trials[screen], root / str(at))
            passed.extend([] if result else [f"{name} ({screen})"])
            opened += often
        for trial in trials.values():
            trial.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
    figures = {"bundles": len(cases), "refused": len(cases) - len(passed), "files opened outside": opened}
    return Outcome(figures, not passed and opened == 0, len(cases), "; ".join(passed))


ROW = Row(
    number="9",
    title="Malicious model versions",
    method=(
        "Versions have paths that leave the folder, unknown operators and domains, two copies of data, or deep "
        "functions. An audit hook and the kernel (inotify) record the files that any process opens."
    ),
    goal="100% rejected, no file opened outside the repository.",
    result="{refused} of {bundles} rejected, {files opened outside} files opened outside.",
    run=run,
)

test_row = suite(ROW)
