"""The ASGI door on h2corn: HTTP/2 and HTTP/1 in Rust, on this loop and one thread of its own."""

from __future__ import annotations

import asyncio
import importlib
import re
import socket
from typing import Any

import h2corn

from kanserve.config import Settings
from kanserve.doors import listening, tls
from kanserve.doors.asgi import GrpcApp, Limits
from kanserve.doors.waiting import Application
from kanserve.errors import ConfigError
from kanserve.observe import logs
from kanserve.rpc.services import Services

RUNTIME_THREADS = 1  # on a few cores a second one only fights the interpreter for a core
WINDOW = 2**20  # bytes that a caller may send ahead
AGAIN = 0.5  # seconds until a server that ended is started again
RUST_IO = re.compile(r"\(os error \d+\)$")  # how Rust ends the text of an OSError
QUIET = 5.0  # seconds without an end, for the next one to be news

log = logs.get_logger("door")


class H2corn:
    """A door that is not bound yet."""

    def __init__(self, settings: Settings, services: Services, pages: Application, port: int, connections: int) -> None:
        limits = Limits(settings.max_request_bytes, settings.arrival_timeout, settings.max_calls)
        # h2corn cancels the task of a call whose caller went away.
        self._app = GrpcApp(services, limits, pages, watch=False, certified=settings.certified)
        self._settings, self._port, self._connections = settings, port, connections
        tls.load(settings)  # for what it refuses: h2corn reads the files itself
        self._stopping = False
        self._listener: socket.socket | None = None
        self._server: h2corn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Bind and answer. Returns the port. Raises ConfigError if the address is taken or wrong."""
        _hush()
        self._listener = listening.bind(self._settings.host, self._port, self._settings.keepalive)
        config = _config(self._settings, self._connections, self._listener.fileno())
        self._server = h2corn.Server(self._application, config)
        self._serving = asyncio.create_task(self._serve(self._server), name="door")
        try:
            await self._server.wait_started()
        except (OSError, RuntimeError, ValueError) as error:
            self._stopping = True
            await asyncio.wait({self._serving})
            self._listener.close()
            raise ConfigError(f"h2corn does not start: {error}") from error
        return int(self._listener.getsockname()[1])

    async def _serve(self, server: h2corn.Server) -> None:
        """Until `stop`. A server that cannot accept a connection, as without a free file, ends by itself; the port
        stays bound meanwhile, and callers wait."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_unless_told)
        told = -QUIET
        while not self._stopping:
            try:
                await server.serve()
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error)
            else:
                return
            if loop.time() - told > QUIET and not self._stopping:
                log.error("connections were lost", reason=reason, advice="allow more open files (ulimit -n)")
            told = loop.time()
            await asyncio.sleep(0 if self._stopping else AGAIN)

    async def stop(self, grace: float | None) -> None:
        """Take no more calls, wait for those in flight, then cut them off (None: at once)."""
        if self._serving is None or self._server is None or self._listener is None:
            return
        self._stopping = True
        self._listener.close()
        self._server.shutdown()
        if grace is not None:
            await asyncio.wait({self._serving}, timeout=grace)
        if not self._serving.done():
            self._app.cut()
        await asyncio.wait({self._serving})

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, send)


def _hush() -> None:
    """No banner: it would be a second "listening" among our lines, and no setting leaves it out."""
    native = importlib.import_module("h2corn._lib")
    vars(native)["emit_banner"] = lambda config, tls: None


def _unless_told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler: what ends a server is told once, and not for each of its connections."""
    error = context.get("exception")
    if not (isinstance(error, OSError) and RUST_IO.search(str(error))):
        loop.default_exception_handler(context)


def _config(settings: Settings, connections: int, listener: int) -> h2corn.Config:
    return h2corn.Config(
        bind=(f"fd://{listener}",),
        grpc=True,
        lifespan="off",
        loop="asyncio",
        runtime_threads=RUNTIME_THREADS,
        access_log=False,
        log_format="json" if logs.as_json(settings.log_format) else "text",
        date_header=False,
        max_concurrent_streams=settings.max_streams,
        limit_connections=connections,
        timeout_handshake=settings.handshake_timeout,
        timeout_request_header=settings.handshake_timeout,
        timeout_keep_alive=settings.connection_idle,
        timeout_graceful_shutdown=settings.drain_grace,
        h2_initial_stream_window_size=WINDOW,
        h2_initial_connection_window_size=4 * WINDOW,
        max_request_body_size=0,  # both applications have their limit, and say so
        h2_timeout_response_stall=settings.arrival_timeout,
        certfile=settings.tls_cert,
        keyfile=settings.tls_key,
        ca_certs=settings.tls_client_ca,
        cert_reqs="required" if settings.tls_client_ca else "none",
    )
