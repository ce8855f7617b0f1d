"""Several servers behind one port: started, watched, replaced and ended by this process, which answers no call.

    await serve(settings, ready)      as `app.serve`, with settings.workers > 1

A worker is a process of its own (`kanserve.server.worker`), with its share of the threads. All accept from one socket
that is bound here (asgi), or each from one of its own on the same port (grpcio), so the port outlives any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kanserve.config.reload import Change, Changes
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.observability import logs
from kanserve.observability.multiprocess import MultiprocessMetrics
from kanserve.server import app, worker
from kanserve.system import resources
from kanserve.transport import endpoints, factory

WORKER = (sys.executable, "-m", "kanserve.server.worker")
STEADY = 10.0  # seconds after which a worker's end is an accident, and no loop
PAUSE, LONGEST = 0.1, 30.0  # seconds before another takes its place; doubles in a loop
HURRIED = 5.0  # seconds for those who hurry, before they are killed
SPARE = 3.0  # seconds in which a stuck worker can end by itself
LINE = 2**20  # bytes that a worker says at most

# Of one kind the last counts.
KINDS = {"load": "load", "unload": "load", "choose": "choose", "shadow": "shadow", "reset": "reset"}
Passed = Callable[[int, dict[str, Any]], None]  # by the worker of this number

log = logs.get_logger("workers")


async def serve(
    settings: Settings,
    ready: Callable[[Mapping[str, str]], None] | None = None,
    *,
    changes: Changes | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then have every worker drain; a second signal hurries. Returns the exit code.
    `changes` as of `app.serve`. Raises ConfigError if a worker cannot start."""
    signals = app.Signals(asyncio.get_running_loop())
    page = MultiprocessMetrics()
    with (
        _met(settings) as settings,
        contextlib.ExitStack() as bound,
        contextlib.closing(app.metrics_server(page, settings)) as metrics,
    ):
        listeners = {name: bound.enter_context(_bound(settings, name)) for name in _ports(settings)}
        crew = Supervisor(settings, listeners, page, metrics.port)
        signals.again.append(crew.look)
        if changes is not None:
            changes.subscribe(crew.change)
            signals.again.append(changes.request)
        try:
            addresses = await crew.begin(signals.stop)
            if addresses:
                addresses["metrics"] = f"{settings.metrics_host}:{metrics.port}"
                log.info("server_ready", workers=settings.workers, **addresses)
                (ready or _nobody)(addresses)
            await signals.stop.wait()
        except ConfigError:
            signals.hurry.set()
            raise
        finally:
            bound.close()  # the workers have their own, and the port ends with the last of them
            clean = await crew.leave(signals.hurry, signal.SIGTERM if signals.patient else signal.SIGINT)
    if signals.hurry.is_set():
        return app.EXIT_TERMINATED
    return 0 if clean else 1


def _nobody(addresses: Mapping[str, str]) -> None:
    """Nobody asked to be told."""


@contextlib.contextmanager
def _met(settings: Settings) -> Iterator[Settings]:
    """With a folder where workers put what their statistics have counted, so that each answers for all: that of the
    settings, or one that is gone with them."""
    with contextlib.ExitStack() as stack:
        if settings.state_dir is None:
            try:
                folder = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="kanserve-", ignore_cleanup_errors=True)
                )
                settings = settings.model_copy(update={"state_dir": Path(folder)})
            except OSError as error:
                log.warning("statistics_not_shared", reason=str(error))
        yield settings


def _ports(settings: Settings) -> tuple[str, ...]:
    return ("grpc_port",) if settings.http_port is None else ("grpc_port", "http_port")


def _bound(settings: Settings, name: str) -> socket.socket:
    """What the workers inherit for a port: a socket that listens, or for grpcio one that keeps the port for them."""
    accepts = name == "http_port" or factory.taken(settings.transport) == "asgi"
    bind = endpoints.bind if accepts else endpoints.keep
    port = endpoints.Port.http if name == "http_port" else endpoints.Port.grpc
    return bind(port(settings), settings.keepalive_seconds)


class Supervisor:
    """All workers. `begin` once, then `leave`."""

    def __init__(
        self, settings: Settings, listeners: Mapping[str, socket.socket], page: MultiprocessMetrics, metrics: int
    ) -> None:
        ports = {name: int(listener.getsockname()[1]) for name, listener in listeners.items()}
        share = max(1, (settings.threads or resources.budget()) // settings.workers)
        own = {"workers": 1, "threads": share, "metrics_host": "127.0.0.1", "metrics_port": 0, **ports}
        sockets = {str(ports[name]): listener.fileno() for name, listener in listeners.items()}
        self._settings = {**settings.model_dump(mode="json"), **own}
        here = "127.0.0.1" if settings.metrics_host == "0.0.0.0" else settings.metrics_host
        self._orders: list[dict[str, Any]] = []
        given: dict[str, Any] = {
            "settings": self._settings,
            "sockets": sockets,
            "metrics": f"{here}:{metrics}",
            "orders": self._orders,
            "of": settings.workers,
        }
        self._posts = [WorkerProcess(number, given, page, self.passed) for number in range(settings.workers)]
        self._keeping: list[asyncio.Task[bool]] = []

    def change(self, change: Change) -> None:
        """For all that are there, and for those who come after."""
        logs.configure(change.live["log_format"], change.live["log_level"])
        self._settings.update(change.live)
        for post in self._posts:
            post.tell(change)

    def passed(self, number: int, order: dict[str, Any]) -> None:
        """A worker was told to do something with a model: for the others, and for those who come after."""
        about = (order["model"], KINDS.get(order["do"]))
        self._orders[:] = [old for old in self._orders if (old["model"], KINDS.get(old["do"])) != about]
        self._orders.append(order)
        for other, post in enumerate(self._posts):
            if other != number:
                post.order(order)

    def look(self) -> None:
        """Have the repository looked at now."""
        for post in self._posts:
            post.look()

    async def begin(self, stop: asyncio.Event) -> dict[str, str]:
        """Until all are ready, or `stop`: then nothing. Returns the addresses. Raises ConfigError."""
        starting = asyncio.gather(*(post.start() for post in self._posts))
        if not await _before(starting, stop):
            starting.cancel()
            return {}
        said = starting.result()
        failed = next((one for one in said if "grpc" not in one), None)
        if failed is not None:
            raise ConfigError(f"a worker did not start: {failed.get('error', 'it ended without a word')}")
        for post in self._posts:
            post.go()
        self._keeping = [asyncio.create_task(post.keep()) for post in self._posts]
        return {name: said[0][name] for name in ("grpc", "http") if name in said[0]}

    async def leave(self, hurry: asyncio.Event, number: signal.Signals) -> bool:
        """Have all drain, and sooner with `hurry`. Returns whether all ended well."""
        for post in self._posts:
            post.leave(number)
        ends = asyncio.gather(*(post.ended() for post in self._posts))
        if not await _before(ends, hurry):
            for number in (signal.SIGTERM, signal.SIGKILL):
                for post in self._posts:
                    post.leave(number)
                await asyncio.wait({ends}, timeout=HURRIED)
        codes = await ends
        for task in self._keeping:
            task.cancel()
        return not any(codes)


async def _before(work: asyncio.Future[Any], event: asyncio.Event) -> bool:
    """Whether the work is done before the event comes."""
    coming = asyncio.ensure_future(event.wait())
    await asyncio.wait([work, coming], return_when=asyncio.FIRST_COMPLETED)
    coming.cancel()
    return work.done()


class WorkerProcess:
    """The place of one worker: whoever has it is replaced when it ends."""

    def __init__(self, number: int, given: Mapping[str, Any], page: MultiprocessMetrics, passed: Passed) -> None:
        self._number, self._given, self._page, self._passed = number, given, page, passed
        self._process: asyncio.subprocess.Process | None = None
        self._leaving = False
        self._change: Change | None = None
        self._begun = 0.0
        self._hearing: asyncio.Task[None] | None = None

    async def start(self, *, late: bool = False) -> dict[str, str]:
        """A process; what it says once it is ready, or why it is not. `late`: the others serve."""
        self._begun = asyncio.get_running_loop().time()
        pipe = asyncio.subprocess.PIPE
        process = self._process = await asyncio.create_subprocess_exec(
            *WORKER,
            stdin=pipe,
            stdout=pipe,
            limit=LINE,
            pass_fds=tuple(self._given["sockets"].values()),
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._say({**self._given, "late": late, "number": self._number})
        if self._change is not None:
            self.tell(self._change)
        line = await process.stdout.readline()
        said: dict[str, str] = json.loads(line) if line else {}
        if "metrics" in said:
            self._page.joined(self._number, said["metrics"])
            self._hearing = asyncio.create_task(self._hear(process, process.stdout))
        return said

    def order(self, order: Mapping[str, Any]) -> None:
        """What another one was told to do with a model."""
        self._say({"order": order})

    async def _hear(self, process: asyncio.subprocess.Process, said: asyncio.StreamReader) -> None:
        """Its signs of life, and what it passes on, until it ends. One that gives none for longer than it would itself
        bear is killed: it was stopped, or is stuck where its own watchdog is too. Time is counted in waits, as of
        `watchdog`."""
        limit, silent = float(self._given["settings"]["loop_stall_seconds"]), 0.0
        while not limit or silent < limit + SPARE:
            try:
                async with asyncio.timeout(worker.BEAT):
                    line = await said.readline()
            except TimeoutError:
                silent += worker.BEAT
            else:
                if not line:
                    return
                silent = 0.0
                if line.strip():
                    self._passed(self._number, json.loads(line)["order"])
        log.error("worker_stalled", worker=self._number, seconds=silent)
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    def go(self) -> None:
        """Tell it that all are ready."""
        self._say({"all": True})

    def look(self) -> None:
        """Have it look at the repository now."""
        self._say({"look": True})

    def tell(self, change: Change) -> None:
        """Settings have changed, or could not be read; whoever takes its place later is told too."""
        self._change = change
        self._say({"change": asdict(change)})

    def _say(self, what: Mapping[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def keep(self) -> bool:
        """Replace whoever ends, until `leave`."""
        loop, pause = asyncio.get_running_loop(), PAUSE
        while True:
            code = await self.ended()
            self._page.left(self._number)
            if self._leaving:
                return True
            lived = loop.time() - self._begun
            pause = PAUSE if lived > STEADY else min(2 * pause, LONGEST)
            log.error("worker_exited", worker=self._number, code=code, lived=round(lived, 1), again_in=pause)
            await asyncio.sleep(pause)
            if not self._leaving and "grpc" in await self.start(late=True):
                self.go()

    async def ended(self) -> int:
        """Wait for the process; its exit code, negative for a signal."""
        return 0 if self._process is None else await self._process.wait()

    def leave(self, number: signal.Signals) -> None:
        """A signal; nobody comes after."""
        self._leaving = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
