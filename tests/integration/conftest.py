"""Fixture: one real server for all golden models, which the command line exports and starts."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command_line import kanserve, program
from tests.support.golden_cases import cases
from tests.support.server_process import READY_SECONDS
from tests.support.toy_server import _the_loop_turns  # noqa: F401 - a fixture for every test

KANSERVE = [sys.executable, "-m", "kanserve"]
SECONDS = 120


@dataclass(frozen=True)
class Served:
    """A running server: its address, its metrics' address, its repository; and where it speaks HTTP, if it does."""

    url: str
    metrics: str
    repository: Path
    http: str = ""


@contextlib.contextmanager
def serving(repository: Path, *flags: str) -> Iterator[Served]:
    """`kanserve serve` on free ports, stopped by SIGTERM; it must then exit with 0."""
    flags = ("--grpc-port", "0", "--metrics-port", "0", "--log-format", "json", "--drain-delay-seconds", "0", *flags)
    log = repository.parent / "serve.log"
    with log.open("w") as sink:
        process = subprocess.Popen([*KANSERVE, "serve", str(repository), *flags], stderr=sink)
    try:
        yield _await_ready(process, log, repository)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=SECONDS)
    assert code == 0, log.read_text()


def _await_ready(process: subprocess.Popen[bytes], log: Path, repository: Path) -> Served:
    end = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        for line in log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
            if event.get("event") == "server_ready":
                return Served(event["grpc"], event["metrics"], repository, event.get("http", ""))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Every golden case, exported with only its own options, behind one server."""
    repository = tmp_path_factory.mktemp("served") / "models"
    for at, case in enumerate(cases()):
        # One by the program in a process of its own, the others by its main function: their imports are made.
        export = kanserve if at else program
        done = export("export", case.path, "--repository", repository, "--name", case.name, *case.facts["export_args"])
        assert done.returncode == 0, done.stderr
    http = ("--http-port", "0") if importlib.util.find_spec("h2corn") else ()
    with serving(repository, *http) as server:
        yield server
