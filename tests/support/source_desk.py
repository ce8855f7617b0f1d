"""A guide about a source of models: its commands, a live server on the repository that they fill, and its clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kanserve import Client
from kanserve.client.errors import ClientError
from tests.support import reload_tools, server_process
from tests.support.compose_stack import until
from tests.support.model_stores import Relay
from tests.support.server_process import Server

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides" / "models"
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^( *)```(?:console|py)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SECONDS = 180
PAD = 3 * 2**20  # bytes that make a graph large enough to stop its copy halfway
HALF = 2**20  # bytes of responses after which a relay stops
RELAY = "RELAY"  # its port, in commands and variables of `Desk.stalled`


def commands(page: str, **counts: int) -> dict[str, list[str]]:
    """The blocks of commands of a guide by section, without their indentation. `counts`: the blocks that a test runs,
    by the first word of their section. Another number fails."""
    titles = SECTION.split((GUIDES / page).read_text())
    texts = dict(zip(titles[1::2], titles[2::2], strict=True))
    found = {
        title: [re.sub(rf"(?m)^{indent}", "", block) for indent, block in BLOCK.findall(text)]
        for title, text in texts.items()
    }
    found = {title: blocks for title, blocks in found.items() if blocks}
    assert {title.partition(" ")[0]: 0 for title in found}.keys() == counts.keys(), f"{page}: {list(found)}"
    for word, count in counts.items():
        blocks = [block for title, own in found.items() if title.partition(" ")[0] == word for block in own]
        assert len(blocks) == count, f"{page}: {len(blocks)} blocks below {word!r}"
    return found


@dataclass(slots=True)
class Desk:
    """A folder with the repository `models` of a live server. `replaced`: texts of a guide, and their values here."""

    folder: Path
    server: Server
    environment: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> Path:
        """The repository of the server."""
        return self.folder / "models"

    def local(self, block: str) -> str:
        """A block with the addresses of this test."""
        for text, here in self.replaced.items():
            block = block.replace(text, here)
        return block

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of commands."""
        path = f"{self.folder / 'bin'}{os.pathsep}{self.environment.get('PATH', os.environ['PATH'])}"
        return os.environ | {"KANSERVE_URL": self.server.address} | self.environment | {"PATH": path} | more

    def run(self, block: str, **more: str) -> str:
        """Run a block of commands in the folder. Returns its output."""
        command = ["bash", "-ec", self.local(block)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.variables(**more), capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def killed(self, block: str, halfway: Callable[[], object], **more: str) -> None:
        """Start a block of commands, and kill it with its children when it is halfway."""
        command = ["bash", "-ec", self.local(block)]
        with (self.folder / "killed.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.variables(**more), stdout=log, stderr=log, start_new_session=True
            )
        try:
            until(halfway, f"a copy that is halfway: {block}", SECONDS)
            assert process.poll() is None, (self.folder / "killed.log").read_text()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stalled(self, block: str, server: str, partial: str = "", **more: str) -> None:
        """Run a block through a relay that stops halfway, and kill it. `server`: the host and port that the relay
        reaches. `partial`: the pattern of a file in `models` that it then has. RELAY in the block and in the values of
        `more` is the relay's port."""
        with Relay(server, HALF) as relay:
            port = relay.address.rpartition(":")[2]
            redirected = {name: value.replace(RELAY, port) for name, value in more.items()}

            def halfway() -> bool:
                return relay.stopped.is_set() and (not partial or any(self.models.glob(partial)))

            self.killed(block.replace(RELAY, port), halfway, **redirected)

    def release(self, version: int, factor: float, pad: int = 0) -> Path:
        """Write a version to publish into the folder `release`. Returns its folder; see `reload_tools.write`."""
        folder = self.folder / "release" / "toy" / str(version)
        return reload_tools.write(folder, factor, version=version, pad=pad)

    def factor(self, version: str = "") -> float:
        """The factor of the content that serves; see `reload_tools`."""
        return reload_tools.factor(self.server, version=version)

    def state(self, version: int) -> str:
        """The state of a version; empty if the server does not know it."""
        return reload_tools.index(self.server).get(("toy", str(version)), ("", ""))[0]

    def serves(self, version: int, factor: float) -> None:
        """Wait until a version serves a content."""

        def served() -> bool:
            return self.state(version) == "READY" and self.factor(str(version)) == factor

        until(served, f"version {version} with factor {factor}: {reload_tools.index(self.server)}", 60)

    def scans(self, count: int = 3) -> None:
        """Wait for scans of the repository."""
        threading.Event().wait(count * POLL + 0.3)


POLL = 0.2  # seconds between two scans of the server


@contextlib.contextmanager
def desk(folder: Path, replaced: dict[str, str] | None = None, **environment: str) -> Iterator[Desk]:
    """A desk whose server serves version 1 of the model `toy` (factor 1)."""
    reload_tools.write(folder / "models" / "toy" / "1")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "bin").mkdir()
    program = folder / "bin" / "kanserve"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kanserve "$@"\n')
    program.chmod(0o755)
    with server_process.serving(folder / "models", repository_poll_seconds=POLL) as server:
        yield Desk(folder, server, environment, replaced or {})


def ignored(desk: Desk) -> list[str]:
    """The files that the server ignored in the version that it loaded last. The server writes its log with a delay."""
    lines = until(lambda: reload_tools.events(desk.server, "model_files_ignored"), "a line of the log", 60)
    return list(lines[-1]["files"])


class Load:
    """Calls of kanserve's client without retries while versions change. The end of the block fails if a call failed.
    `failed`: errors; `seen`: versions."""

    def __init__(self, desk: Desk, clients: int = 2) -> None:
        self.failed: list[str] = []
        self.seen: set[int] = set()
        self.calls = 0
        self._address, self._ended = desk.server.address, threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        until(lambda: self.calls, "a first response", 60)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        if kind is None:
            assert self.failed == []

    def _work(self) -> None:
        with Client(self._address, retries=0) as client:
            while not self._ended.wait(0.005):
                try:
                    self.seen.add(int(client.infer("toy", reload_tools.ROWS).version))
                except ClientError as error:
                    self.failed.append(str(error))
                self.calls += 1


def follow(desk: Desk, load: Load, publish: Callable[[int, float], object], fetch: str) -> None:
    """Publish the versions 2 and 3, and run a block that fetches each. Servers and clients follow at once."""
    for version, factor in ((2, 2.0), (3, 4.0)):
        publish(version, factor)
        desk.run(fetch)
        assert desk.factor() == factor
    until(lambda: 3 in load.seen, "a call of version 3", 60)


def survive(desk: Desk, interrupted: Callable[[], object], block: str, *, served: float, factor: float) -> None:
    """Interrupt a copy of version 2: the server goes on with the content of before. A block that copies again makes it
    serve the new content. `served`, `factor`: the factors before and after. No call fails."""
    ready = desk.state(2) == "READY"
    with Load(desk):
        interrupted()
        desk.scans()
        assert (desk.state(2) == "READY", desk.factor()) == (ready, served)
        desk.run(block)
        desk.serves(2, factor)
