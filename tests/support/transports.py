"""Transports that the product does not have: hypercorn, and one that counts objects without garbage collection."""

import asyncio
import gc
import signal
import socket
from collections import Counter
from typing import Any

import hypercorn.asyncio
import hypercorn.config

from kanserve.config.settings import Settings
from kanserve.grpc_api.services import Services
from kanserve.observability import logs
from kanserve.transport import factory
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


BUILD = factory.build  # the test's server replaces this function


class Counting:
    """The transport of the settings, as the product builds it."""

    def __init__(self, settings: Settings, services: Services, pages: factory.Pages) -> None:
        _count()
        self._transports = BUILD(settings, services, pages)

    async def start(self) -> int:
        return (await self._transports.start())["grpc"]

    async def renew(self, found: Tls) -> None:
        await self._transports.renew(found)

    async def part(self, grace: float) -> None:
        await self._transports.part(grace)

    async def stop(self, grace: float | None) -> None:
        await self._transports.stop(grace)


def _count() -> None:
    gc.disable()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell)


def _tell() -> None:
    """A line of the log: objects in cycles, bytes of messages that they hold, the most frequent types, and how many
    objects are alive."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    types = Counter(type(item).__qualname__ for item in gc.garbage)
    held = {id(item): len(item) for item in gc.get_referents(*gc.garbage) if isinstance(item, bytes | bytearray)}
    gc.garbage.clear()
    gc.collect()
    alive = len(gc.get_objects())
    logs.get_logger("test").info(
        "counted", cycles=types.total(), held=sum(held.values()), types=types.most_common(8), alive=alive
    )
