"""Server side of a load check: it starts the forking process, sends requests and reads replies asynchronously."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Mapping

from kanserve.config.settings import ENV_PREFIX
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.sandbox import job as jobs
from kanserve.sandbox.job import Job

AT_ONCE = 2
IDLE = 30.0  # seconds without a load check until the forking process ends
STARTING, GRACE = 60.0, 30.0  # seconds to import everything; in addition to the time limit of the version
WORDS = 2**16  # bytes of a reply
SMALL = 2**16  # bytes of files that are written on the event loop, in less time than a thread needs to start
WITHOUT = "free memory and processes, or set load_check = false (unsafe for untrusted models)"


class ProcessLost(Exception):
    """End of the forking process."""


class SandboxClient:
    """Client of the sandbox, which checks each version in a separate process. Use it on one event loop at a time."""

    def __init__(self) -> None:
        self.turn = asyncio.Semaphore(AT_ONCE)  # of the parts that run
        self._alone = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._requests: socket.socket | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes], socket.socket], SandboxClient] | None = None
        self._started = 0  # processes so far
        self._busy = 0
        self._idle: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def check(self) -> AsyncIterator[VersionCheck]:
        """Context of the load check of one version, whose process ends with it."""
        self._busy += 1
        if self._idle is not None:
            self._idle.cancel()
        check = VersionCheck(self)
        try:
            yield check
        finally:
            check.close()
            self._busy -= 1
            if not self._busy:
                self._idle = asyncio.get_running_loop().call_later(IDLE, self.close)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Context in which no part of another check runs, so that a loss of the process is due to this one."""
        async with self._alone, contextlib.AsyncExitStack() as turns:
            for _ in range(AT_ONCE):
                await turns.enter_async_context(self.turn)
            yield

    def close(self) -> None:
        """End the forking process. The next load check starts another one."""
        if self._end is not None:
            self._end()
        self._requests = self._end = None

    def lost(self, forker: int) -> None:
        """End the forking process with this number. It may have been killed, and another check may have replaced it."""
        if forker == self._started:
            self.close()

    async def forked(self, most: int, memory: int) -> tuple[socket.socket, int]:
        """Socket to a new process, which begins with the job in `memory`, and the number of the process that forked it.
        Raises ProcessLost, OSError."""
        requests, number = await self._process()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            try:
                socket.send_fds(requests, [most.to_bytes(8, "little")], [memory, theirs.fileno()])
            except OSError as error:
                self.lost(number)
                raise ProcessLost from error
            undo.pop_all()
        return ours, number

    async def _process(self) -> tuple[socket.socket, int]:
        """The socket to the forking process and its number. It is started if there is none. Raises ProcessLost,
        OSError."""
        async with self._starting:
            if self._requests is None:
                self._started += 1
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with contextlib.ExitStack() as undo:
                    undo.callback(ours.close)
                    with theirs:
                        self._end = weakref.finalize(self, _ended, _started(theirs.fileno()), ours)
                    undo.callback(self.close)
                    ours.setblocking(False)
                    async with asyncio.timeout(STARTING):
                        if not await asyncio.get_running_loop().sock_recv(ours, 1):
                            raise ProcessLost
                    undo.pop_all()
                self._requests = ours
            return self._requests, self._started


class VersionCheck:
    """Load check of one version, whose parts run one after the other in one process that checks no other version."""

    def __init__(self, client: SandboxClient) -> None:
        self._client = client
        self._socket: socket.socket | None = None
        self._forker = 0
        self._heard = b""
        self._parts: list[tuple[Job, Mapping[str, bytes]]] = []
        self._passed = 0

    async def run(self, job: Job, files: Mapping[str, bytes]) -> None:
        """Wait for the next part of the load check. Raises LoadError with the fault of the version, and ConfigError for
        a missing device."""
        self._parts.append((job, files))
        # The process that forks may have been killed: another one checks the version again, without others next to it.
        for turn in (self._client.turn, self._client.alone()):
            async with turn:
                try:
                    while self._passed < len(self._parts):  # after the loss of a process, all of them run again
                        own_job, own_files = self._parts[self._passed]
                        _raise_fault(own_job, await self._reply(own_job, own_files))
                        self._passed += 1
                except ProcessLost:
                    self.close()
                    self._client.lost(self._forker)
                except OSError as error:
                    raise LoadError(
                        LoadReason.INTERNAL,
                        f"the load check cannot start a process: {error.strerror or error}",
                        code="load-check-not-started",
                        hint=WITHOUT,
                    ) from error
                else:
                    return
        raise LoadError(
            LoadReason.INTERNAL, "the load-check process exited twice", code="load-check-process-lost", hint=WITHOUT
        )

    def close(self) -> None:
        """End the process of this version."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._heard, self._passed = None, b"", 0

    async def _reply(self, job: Job, files: Mapping[str, bytes]) -> dict[str, str | int]:
        """The reply to one part."""
        if sum(map(len, files.values())) <= SMALL:
            memory = jobs.put(job, files)
        else:  # on a thread, because it takes time; after a cancellation the memory is closed
            writing = asyncio.get_running_loop().run_in_executor(None, functools.partial(jobs.put, job, files))
            try:
                memory = await asyncio.shield(writing)
            except asyncio.CancelledError:
                writing.add_done_callback(lambda done: os.close(done.result()))
                raise
        try:
            if self._socket is None:
                self._socket, self._forker = await self._client.forked(job.most, memory)
            else:
                socket.send_fds(self._socket, [b"+"], [memory])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ProcessLost from error
        finally:
            os.close(memory)
        try:
            async with asyncio.timeout(job.seconds + GRACE):
                loop, reply = asyncio.get_running_loop(), self._socket  # another task may remove the attribute
                while b"\n" not in self._heard and len(self._heard) < WORDS:
                    try:
                        more = await loop.sock_recv(reply, WORDS)
                    except ConnectionResetError as error:
                        raise ProcessLost from error
                    if not more:
                        raise ProcessLost
                    self._heard += more
                line, _, self._heard = self._heard.partition(b"\n")
                words: dict[str, str | int] = json.loads(line)
                return words
        except TimeoutError as error:
            self._client.lost(self._forker)
            raise _late(job) from error


def environment() -> dict[str, str]:
    """The environment of a process without settings of the server, and with one thread for arrays: a process with
    threads cannot fork safely."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _started(end: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "kanserve.sandbox.process"],
        stdin=end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )


def _ended(process: subprocess.Popen[bytes], requests: socket.socket) -> None:
    """End the process, and with it its children, by closing its socket."""
    requests.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
        return
    process.kill()
    process.wait()


def _late(job: Job) -> LoadError:
    return LoadError(
        LoadReason.TIME,
        f"the load check took longer than {job.seconds:.3g} s",
        code="load-check-timeout",
        hint="raise load_timeout",
    )


def _raise_fault(job: Job, words: Mapping[str, str | int]) -> None:
    """Raises the error in a reply; an empty reply has none."""
    if not words:
        return
    code, hint = (str(words.get(name, "")) for name in ("code", "hint"))
    if "config" in words:
        raise ConfigError(str(words["config"]), code=code, hint=hint)
    if "bug" in words:
        raise RuntimeError(f"the load check of a version failed with a bug:\n{words['bug']}")
    if words.get("ended") == -signal.SIGALRM:
        raise _late(job)
    if "memory" in words or words.get("ended") == -signal.SIGKILL or words.get("reason") == LoadReason.MEMORY:
        cause = words.get("text", "the load-check process was killed")
        raise LoadError(
            LoadReason.MEMORY,
            f"{cause}; the load check may use {job.most} bytes of memory",
            code="load-check-memory",
            hint="give the server more memory, or raise load_memory_bytes if it has more",
        )
    if "ended" in words:
        exit_code = int(words["ended"])
        how = f"with {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with the exit code {exit_code}"
        raise LoadError(
            LoadReason.CRASH,
            f"the version crashed the load-check process {how}",
            code="load-check-crash",
            hint="export the model again",
        )
    raise LoadError(LoadReason(str(words["reason"])), str(words["text"]), code=code, hint=hint)
