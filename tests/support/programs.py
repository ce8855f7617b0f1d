"""Programs of the deployment tests, proxies before a server, and free ports for programs that take a number."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import random
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.manifests import download

ENVIRONMENT = Path(__file__).parents[2] / ".venv-stack" / "bin"
SOURCES = Path(__file__).parents[2] / ".venv-model-sources" / "bin"  # of the part model-sources of `make data-test`


def program(name: str) -> str:
    """A program on PATH, or the pinned download. Skips the test if it cannot be downloaded."""
    try:
        return str(download.program(name))
    except download.Unavailable as error:
        pytest.skip(f"{name} cannot be downloaded: {error}")


def command(name: str) -> str:
    """A command on PATH, or of the environment of `make stack-test`. Skips the test if it is absent."""
    found = shutil.which(name) or shutil.which(name, path=str(ENVIRONMENT))
    if found is None:
        pytest.skip(f"{name} is not installed; `make stack-test` installs it (380 MB with others)")
    return found


def interpreter(module: str) -> str:
    """A Python that has a module: this one, or the one of `make stack-test`. Skips the test if neither has it."""
    if importlib.util.find_spec(module) is not None:
        return sys.executable
    if not (ENVIRONMENT / "python").is_file():
        pytest.skip(f"{module} is not installed; `make stack-test` installs it (380 MB with others)")
    return str(ENVIRONMENT / "python")


def folders(*programs: str) -> str:
    """Folders of programs, and of the tools for sources of models, as a part of the variable PATH."""
    return os.pathsep.join([*(str(Path(program(name)).parent) for name in programs), str(SOURCES)])


def source_tool(name: str) -> str:
    """A tool for sources of models, by its path. Skips the test if it is absent."""
    found = shutil.which(name, path=str(SOURCES))
    if found is None:
        pytest.skip(f"{name} is not in the environment for sources of models; `make data-test` builds it")
    return found


FIRST, LAST = 10_000, 16_000  # below the ports of `ray_cluster`, and below those that the kernel gives out
WORKERS = 10  # of pytest-xdist; each has its own part of the range
_LEFT: list[int] = []  # of this process, in random order; it gives each number once before it repeats one


def free_ports(*names: str) -> dict[str, int]:
    """A different free port for each name. Between this call and the start of the program, no other socket gets one of
    them: the kernel gives out higher ports, and other workers of pytest have other parts of the range."""
    with contextlib.ExitStack() as stack:
        return {name: next(number for number in _numbers() if _binds(stack, number)) for name in names}


def _numbers() -> Iterator[int]:
    """Numbers of the part of this worker. Raises RuntimeError if all of them are in use."""
    size = (LAST - FIRST) // WORKERS
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    for _ in range(size):
        if not _LEFT:
            _LEFT.extend(random.SystemRandom().sample(range(FIRST + worker * size, FIRST + (worker + 1) * size), size))
        yield _LEFT.pop()
    raise RuntimeError(f"none of {size} ports from {FIRST + worker * size} is free")


def free_port() -> int:
    """One free port; see `free_ports`."""
    return free_ports("")[""]


def _binds(stack: contextlib.ExitStack, number: int) -> bool:
    """Whether a port is free. It stays bound until the end of the context."""
    each = stack.enter_context(socket.socket())
    try:
        each.bind(("127.0.0.1", number))
    except OSError:
        return False
    return True


class Relay:
    """A relay to a server that passes on `limit` bytes of its responses, and then nothing. `stopped` is set then.

    `address`: where clients connect, host and port. `target`: the server of new connections. `targets`: those of
    the connections so far.
    """

    def __init__(self, target: str, limit: float = math.inf) -> None:
        self.target, self.targets = target, list[str]()
        self._left, self._lock = limit, threading.Lock()
        self.stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                host, _, port = self.target.rpartition(":")
                server = socket.create_connection((host, int(port)))
                self.targets.append(self.target)
                self._sockets += [client, server]
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if counted and not self._granted(len(data)):
                    self.stopped.set()
                    return  # the connection stays open, and silent
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _granted(self, size: int) -> bool:
        with self._lock:
            self._left -= size
            return self._left >= 0
