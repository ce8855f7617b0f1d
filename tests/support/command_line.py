"""Command-line helpers: programs, `kanserve` in this process and for a shell, a server, and shared exports."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors.numpy import save_file

from kanserve import Client
from kanserve.cli import main
from kanserve.client.errors import ClientError
from kanserve.observability import logs
from tests.support import forked_process
from tests.support.forked_process import HEAD
from tests.support.server_process import first_line
from tests.support.wait import until

COMMAND = (sys.executable, "-m", "kanserve")
# A developer's own settings must not decide the tests, nor the width of the terminal they run on.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("KANSERVE_") and name != "COLUMNS"}


@dataclass(frozen=True, slots=True)
class Server:
    """A server started by `kanserve serve --json`. `http`: its HTTP address, if any."""

    url: str
    metrics: str
    process: subprocess.Popen[str]
    log: Path
    http: str = ""

    def ask(self, *arguments: object) -> Any:
        """The document of a command for this server."""
        return document(kanserve(*arguments, "--json", "--url", self.url))

    def shown(self, *arguments: object) -> str:
        """The text on stdout of a command for this server, which succeeds."""
        done = kanserve(*arguments, "--url", self.url)
        assert done.returncode == 0, done.stderr
        return done.stdout


def program(
    *arguments: object, stdin: bytes = b"", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a separate process; returns the text of both streams and the exit code."""
    done = forked_process.run(
        [*COMMAND, *map(str, arguments)], input=stdin, timeout=120, env={**CLEAN, **environment}, cwd=cwd
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def kanserve(*arguments: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
    """The same by the program's main function in this process, whose imports are made: a fraction of the time.

    Its streams are files, so that what is written past Python is seen too.
    """
    supplied = [str(argument) for argument in arguments]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        streams = [
            stack.enter_context(open(file.fileno(), mode, encoding="utf-8", closefd=False))
            for file, mode in zip(files, ("r", "w", "w"), strict=True)
        ]
        stack.enter_context(mock.patch.dict(os.environ, {**CLEAN, **environment}, clear=True))
        stack.enter_context(mock.patch.multiple(sys, stdin=streams[0], stdout=streams[1], stderr=streams[2]))
        _log_to(files[2].fileno())
        try:
            code = main.main(supplied)
        except SystemExit as end:  # of --help and --version
            code = int(end.code or 0)
        finally:
            _log_to(logs.CLOSED)
        for stream in streams[1:]:
            stream.flush()
        written = []
        for file in files[1:]:
            file.seek(0)
            written.append(file.read().decode())
    return subprocess.CompletedProcess([*COMMAND, *supplied], code, *written)


def _log_to(descriptor: int) -> None:
    """Let the log of this process, if a command has begun one, write to this descriptor. The log keeps its descriptor,
    whose number a socket of a later test gets."""
    for sink in logs._sinks:
        sink.drain(60)
        sink._descriptor = descriptor


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON document on stdout of a command that succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wrong_refusals(
    cases: Mapping[str, str | tuple[str, ...]], *more: object, code: int = 2, **environment: str
) -> list[str]:
    """Check commands that must fail, by the words of each and the text or texts that it prints on stderr. Returns those
    that end with another code, print to stdout, or lack a text. `more`: last arguments of each command."""
    wrong = []
    for words, texts in cases.items():
        done = kanserve(*shlex.split(words), *more, **environment)
        expected = (texts,) if isinstance(texts, str) else texts
        missing = [text for text in expected if text not in done.stderr]
        if (done.returncode, done.stdout) != (code, "") or missing or "Traceback" in done.stderr:
            wrong.append(f"{words}: exit code {done.returncode}, without {missing}: {done.stdout}{done.stderr}")
    return wrong


def checkpoint(path: Path, widths: tuple[int, ...], *, seed: int = 0) -> Path:
    """An efficient-kan state of random weights, G = 5, k = 3."""
    rng = np.random.default_rng(seed)
    step = 2 / 5
    knots = np.arange(-3, 9, dtype=np.float32) * step - 1
    state = {}
    for at, (sources, destinations) in enumerate(itertools.pairwise(widths)):
        state |= {
            f"layers.{at}.base_weight": rng.normal(size=(destinations, sources)).astype(np.float32),
            f"layers.{at}.spline_weight": rng.normal(size=(destinations, sources, 8)).astype(np.float32),
            f"layers.{at}.spline_scaler": rng.normal(size=(destinations, sources)).astype(np.float32),
            f"layers.{at}.grid": np.tile(knots, (sources, 1)),
        }
    save_file(state, path)
    return path


@contextlib.contextmanager
def serving(repository: Path, log: Path, *flags: str) -> Iterator[Server]:
    """`kanserve serve` on free ports, terminated at the end."""
    command = [*COMMAND, "serve", str(repository), "--grpc-port", "0", "--metrics-port", "0", "--json"]
    with log.open("w") as errors:
        process = forked_process.popen(
            [*command, "--drain-delay-seconds", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=CLEAN,
        )
    with process:
        try:
            facts = json.loads(first_line(process, log))
            yield Server(facts["grpc"], facts["metrics"], process, log, facts.get("http", ""))
        finally:
            process.terminate()


CODE = """#!{python} -SEs
import json, os, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect({address!r})
job = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(peer, [len(job).to_bytes({head}, "big")], [0, 1, 2])
peer.sendall(job)
code = int(peer.recv(16) or -9)
os._exit(code if code >= 0 else 128 - code)
"""
# Models that a command or a block of a page exports into the repository `models`.
EXPORTED = re.compile(r"kanserve export (?![^\n]*--repository (?!models\b))(?![^\n]*--c )[^\n]*--name (\w+)")


def wait_for(model: str, address: str) -> None:
    """Until the server serves the model."""
    with Client(address) as client:
        until(lambda: client.model(model), errors=(ClientError,))


@contextlib.contextmanager
def on_path(address: str) -> Iterator[str]:
    """A value for the variable PATH on which `kanserve` is first. An export ends when the server at `address` has its
    model: the next command comes sooner than from an interpreter that starts."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        place = str(Path(folder) / "socket")
        listener.bind(place)
        listener.listen()
        program = Path(folder) / "kanserve"
        program.write_text(CODE.format(python=sys.executable, address=place, head=HEAD))
        program.chmod(0o755)
        threading.Thread(target=_accept, args=(listener, address), daemon=True).start()
        yield os.pathsep.join((folder, str(Path(sys.executable).parent), os.environ["PATH"]))


def _accept(listener: socket.socket, server: str) -> None:
    with contextlib.suppress(OSError):  # of the listener, which the context has closed
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=_serve, args=(peer, server), daemon=True).start()


def _serve(peer: socket.socket, server: str) -> None:
    """Run one call. If its program is killed, the fork is ended too."""
    with peer:
        head, streams, _, _ = socket.recv_fds(peer, HEAD, 3)
        arguments, folder, environment = json.loads(peer.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
        command = [sys.executable, "-m", "kanserve", *arguments]
        try:
            process = forked_process.Popen(
                command, stdin=streams[0], stdout=streams[1], stderr=streams[2], cwd=folder, env=environment
            )
        finally:
            for stream in streams:
                os.close(stream)
        if peer.fileno() in select.select([peer.fileno(), process.status], [], [])[0]:
            process.send_signal(signal.SIGTERM)
        code = process.wait()
        for model in EXPORTED.findall(f"kanserve {' '.join(arguments)}") if code == 0 else ():
            wait_for(model, server)
        with contextlib.suppress(BrokenPipeError):
            peer.sendall(str(code).encode())


# conftest.py sets it to a folder that all workers of one run share.
SHARED = "TESTED_EXPORTS"


def exported(checkpoint: Path, name: str, *arguments: object, into: Path | None = None) -> Path:
    """A repository with version 1 of `name`, as `kanserve export CHECKPOINT *ARGUMENTS` writes it once in a run. Tests
    only read from it. With `into`, the version is copied into that repository, which a test can change."""
    place = Path(os.environ[SHARED]) / _key(checkpoint, name, arguments)
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
