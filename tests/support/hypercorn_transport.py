"""The asgi transport on hypercorn: shows that the transport depends on no particular server."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import hypercorn.asyncio
import hypercorn.config

from kanserve.config.settings import Settings
from kanserve.grpc_api.services import Services
from kanserve.transport.asgi import GrpcApp, Limits
from kanserve.transport.endpoints import Tls
from kanserve.transport.factory import Pages


class Hypercorn:
    """A transport in the form that `kanserve.transport.factory` requires."""

    def __init__(self, settings: Settings, services: Services, pages: Pages) -> None:
        self._app = GrpcApp(
            services,
            Limits(settings.max_request_bytes, settings.request_read_timeout, settings.max_inflight_requests),
            pages(),
        )
        self._stop = asyncio.Event()
        self._config = hypercorn.config.Config()
        self._config.errorlog = None
        self._config.keep_alive_max_requests = 10**6  # it would close the connection after 1000
        # With a bound, ten events that a call no longer wants would stop it reading the connection, for ever.
        self._config.max_app_queue_size = 0
        self._config.graceful_timeout = settings.drain_grace_seconds

    async def start(self) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        self._config.bind = [f"fd://{listener.detach()}"]
        self._serving = asyncio.create_task(
            hypercorn.asyncio.serve(self._application, self._config, shutdown_trigger=self._stop.wait)
        )
        return port

    async def renew(self, found: Tls) -> None:
        raise AssertionError("this transport serves in the clear, and has no certificate to renew")

    async def part(self, grace: float) -> None:
        """Its connections stay open until `stop`."""

    async def stop(self, grace: float | None) -> None:
        self._stop.set()
        await self._serving

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, send)
            return
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return
