"""ASGI transport on h2corn: HTTP/2 and HTTP/1 in Rust, on this event loop and one separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import re
import socket
from pathlib import Path
from typing import Any

import h2corn

from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.grpc_api.services import Services
from kanserve.observability import logs
from kanserve.system import pem
from kanserve.transport import endpoints
from kanserve.transport.asgi import GrpcApp, Limits
from kanserve.transport.call_io import Application
from kanserve.transport.endpoints import Port, Tls

RUNTIME_THREADS = 1  # on a few cores, a second one only competes with the interpreter
PACKED = 4  # times as many bytes of headers are read before the connection is closed, and not only the request
WINDOW = 2**20  # bytes that a client may send ahead
AGAIN = 0.5  # seconds until a server that ended is started again
RUST_IO = re.compile(r"\(os error \d+\)$")  # how Rust ends the text of an OSError
LAST_REQUEST = 0.5  # seconds in which a busy HTTP/1 connection has a last response, which closes it
NEWS = 0.1  # seconds in which a GOAWAY arrives, so that clients read it before their next request
SPARE = 2.0  # seconds more than the longer grace time, after which h2corn itself ends calls
LEAVE = 5.0  # seconds in which clients read that the server has ended their calls
QUIET = 5.0  # seconds without an end until the next end is logged
JITTER = 0.1  # share of the maximum age by which it varies, as in gRPC core: replicas do not close connections at once
FAILED = {"event": "failed", "subject": "request"}  # h2corn's report of a request, as JSON
FAILED_TEXT = "request failed: "  # the same report as text
# Details of that report for a client that disconnected: the stream or the connection of the response is closed.
BANNER = ("h2corn v", "Listening on http", "HTTP/1 compatibility is enabled")  # begins of its lines, as text
BANNER_EVENTS = ("starting", "listening", "http1_enabled")  # and as JSON
LEFT = ("stream channel was closed", "connection writer was closed")

log = logs.get_logger("transport")


class H2corn:
    """Transport on h2corn that is not bound yet.

    h2corn reads certificates only when a server starts, and has no maximum age of a connection. So new certificates,
    and the end of the maximum age, get a new server, which accepts from the same socket. The previous server sends a
    GOAWAY to its clients, and ends after their in-flight calls. A connection is at most as old as its server.
    """

    def __init__(
        self,
        settings: Settings,
        services: Services,
        pages: Application,
        port: Port,
        connections: int,
        tls: Tls | None,
    ) -> None:
        limits = Limits(settings.max_request_bytes, settings.request_read_timeout, settings.max_inflight_requests)
        # h2corn cancels the task of a call whose client disconnected, and ends a response without a body with its head.
        self._application = functools.partial(
            GrpcApp, services, limits, pages, watch=False, one_head=True, certified=settings.certified
        )
        self._settings, self._port, self._connections, self._tls = settings, port, connections, tls
        self._hold_responses = services.guard.lifecycle.hold
        self._listener: socket.socket | None = None
        self._carriers: list[_Carrier] = []  # the last accepts new connections
        self._replacing = asyncio.Lock()
        self._aging: asyncio.Task[None] | None = None
        self._screen = contextlib.ExitStack()

    async def start(self) -> int:
        """Bind the port and serve. Returns the port. Raises ConfigError if the address is taken or wrong."""
        asyncio.get_running_loop().set_exception_handler(_handle_loop_error)
        self._listener = endpoints.bind(self._port, self._settings.keepalive_seconds)
        self._screen.enter_context(logs.screened(_takes))
        try:
            await self._carry(self._listener)
        except ConfigError:
            self._screen.close()
            self._listener.close()
            raise
        # h2corn has told systemd that it is ready. Without the variable, it does not report the end of one of several
        # servers as the end of the service.
        os.environ.pop("NOTIFY_SOCKET", None)
        if self._settings.max_connection_age_seconds:
            self._aging = asyncio.create_task(self._age(), name="connection age")
        return int(self._listener.getsockname()[1])

    async def _carry(self, listener: socket.socket) -> None:
        """Start one more server. Raises ConfigError."""
        application, loop = self._application(), asyncio.get_running_loop()
        if application.task_factory is not None and loop.get_task_factory() is None:
            loop.set_task_factory(application.task_factory)
        carrier = _Carrier(application, self._settings, self._connections, listener.fileno(), self._tls)
        self._carriers.append(carrier)  # also if this is cancelled: `stop` has to know of it
        try:
            await carrier.start()
        except ConfigError:
            self._carriers.remove(carrier)
            raise

    async def _age(self) -> None:
        """Replace the server each time that its connections reach their maximum age."""
        while True:
            await asyncio.sleep(self._settings.max_connection_age_seconds * random.uniform(1 - JITTER, 1 + JITTER))
            await self.part(self._settings.max_connection_age_grace_seconds)

    async def part(self, grace: float) -> None:
        """Close open connections; see `Transport.part`. A failure is only logged."""
        try:
            await self._replace(grace)
        except ConfigError as error:
            log.warning("connections_not_renewed", reason=str(error), code=error.code, hint=error.hint)

    async def renew(self, tls: Tls) -> None:
        """Use these certificates in every new handshake. Calls on open connections have `drain_grace_seconds` to
        end."""
        previous, self._tls = self._tls, tls
        try:
            await self._replace(self._settings.drain_grace_seconds)
        except ConfigError:
            self._tls = previous
            raise

    async def _replace(self, grace: float) -> None:
        """Have a new server accept connections, and close those of the previous one. Their calls have `grace` seconds
        to end. Raises ConfigError, and then the previous server goes on."""
        async with self._replacing:
            if self._listener is None or not self._carriers or self._carriers[-1].ending:
                return
            await self._carry(self._listener)
            for carrier in self._carriers[:-1]:
                carrier.application.closes = True
            await asyncio.sleep(LAST_REQUEST)
            async with self._hold_responses(NEWS):
                for carrier in self._carriers[:-1]:
                    carrier.retire(grace)
            self._carriers = [carrier for carrier in self._carriers if not carrier.serving.done()]

    async def stop(self, grace: float | None) -> None:
        """Accept no more calls, wait `grace` seconds for calls in flight, then end them (None: at once)."""
        if self._aging is not None:
            self._aging.cancel()
        if self._listener is None or not self._carriers:
            return
        for carrier in self._carriers:
            carrier.end()
        self._listener.close()
        await self._ended(grace)
        self._screen.close()

    async def _ended(self, grace: float | None) -> None:
        """Wait until all servers have ended; see `stop`."""
        serving = {carrier.serving for carrier in self._carriers}
        if grace is not None:
            await asyncio.wait(serving, timeout=grace)
        if not all(task.done() for task in serving):
            for carrier in self._carriers:
                carrier.application.cut()
        await asyncio.wait(serving, timeout=LEAVE if grace is None else None)


class _Carrier:
    """h2corn server from `start` to `end`, including the calls that are in flight at the end."""

    def __init__(
        self, application: GrpcApp, settings: Settings, connections: int, listener: int, tls: Tls | None
    ) -> None:
        # Copies that h2corn can read again, even while the original files are being rotated.
        self._files = contextlib.ExitStack()
        contents = (None,) * 3 if tls is None else (tls.identity.chain, tls.identity.key, tls.client_ca)
        files = [
            None if data is None else self._files.enter_context(contextlib.closing(pem.Held(data))).path
            for data in contents
        ]
        self.application = application
        self._server = h2corn.Server(application.application, _config(settings, connections, listener, *files))
        self.serving: asyncio.Task[None]
        self.ending = False

    async def start(self) -> None:
        """Start serving. Raises ConfigError."""
        self.serving = asyncio.create_task(self._serve(), name="transport")
        try:
            await self._server.wait_started()
        except (OSError, RuntimeError, ValueError) as error:
            self.ending = True
            await asyncio.wait({self.serving})
            raise ConfigError(
                f"the HTTP server h2corn did not start: {error}",
                code="transport-not-started",
                hint="correct the certificates, or use --transport grpcio",
            ) from error

    async def _serve(self) -> None:
        """Serve until `end`. A server that cannot accept a connection, for example because no file descriptor is
        free, exits; then another one starts. The port stays bound meanwhile, and clients wait."""
        loop = asyncio.get_running_loop()
        last_failure = -QUIET
        with self._files:
            while not self.ending:
                try:
                    await self._server.serve()
                except (OSError, RuntimeError, ValueError) as error:
                    reason = str(error)
                else:
                    return
                if loop.time() - last_failure > QUIET and not self.ending:
                    log.error("connections_not_accepted", reason=reason, help="allow more open files (ulimit -n)")
                last_failure = loop.time()
                await asyncio.sleep(0 if self.ending else AGAIN)

    def end(self) -> None:
        """Accept no more connections. Open connections end with their calls."""
        if not self.ending:
            self.ending = True
            self._server.shutdown()

    def retire(self, grace: float) -> None:
        """The same as `end`, while another server goes on. Calls that have not ended after `grace` seconds get the
        status UNAVAILABLE."""
        if self.ending:
            return
        self.end()

        def cut() -> None:
            if calls := self.application.cut(grace):
                log.info("calls_aborted", calls=calls, grace=grace)

        late = asyncio.get_running_loop().call_later(grace, cut)
        self.serving.add_done_callback(lambda task: late.cancel())


def _takes(line: str) -> bool:
    """Whether the log leaves out this line of h2corn: a line of its banner, because the log of kanserve reports the
    addresses, or its error line for a client that disconnected during its response, which a debug line replaces.

    If the application waits for the next message of a stream that the client resets, h2corn cancels the application
    later. Until then h2corn applies the messages that the application has sent, cannot write them, and reports that as
    an error. The application has done nothing wrong, and cannot prevent it."""
    text = line.strip()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    report: dict[str, Any] = document if isinstance(document, dict) else {}
    if not text or text.startswith(BANNER) or report.get("event") in BANNER_EVENTS:
        return True
    for detail in LEFT:
        if text == FAILED_TEXT + detail or report.items() >= {**FAILED, "detail": detail}.items():
            log.debug("client_disconnected", reason=detail)
            return True
    return False


def _handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler. An OS error of h2corn is logged once, when the server ends, and not for each
    connection."""
    error = context.get("exception")
    if not (isinstance(error, OSError) and RUST_IO.search(str(error))):
        loop.default_exception_handler(context)


def _config(
    settings: Settings, connections: int, listener: int, chain: Path | None, key: Path | None, ca: Path | None
) -> h2corn.Config:
    return h2corn.Config(
        bind=(f"fd://{listener}",),
        grpc=True,
        lifespan="off",
        loop="asyncio",
        runtime_threads=RUNTIME_THREADS,
        access_log=False,
        log_format="json" if logs.as_json(settings.log_format) else "text",
        date_header=False,
        max_concurrent_streams=settings.max_concurrent_streams,
        limit_connections=connections,
        timeout_handshake=settings.handshake_timeout,
        timeout_request_header=settings.handshake_timeout,
        timeout_keep_alive=settings.max_connection_idle_seconds,
        timeout_graceful_shutdown=max(settings.drain_grace_seconds, settings.max_connection_age_grace_seconds) + SPARE,
        h2_initial_stream_window_size=WINDOW,
        h2_initial_connection_window_size=4 * WINDOW,
        limit_request_head_size=settings.max_header_bytes,
        limit_request_field_size=settings.max_header_bytes,
        limit_request_line=settings.max_header_bytes,
        h2_max_header_list_size=settings.max_header_bytes,
        h2_max_header_block_size=PACKED * settings.max_header_bytes,
        max_request_body_size=0,  # both applications have their limit, and say so
        h2_timeout_response_stall=settings.request_read_timeout,
        certfile=chain,
        keyfile=key,
        ca_certs=ca,
        cert_reqs="none" if ca is None else "required",
    )
