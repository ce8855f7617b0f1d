"""The ASGI door on h2corn: HTTP/2 and HTTP/1 in Rust, on this loop and one thread of its own."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import h2corn

from kanserve.config import Settings
from kanserve.doors import tls
from kanserve.doors.asgi import Application, GrpcApp, Limits
from kanserve.errors import ConfigError
from kanserve.observe import logs
from kanserve.rpc.services import Services

RUNTIME_THREADS = 1  # on a few cores a second one only fights the interpreter for a core
WINDOW = 2**20  # bytes that a caller may send ahead


class H2corn:
    """A door that is not bound yet."""

    def __init__(self, settings: Settings, services: Services, pages: Application, port: int) -> None:
        limits = Limits(settings.max_request_bytes, settings.arrival_timeout)
        # h2corn cancels the task of a call whose caller went away.
        self._app = GrpcApp(services, limits, pages, watch=False)
        self._where = f"{settings.host}:{port}"
        tls.load(settings)  # for what it refuses: h2corn reads the files itself
        self._server = h2corn.Server(self._application, _config(settings, port))
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Bind and answer. Returns the port. Raises ConfigError if the address is taken or wrong."""
        _hush()
        self._serving = asyncio.create_task(self._server.serve(), name="door")
        try:
            await self._server.wait_started()
        except (OSError, RuntimeError, ValueError) as error:
            await asyncio.wait({self._serving})
            if isinstance(error, OSError):
                raise ConfigError(f"cannot listen on {self._where}; is another server running there?") from error
            raise ConfigError(f"h2corn does not start on {self._where}: {error}") from error
        return int(self._server.addresses[0].rpartition(":")[2])

    async def stop(self, grace: float | None) -> None:
        """Take no more calls, wait for those in flight, then cut them off (None: at once)."""
        if self._serving is None:
            return
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


def _config(settings: Settings, port: int) -> h2corn.Config:
    host = f"[{settings.host}]" if ":" in settings.host and not settings.host.startswith("[") else settings.host
    return h2corn.Config(
        bind=(f"{host}:{port}",),
        grpc=True,
        lifespan="off",
        loop="asyncio",
        runtime_threads=RUNTIME_THREADS,
        access_log=False,
        log_format="json" if logs.as_json(settings.log_format) else "text",
        date_header=False,
        max_concurrent_streams=settings.max_streams,
        limit_connections=settings.max_connections,
        timeout_handshake=settings.handshake_timeout,
        timeout_request_header=settings.handshake_timeout,
        timeout_keep_alive=settings.connection_idle,
        timeout_graceful_shutdown=settings.drain_grace,
        h2_initial_stream_window_size=WINDOW,
        h2_initial_connection_window_size=4 * WINDOW,
        max_request_body_size=0,  # both applications have their limit, and say so
        certfile=settings.tls_cert,
        keyfile=settings.tls_key,
        ca_certs=settings.tls_client_ca,
        cert_reqs="required" if settings.tls_client_ca else "none",
    )
