"""Application: build all parts from the settings, wire them, run, drain, stop.

At the start, the server first opens its ports, so that probes get "not ready", then loads the models, and then becomes
ready.

At the end, it reports "not ready" and keeps responding until the load balancers have noticed. It closes the open
connections, so that their clients connect to other servers, and rejects new requests for a moment. Then it announces
the end to every connection while it holds all responses. The reason is that a server that stops under load cancels
calls that arrive meanwhile (grpc/grpc#41785). Then the in-flight requests end. The metrics port closes last.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from kanexport.shared.manifest import ManifestError
from kanserve import version
from kanserve.auth import authenticator
from kanserve.config.hosts import Sites
from kanserve.config.reload import Change, Changes
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, LoadError
from kanserve.execution.config import batch_size
from kanserve.grpc_api import services
from kanserve.grpc_api.hot_path.method import native_calls
from kanserve.grpc_api.inference import InferenceService
from kanserve.grpc_api.interceptor import AccessLog, Interceptor, outcome
from kanserve.grpc_api.kan import KanService
from kanserve.grpc_api.services import Health, Reflection
from kanserve.insight.store import StatisticsStore
from kanserve.models.admission import unfinished
from kanserve.models.reconciler import Reconciler
from kanserve.models.registry import Registry
from kanserve.observability import logs, trace_packages
from kanserve.observability.metrics import Metrics, ModelMetrics
from kanserve.observability.multiprocess import MetricsPage, RemoteMetrics
from kanserve.repository import layout
from kanserve.server import watchdog
from kanserve.server.credentials import Renewal
from kanserve.server.watchdog import Patience, Watchdog
from kanserve.services.control import Catalogue, Control, Shadows, WorkerBus
from kanserve.services.edits import Editor
from kanserve.services.explain import Explainer
from kanserve.services.inference import Inference
from kanserve.services.kan import Kan
from kanserve.services.statistics import Watches
from kanserve.system import resources
from kanserve.system.lifecycle import Lifecycle
from kanserve.transport import endpoints, factory
from kanserve.transport.factory import Build
from kanserve.transport.metrics_server import MetricsServer
from kanserve.types import NUMPY_DTYPES, TensorInfo

WAITING = 4  # threads in addition to compute threads, for work that waits for a disk
EXIT_TERMINATED = 143  # after a second signal, as a shell reports SIGTERM

HELD = 0.1  # seconds in which immediate next requests and the notice of the shutdown arrive

SPARE = 2.0  # seconds after which a transport itself ends calls, without a status for the client

log = logs.get_logger("app")


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Context of a worker among several behind one port.

    all_ready  set when all workers are ready; until then the worker reports "not ready"
    late      whether the other workers serve already; then the worker loads its models before it opens its ports
    metrics   address of the metrics of all workers
    relay     channel to the other workers
    announce  reports that the worker becomes ready, with "", or no longer is, with the reason
    number    number of the worker
    workers   number of all workers
    """

    all_ready: asyncio.Event
    late: bool
    metrics: str
    relay: WorkerBus
    announce: Callable[[str], None]
    number: int = 0
    workers: int = 1


class App:
    """Server with its parts. Call `start`, `load`, then `drain`, all on one event loop."""

    def __init__(self, settings: Settings, place: WorkerContext | None = None, build: Build | None = None) -> None:
        """Build all parts, on a running event loop, without binding ports. `place`: the place among several workers.
        `build`: makes the transports, in place of `factory.build`. Raises ConfigError."""
        if sys.byteorder != "little":
            raise ConfigError(
                "this machine is big-endian, expected a little-endian one",
                code="machine-big-endian",
                hint="run the server on x86-64 or arm64",
            )
        if settings.exposed:
            advice = "set tls_cert, tls_key and tokens, or use host 127.0.0.1 (docs/guides/serve/access-control.md)"
            log.warning("insecure_address", host=settings.host, why=settings.exposed, help=advice)
        settings = self._settings = with_request_limit(factory.with_transport(settings))
        budget = settings.threads or resources.budget()
        loop = asyncio.get_running_loop()
        resources.separate(loop, budget + WAITING, settings.compute_nice)
        self.lifecycle = Lifecycle()
        self.rescan_requested = asyncio.Event()
        self.registry = Registry(by_hand=settings.model_control == "explicit", required=settings.ready_requires)
        self._tracing, kind = None, ModelMetrics
        if settings.traces:  # only then are its libraries imported
            tracing = trace_packages.load()
            self._tracing, kind = tracing.build(version.version(), outcome), tracing.TracedModelMetrics
        self.metrics = Metrics(kind)
        store = None
        if settings.state_dir is not None:
            workers = () if place is None else (place.number, place.workers)
            store = StatisticsStore(settings.state_dir, *workers)
        self._reconciler = Reconciler(settings, budget, self.registry, self.metrics, self._changed, store)
        catalogue = self._catalogue = Catalogue(self.registry, self.lifecycle)
        self._announced: str | None = None  # why the server is not ready, as last reported; "" if it is
        self._report = place.announce if place is not None else lambda reason: log_state(reason, **self._addresses)
        self._addresses: dict[str, str] = {}
        self.registry.subscribe(self._announce)
        bounds = (settings.max_edge_query_rows, settings.max_edge_query_evaluations, settings.max_response_bytes)
        kan = Kan(self.registry, *bounds)
        self._watches = Watches(kan, self.lifecycle.closing, settings.max_watch_streams)
        explainer = Explainer(kan)
        inference = Inference(
            self.registry, self.metrics, settings.max_response_bytes, settings.max_input_strings, explainer
        )
        self._health = Health(catalogue, services.NAMES, settings.max_connections)
        gate = authenticator.build(settings)
        guard = self.guard = Interceptor(
            self.metrics,
            self.lifecycle,
            AccessLog(settings.access_log),
            gate,
            tracing=self._tracing,
            max_inflight_requests=settings.max_inflight_requests,
            max_inflight_bytes=settings.max_inflight_bytes,
            largest=settings.max_request_bytes,
            max_seconds=settings.max_deadline_seconds,
        )
        relay = place.relay if place else WorkerBus()
        self._control = Control(self._reconciler, self.registry, Shadows(self.registry, self.metrics), relay)
        native = native_calls() if settings.kernel else None
        service = InferenceService(inference, catalogue, self._control, settings.max_typed_contents_bytes)
        views = KanService(kan, self._control, self.metrics, self._watches, Editor(settings, self.registry))
        mirror, most = Reflection(services.NAMES) if settings.reflection else None, settings.max_stream_requests
        page = self.metrics if place is None else RemoteMetrics(place.metrics, self.metrics)
        methods = services.guarded(guard, service, views, self._health, mirror, max_stream_requests=most, native=native)
        parts = (settings, guard, self.metrics, page, service, views, catalogue, self._control, explainer)

        def application() -> Any:
            """The ASGI application of REST and web UI. Only transports with HTTP import its packages."""
            from kanserve.rest.application import build_application

            return build_application(*parts)

        self._transport = (build or factory.build)(settings, methods, application)
        self._renewal = Renewal(settings, gate, self._transport, self.metrics)
        self._beside: list[asyncio.Task[None]] = []  # tasks that run while the transports are open
        self._metrics_server: MetricsServer | None = None

    async def start(self) -> dict[str, str]:
        """Bind all ports and report "not ready". Returns the addresses by protocol."""
        settings = self._settings
        self._metrics_server = metrics_server(self.metrics, settings)
        try:
            ports = await self._transport.start()
        except ConfigError:
            self._metrics_server.close()
            raise
        self._beside = [asyncio.create_task(work) for work in (self._renewal.run(), resources.give_back())]
        addresses = {name: f"{settings.host}:{port}" for name, port in ports.items()}
        self._addresses = addresses | {"metrics": f"{settings.metrics_host}:{self._metrics_server.port}"}
        self._announce()
        return self._addresses

    def _announce(self) -> None:
        """Report each change of readiness, from the end of the first loads to the shutdown, when probes see it."""
        if not (self._addresses and self.registry.completed) or self.lifecycle.waiting or self.lifecycle.draining:
            return
        reason = self.registry.not_ready_reason
        if self._announced is None or bool(reason) != bool(self._announced):
            self._announced = reason
            self._probed(live=True, ready=not reason)
            self._report(reason)

    def _probed(self, *, live: bool, ready: bool) -> None:
        """Set the state that the probes of the metrics port report."""
        if self._metrics_server is not None:
            self._metrics_server.live, self._metrics_server.ready = live, ready

    async def load(self, stop: asyncio.Event) -> None:
        """Load every version in the repository, until `stop`. The failure of one version does not affect others. Raises
        ConfigError if no version can load."""
        resources.settle()  # so that collections during the loads visit new objects only
        await _unless(stop, self._reconciler.load(stop))
        await _unless(stop, self._control.listen(until_done=True))
        await self._changed()

    async def _changed(self) -> None:
        resources.settle()
        await self._health.changed()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Context in which models are loaded and unloaded as the repository changes; `rescan_requested` starts a
        scan."""
        tasks = [
            asyncio.create_task(work)
            for work in (self._reconciler.watch(self.rescan_requested), self._control.listen())
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def join(self, all_ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Become ready only when all workers are, which `all_ready` reports, or at `stop`."""
        both = [asyncio.ensure_future(event.wait()) for event in (all_ready, stop)]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for waiting in both:
            waiting.cancel()
        self.lifecycle.waiting = False
        self._announce()
        await self._health.changed()

    def change(self, change: Change) -> None:
        """Apply the reloadable settings."""
        settings = self._settings = self._settings.model_copy(update=dict(change.live))
        self._renewal.reschedule(settings.credential_poll_seconds)
        logs.configure(settings.log_format, settings.log_level)
        self.guard.lines = AccessLog(settings.access_log)
        self.guard.limit(settings.max_inflight_requests, settings.max_inflight_bytes)
        self._watches.most = settings.max_watch_streams
        self.metrics.number("kanserve_settings_reload_failed").labels().set(change.refused)
        self.metrics.number("kanserve_settings_pending_restart").labels().set(len(change.waiting))

    def watch(self, stop: asyncio.Event) -> Watchdog:
        """Start the watchdog of the event loop and the executions. A hung execution sets `stop`."""
        settings = self._settings
        leaving = settings.drain_delay_seconds + settings.drain_reject_seconds + settings.drain_grace_seconds
        patience = Patience(settings.loop_stall_seconds, settings.run_stall_seconds, leaving)

        def stuck() -> None:
            self.lifecycle.stuck = True
            self._probed(live=False, ready=False)
            stop.set()

        return Watchdog(asyncio.get_running_loop(), patience, self.metrics, stuck)

    async def drain(self, hurry: asyncio.Event, *, patient: bool = True) -> int:
        """Shut down gracefully; `hurry` ends every wait. Not `patient`: without the waits for load balancers, as on a
        terminal. Returns the exit code."""
        settings = self._settings
        delay, refuse = (settings.drain_delay_seconds, settings.drain_reject_seconds) if patient else (0.0, 0.0)
        log.info("shutdown_started", delay=delay, grace=settings.drain_grace_seconds)
        self.lifecycle.draining = True
        self._probed(live=not self.lifecycle.stuck, ready=False)
        for task in self._beside:
            task.cancel()
        await self._health.changed()
        await _pause(hurry, delay)
        if refuse:
            # Not at the start of the shutdown: a gateway that sends a request at the moment of a GOAWAY can lose it.
            if delay > 0 and not hurry.is_set():  # the clients of closed connections connect to other servers
                await self._transport.part(settings.drain_grace_seconds)
            await self._close()
            await _pause(hurry, refuse)
        self.lifecycle.held = True
        await _pause(hurry, HELD)
        # Close the ports. The server ends calls in flight after `drain_grace_seconds`, or when `hurry` is set.
        grace = self._settings.drain_grace_seconds
        stopping = asyncio.create_task(self._transport.stop(grace + SPARE))
        hurried = asyncio.create_task(hurry.wait())
        await _pause(hurry, HELD)
        await self._close()  # not before: a client that has read the GOAWAY sends no request that has to be rejected
        self.lifecycle.release()
        await asyncio.wait({stopping, hurried}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            self.lifecycle.cutting = True
            await self._transport.stop(None)
        await stopping
        if not (hurry.is_set() or self.lifecycle.stuck):  # in these cases the server waits for no execution
            await asyncio.to_thread(self.registry.close)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        if self._tracing is not None:
            await self._tracing.close()
        log.info("server_stopped", **self.lifecycle.ends)
        if self.lifecycle.stuck:
            return watchdog.EXIT_STUCK
        return EXIT_TERMINATED if hurry.is_set() else 0

    async def _close(self) -> None:
        """Reject new requests, and end the watches."""
        self.lifecycle.close()
        self._probed(live=False, ready=False)
        await self._health.changed(end=True)


async def serve(
    settings: Settings,
    ready: Callable[[Mapping[str, str]], None] | None = None,
    *,
    place: WorkerContext | None = None,
    changes: Changes | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then drain. A second signal stops the server immediately. Returns the exit code.

    ready    receives the addresses, by "grpc", "http" and "metrics", after the load of every version was attempted
    place    the place among several workers
    changes  changes of settings, which SIGHUP requests

    Raises ConfigError if the server cannot start.
    """
    resources.share()
    signals = Signals(asyncio.get_running_loop(), worker=place is not None)
    app = App(settings, place)
    app.lifecycle.waiting = place is not None
    signals.on_hangup.append(app.rescan_requested.set)
    if changes is not None:
        changes.subscribe(app.change)
        signals.on_hangup.append(changes.request)
    watch = app.watch(signals.stop)
    late = place is not None and place.late
    if late:
        await app.load(signals.stop)
    addresses = await app.start()
    log.info("server_listening", **addresses)
    try:
        if not late:
            await app.load(signals.stop)
    except ConfigError:
        signals.hurry.set()
        await app.drain(signals.hurry)
        raise
    if not signals.stop.is_set() and ready is not None:
        ready(addresses)
    if place is not None:
        await app.join(place.all_ready, signals.stop)
    async with app.watching():
        await signals.stop.wait()
    code = await app.drain(signals.hurry, patient=signals.patient)
    if code or unfinished():  # an execution or a load may take long, or hang
        watchdog.end(code)
    watch.close()
    return code


def log_state(reason: str, **facts: object) -> None:
    """Log that the server becomes ready, or is not ready for a reason."""
    if reason:
        log.error("server_not_ready", reason=reason)
    else:
        log.info("server_ready", **facts)


def metrics_server(page: MetricsPage, settings: Settings) -> MetricsServer:
    """The server of the metrics port. Raises ConfigError."""
    endpoints.server_ports(settings)
    port = endpoints.Port.metrics(settings)
    sites = Sites(settings.metrics_host, settings.allowed_hosts)
    try:
        return MetricsServer(page, port.host, port.port, sites)
    except OSError as error:
        raise port.refused(error) from error


class Signals:
    """Handler of the process signals, which sets `stop`, and `hurry` at a second signal.

    Ctrl-C on a terminal does not wait for load balancers, and reaches a `worker` as SIGINT. SIGHUP on a terminal means
    that the terminal was closed. Otherwise, and for a worker, SIGHUP calls everything in `on_hangup`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, worker: bool = False) -> None:
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        self.on_hangup: list[Callable[[], None]] = []
        self.patient = True
        terminal = sys.stdin is not None and sys.stdin.isatty()
        self._terminal, self._hangs_up = worker or terminal, terminal and not worker
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._arrived, number)

    def _arrived(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP and not self._hangs_up:
            log.info("reload_requested")
            for ask in self.on_hangup:
                ask()
            return
        if self.stop.is_set():
            self.hurry.set()
        elif number is not signal.SIGTERM and self._terminal:
            self.patient = False
        self.stop.set()


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Run `work`, and cancel it at `stop`."""
    task, waiter = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _pause(hurry: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), seconds)


MOST = 32 * 2**20  # bytes; an operator must allow larger requests
AROUND = 2**16  # bytes of a message in addition to its tensors

limits_log = logs.get_logger("models")


def with_request_limit(settings: Settings) -> Settings:
    """The settings with `max_request_bytes` as large as a full batch of the largest model, up to `MOST`, unless an
    operator has set it. The function reads the manifests; the sizes of graphs without a manifest are unknown."""
    if "max_request_bytes" in settings.model_fields_set:
        return settings
    needed = 0
    with contextlib.suppress(ConfigError):
        for candidate in layout.scan(settings.repository, plain_onnx=False, hard_links=settings.allow_hard_links):
            try:
                manifest = layout.manifest(candidate)
                rows = batch_size(layout.config(candidate), manifest.max_batch_size, manifest=True)
            except (OSError, LoadError, ManifestError):  # the load of the version reports it
                continue
            tensors = [TensorInfo(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs]
            row_bytes = sum(tensor.row_bytes for tensor in tensors if tensor.datatype in NUMPY_DTYPES)
            needed = min(MOST, max(needed, rows * row_bytes + AROUND))
    if needed <= settings.max_request_bytes:
        return settings
    limits_log.info("request_limit_raised", max_request_bytes=needed)
    return settings.model_copy(update={"max_request_bytes": needed})
