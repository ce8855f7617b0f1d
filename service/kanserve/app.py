"""The page: build everything from the settings, wire it, run, drain, stop. No logic.

The order at the start: ports first, so that probes get an honest "not yet";
then the models; then ready. At the end: not ready, but answering, until the
load balancers have noticed; then a moment of clean refusals, because a server
that stops under load without it cancels calls (grpc/grpc#41785); then what is in
flight ends; the metrics last, so that the end can be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable

from kanserve import backends, logs, threads
from kanserve.config import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.handlers.inference import Inference
from kanserve.handlers.kan import Kan
from kanserve.handlers.repository import Repository
from kanserve.lifecycle import Lifecycle
from kanserve.metrics import Metrics, MetricsServer
from kanserve.models.loading import Loader
from kanserve.models.model import Model
from kanserve.models.registry import Registry
from kanserve.repository import layout
from kanserve.repository.layout import Candidate
from kanserve.rpc import server as wire
from kanserve.rpc.guard import Guard
from kanserve.rpc.health import Health
from kanserve.rpc.inference import InferenceService, version
from kanserve.rpc.kan import KanService

BACKEND = "ort"
LAME_DUCK = 0.5  # seconds of clean refusals before the port closes
EXIT_TERMINATED = 143  # the second signal: what a shell reports for SIGTERM

log = logs.get_logger("app")


class App:
    """One server. `start`, `load`, then `drain`; all on one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError. Binds nothing. Needs a running event loop."""
        if sys.byteorder != "little":
            raise ConfigError("this machine is big-endian; tensors on the wire are little-endian")
        self._settings = settings
        self._threads = settings.threads or threads.budget()
        self.lifecycle = Lifecycle()
        self.registry = Registry()
        self.metrics = Metrics()
        self._backend = backends.load(BACKEND)
        repository = Repository(self.registry, self.lifecycle)
        inference = Inference(self.registry, self.metrics, settings.max_response_bytes)
        kan = Kan(self.registry, settings.max_query_rows, settings.max_response_bytes)
        self._health = Health(repository, wire.SERVICES)
        self._server = wire.build(
            wire.Wire(settings.max_request_bytes, settings.max_response_bytes, settings.reflection),
            Guard(self.metrics, self.lifecycle),
            InferenceService(inference, repository),
            KanService(kan, self.metrics),
            self._health,
        )
        self._metrics_server: MetricsServer | None = None

    async def start(self) -> tuple[int, int]:
        """Bind both ports and answer "not ready". Returns (gRPC port, metrics port)."""
        settings = self._settings
        try:
            self._metrics_server = MetricsServer(self.metrics, settings.metrics_host, settings.metrics_port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.metrics_host}:{settings.metrics_port} for metrics: {error.strerror}"
            ) from error
        try:
            port = wire.bind(self._server, settings.host, settings.grpc_port)
        except ConfigError:
            self._metrics_server.close()
            raise
        await self._server.start()
        return port, self._metrics_server.port

    async def load(self, stop: asyncio.Event) -> None:
        """Load every version found, one after the other, until `stop`.

        A version that fails is reported and left out. Raises ConfigError for what
        concerns all: an unreadable repository, a device that is not there.
        """
        settings = self._settings
        runtime = self._backend.version()
        self.metrics.gauge("kanserve_build_info").labels(version(), runtime, settings.device).set(1)
        log.info("starting", runtime=runtime, device=settings.device, threads=self._threads)
        loader = Loader(self._backend, settings.device, self._threads, self.metrics)
        found = layout.scan(settings.repository, plain_onnx=settings.plain_onnx)
        for candidate in found:
            self.registry.found(candidate.name, candidate.version)
            self.metrics.model(candidate.name, str(candidate.version))
        for candidate in found:
            if stop.is_set():
                return
            await self._load(loader, candidate)
        self.registry.complete()
        await self._health.changed()
        if not self.registry.ready:
            log.error("not ready", reason="a version failed to load" if found else "the repository is empty")

    async def _load(self, loader: Loader, candidate: Candidate) -> None:
        labels = {"model": candidate.name, "version": candidate.version}
        started = time.perf_counter()
        try:
            model = await asyncio.to_thread(lambda: loader.load(layout.read(candidate)))
        except LoadError as error:
            self._failed(candidate, error.reason, str(error))
            return
        except ConfigError:
            raise
        except Exception:  # one version must not take the others with it
            log.exception("load failed by a bug", **labels)
            self._failed(candidate, LoadReason.INTERNAL, "internal error; see the server's log")
            return
        seconds = time.perf_counter() - started
        self.registry.loaded(model)
        self.metrics.loaded(model.info.name, str(model.info.version), model.info.digest, seconds)
        log.info("loaded", **labels, seconds=round(seconds, 3), inline_rows=model.inline_rows)
        self._warn(model)

    def _failed(self, candidate: Candidate, reason: LoadReason, text: str) -> None:
        self.registry.failed(candidate.name, candidate.version, text)
        self.metrics.counter("kanserve_model_load_failures_total").labels(reason).inc()
        log.error("load failed", model=candidate.name, version=candidate.version, kind=reason, reason=text)

    def _warn(self, model: Model) -> None:
        info = model.info
        needed = info.max_batch_size * sum(tensor.row_bytes for tensor in info.inputs)
        if needed > self._settings.max_request_bytes:
            log.warning(
                "a full batch does not fit a request",
                model=info.name,
                batch_bytes=needed,
                max_request_bytes=self._settings.max_request_bytes,
            )

    async def drain(self, hurry: asyncio.Event) -> int:
        """Leave without losing a request; `hurry` cuts every wait short. Returns the exit code."""
        settings = self._settings
        log.info("draining", delay=settings.drain_delay, grace=settings.drain_grace)
        self.lifecycle.draining = True
        await self._health.changed()
        await _pause(hurry, settings.drain_delay)
        self.lifecycle.closed = True
        await self._health.changed(end=True)
        await _pause(hurry, LAME_DUCK)
        stopping = asyncio.create_task(self._server.stop(settings.drain_grace))
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            await self._server.stop(None)
        await stopping
        await asyncio.to_thread(self.registry.close)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        log.info("stopped")
        return EXIT_TERMINATED if hurry.is_set() else 0


async def serve(settings: Settings, ready: Callable[[int, int], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal hurries. Returns the exit code.

    `ready` gets the gRPC and the metrics port once every version was tried.
    Raises ConfigError if the server cannot start.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    app = App(settings)
    grpc_port, metrics_port = await app.start()
    addresses = {
        "grpc": f"{settings.host}:{grpc_port}",
        "metrics": f"{settings.metrics_host}:{metrics_port}",
    }
    log.info("listening", **addresses)
    try:
        await app.load(stop)
    except ConfigError:
        hurry.set()
        await app.drain(hurry)
        raise
    if not stop.is_set():
        log.info("serving", **addresses)
        if ready is not None:
            ready(grpc_port, metrics_port)
    await stop.wait()
    return await app.drain(hurry)


async def _pause(hurry: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), seconds)
