"""Supervisor of several servers behind one port: it starts, watches, replaces and ends them, and handles no call.

`await serve(settings, ready)` is used as `app.serve`, with settings.workers > 1.

A worker is a process (`kanserve.server.worker`) with its share of the threads. With asgi, all workers accept from one
socket that is bound here. With grpcio, each accepts from its own socket on the same port. So the port outlives any of
them.
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
from kanserve.transport.metrics_server import MetricsServer

WORKER = (sys.executable, "-m", "kanserve.server.worker")
STEADY = 10.0  # seconds after which the exit of a worker is not part of a crash loop
PAUSE, LONGEST = 0.1, 30.0  # seconds until a worker is replaced; doubles in a crash loop
HURRIED = 5.0  # seconds for workers that stop immediately, before they are killed
SPARE = 3.0  # seconds in which a hung worker can end by itself
LINE = 2**20  # bytes of a line of a worker at most

Heard = Callable[[int, dict[str, Any]], None]  # a message, by the worker of this number

log = logs.get_logger("workers")


async def serve(
    settings: Settings,
    ready: Callable[[Mapping[str, str]], None] | None = None,
    *,
    changes: Changes | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then have every worker drain. A second signal stops them immediately. Returns the
    exit code. `changes`: as in `app.serve`. Raises ConfigError if a worker cannot start."""
    settings = factory.with_transport(settings)  # once, so that the workers do not repeat its warning
    signals = app.Signals(asyncio.get_running_loop())
    page = MultiprocessMetrics()
    with (
        _shared_state_dir(settings) as settings,
        contextlib.ExitStack() as bound,
        contextlib.closing(app.metrics_server(page, settings)) as metrics,
    ):
        ports = ("grpc_port",) if settings.http_port is None else ("grpc_port", "http_port")
        listeners = {}
        for name in ports:  # sockets that the workers inherit: listening ones, or for grpcio one that reserves the port
            port = (endpoints.Port.http if name == "http_port" else endpoints.Port.grpc)(settings)
            accepts = name == "http_port" or settings.transport == "asgi"
            own = endpoints.bind(port, settings.keepalive_seconds) if accepts else endpoints.reserve(port)
            listeners[name] = bound.enter_context(own)
        supervisor = Supervisor(settings, listeners, page, metrics)
        signals.on_hangup.append(supervisor.rescan)
        if changes is not None:
            changes.subscribe(supervisor.change)
            signals.on_hangup.append(changes.request)
        try:
            addresses = await supervisor.begin(signals.stop)
            if addresses:
                addresses["metrics"] = f"{settings.metrics_host}:{metrics.port}"
                supervisor.addresses.update(addresses)
                if ready is not None:
                    ready(addresses)
            await signals.stop.wait()
        except ConfigError:
            signals.hurry.set()
            raise
        finally:
            bound.close()  # the workers have separate sockets, and the port closes with the last of them
            clean = await supervisor.leave(signals.hurry, signal.SIGTERM if signals.patient else signal.SIGINT)
    if signals.hurry.is_set():
        return app.EXIT_TERMINATED
    return 0 if clean else 1


@contextlib.contextmanager
def _shared_state_dir(settings: Settings) -> Iterator[Settings]:
    """The settings with a folder in which workers share their statistics: the configured one, or a temporary one."""
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


class Supervisor:
    """Supervisor of all workers. Call `begin` once, then `leave`."""

    def __init__(
        self,
        settings: Settings,
        listeners: Mapping[str, socket.socket],
        page: MultiprocessMetrics,
        metrics: MetricsServer,
    ) -> None:
        ports = {name: int(listener.getsockname()[1]) for name, listener in listeners.items()}
        share = max(1, (settings.threads or resources.budget()) // settings.workers)
        own = {"workers": 1, "threads": share, "metrics_host": "127.0.0.1", "metrics_port": 0, **ports}
        sockets = {str(ports[name]): listener.fileno() for name, listener in listeners.items()}
        self._settings = {**settings.model_dump(mode="json"), **own}
        here = "127.0.0.1" if settings.metrics_host == "0.0.0.0" else settings.metrics_host
        self._orders: list[dict[str, Any]] = []
        start_message: dict[str, Any] = {
            "settings": self._settings,
            "sockets": sockets,
            "metrics": f"{here}:{metrics.port}",
            "orders": self._orders,
            "of": settings.workers,
        }
        self._workers = [WorkerProcess(number, start_message, page, self.heard) for number in range(settings.workers)]
        self.addresses: dict[str, str] = {}  # of all workers
        self._states: dict[int, str] = {}  # why a worker is not ready, by number; "" if it is
        self._announced: str | None = None
        self._metrics = metrics
        self._keeping: list[asyncio.Task[bool]] = []

    def change(self, change: Change) -> None:
        """Apply a change of settings to all workers, and to later ones."""
        logs.configure(change.live["log_format"], change.live["log_level"])
        self._settings.update(change.live)
        for child in self._workers:
            child.apply_change(change)

    def heard(self, number: int, message: dict[str, Any]) -> None:
        """Act on a message of a worker. If the readiness of all workers together changes, it is logged."""
        if "order" in message:
            self.passed(number, message["order"])
        else:
            self._states[number] = message["not_ready"]
        if len(self._states) == len(self._workers):
            before, self._announced = self._announced, next(filter(None, self._states.values()), "")
            self._metrics.ready = not self._announced
            if before is None or bool(before) != bool(self._announced):
                app.log_state(self._announced, workers=len(self._workers), **self.addresses)

    def passed(self, number: int, order: dict[str, Any]) -> None:
        """Pass an order about a model, which one worker received, to all others and to later ones."""

        def subject(one_order: Mapping[str, Any]) -> tuple[str, str]:
            return one_order["model"], "load" if one_order["do"] == "unload" else one_order["do"]

        # Workers that start later receive only the last order about each subject.
        self._orders[:] = [old for old in self._orders if subject(old) != subject(order)]
        self._orders.append(order)
        for other, child in enumerate(self._workers):
            if other != number:
                child.send({"order": order})

    def rescan(self) -> None:
        """Have each worker scan the repository now."""
        for child in self._workers:
            child.send({"look": True})

    async def begin(self, stop: asyncio.Event) -> dict[str, str]:
        """Start the workers, and wait until all are ready, or until `stop`, which gives no addresses. Returns the
        addresses. Raises ConfigError."""
        starting = asyncio.gather(*(child.start() for child in self._workers))
        if not await _before(starting, stop):
            starting.cancel()
            return {}
        replies = starting.result()
        failed = next((reply for reply in replies if "grpc" not in reply), None)
        if failed is not None:
            raise ConfigError(
                f"a worker did not start: {failed.get('error', 'its process exited')}",
                code=failed.get("code", ""),
                hint=failed.get("hint", "") or "see the log above for the cause",
            )
        for child in self._workers:
            child.send({"all": True})
        self._keeping = [asyncio.create_task(child.keep()) for child in self._workers]
        return {name: replies[0][name] for name in ("grpc", "http") if name in replies[0]}

    async def leave(self, hurry: asyncio.Event, number: signal.Signals) -> bool:
        """Have all workers drain; with `hurry`, stop them immediately. Returns whether all exited with 0."""
        self._metrics.ready = False
        for child in self._workers:
            child.leave(number)
        ends = asyncio.gather(*(child.ended() for child in self._workers))
        if not await _before(ends, hurry):
            for number in (signal.SIGTERM, signal.SIGKILL):
                for child in self._workers:
                    child.leave(number)
                await asyncio.wait({ends}, timeout=HURRIED)
        codes = await ends
        for task in self._keeping:
            task.cancel()
        return not any(codes)


async def _before(work: asyncio.Future[Any], event: asyncio.Event) -> bool:
    """Whether the work is done before the event is set."""
    coming = asyncio.ensure_future(event.wait())
    await asyncio.wait([work, coming], return_when=asyncio.FIRST_COMPLETED)
    coming.cancel()
    return work.done()


class WorkerProcess:
    """Worker whose process is replaced when it exits."""

    def __init__(self, number: int, start_message: Mapping[str, Any], page: MultiprocessMetrics, heard: Heard) -> None:
        self._number, self._start_message, self._page, self._heard = number, start_message, page, heard
        self._process: asyncio.subprocess.Process | None = None
        self._leaving = False
        self._change: Change | None = None
        self._begun = 0.0
        self._hearing: asyncio.Task[None] | None = None

    async def start(self, *, late: bool = False) -> dict[str, str]:
        """Start a process. Returns its addresses once it is ready, or its error. `late`: the other workers serve
        already."""
        self._begun = asyncio.get_running_loop().time()
        pipe = asyncio.subprocess.PIPE
        process = self._process = await asyncio.create_subprocess_exec(
            *WORKER,
            stdin=pipe,
            stdout=pipe,
            limit=LINE,
            pass_fds=tuple(self._start_message["sockets"].values()),
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self.send({**self._start_message, "late": late, "number": self._number})
        if self._change is not None:
            self.apply_change(self._change)
        line = await process.stdout.readline()
        reply: dict[str, str] = json.loads(line) if line else {}
        if "metrics" in reply:
            self._page.joined(self._number, reply["metrics"])
            self._hearing = asyncio.create_task(self._hear(process, process.stdout))
        return reply

    async def _hear(self, process: asyncio.subprocess.Process, stdout: asyncio.StreamReader) -> None:
        """Read the heartbeat and the orders of a worker until it exits. A worker without a heartbeat for longer than
        its own limit is killed: it was paused, or its own watchdog hangs too. Time is counted in waits, as in
        `watchdog`."""
        limit, silent = float(self._start_message["settings"]["loop_stall_seconds"]), 0.0
        while not limit or silent < limit + SPARE:
            try:
                async with asyncio.timeout(worker.BEAT):
                    line = await stdout.readline()
            except TimeoutError:
                silent += worker.BEAT
            else:
                if not line:
                    return
                silent = 0.0
                if line.strip():
                    self._heard(self._number, json.loads(line))
        log.error("worker_stalled", worker=self._number, seconds=silent)
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    def apply_change(self, change: Change) -> None:
        """Pass on changed settings, or a failed reload, to this worker and to its later replacements."""
        self._change = change
        self.send({"change": asdict(change)})

    def send(self, what: Mapping[str, Any]) -> None:
        """Send a message: `all` workers are ready, `look` at the repository now, an `order` about a model that another
        worker received, or a `change` of settings."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def keep(self) -> bool:
        """Replace the process when it exits, until `leave`."""
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
                self.send({"all": True})

    async def ended(self) -> int:
        """Wait for the process. Returns its exit code, negative for a signal."""
        return 0 if self._process is None else await self._process.wait()

    def leave(self, number: signal.Signals) -> None:
        """Send a signal, and do not replace the process any longer."""
        self._leaving = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
