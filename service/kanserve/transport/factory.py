"""Factory of the transports, and their common interface."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Protocol

from kanexport.shared.cli.suggest import how_to_install
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.grpc_api.services import Services
from kanserve.observability import logs
from kanserve.transport import endpoints
from kanserve.transport.call_io import Application
from kanserve.transport.endpoints import Port, Tls


class Transport(Protocol):
    """Interface of one transport. It needs a running event loop. Call `start` once, then `stop` once."""

    async def start(self) -> int:
        """Bind the port and serve. Returns the port. Raises ConfigError if the address is taken or wrong."""
        ...

    async def renew(self, tls: Tls) -> None:
        """Use these certificates in every new handshake. Raises ConfigError, and then the previous ones stay in use."""
        ...

    async def part(self, grace: float) -> None:
        """Close open connections, so that clients connect again, to other servers of the same name or address. Calls
        in flight have `grace` seconds to end. New connections are still accepted. A transport that cannot do so does
        nothing."""
        ...

    async def stop(self, grace: float | None) -> None:
        """Accept no more calls, wait `grace` seconds for calls in flight, then end them (None: at once). Another call
        with None may follow meanwhile."""
        ...


H2CORN = "h2corn"
NEEDED = (H2CORN, "starlette", "orjson")  # packages that HTTP needs
LOST = "HTTP on the gRPC port, half of the request rate under load, tight bounds of stream resets and of memory"
LIMITS = "docs/reference/limits-of-grpcio.md"

log = logs.get_logger("transport")

Pages = Callable[[], Application]


class Transports:
    """All transports of a server, with the interface of one.

    first   transport of gRPC
    second  transport of HTTP, if HTTP has its own port
    both    whether the first transport also speaks HTTP
    tls     TLS material in use
    """

    def __init__(self, first: Transport, second: Transport | None, *, both: bool, tls: Tls | None = None) -> None:
        self._first, self._second, self._both = first, second, both
        self._all = (first,) if second is None else (first, second)
        self.tls = tls

    async def start(self) -> dict[str, int]:
        """Bind the ports and serve. Returns their numbers by "grpc", and "http" if the server speaks it. Raises
        ConfigError if an address is taken or wrong."""
        port = await self._first.start()
        if self._second is None:
            return {"grpc": port, "http": port} if self._both else {"grpc": port}
        try:
            return {"grpc": port, "http": await self._second.start()}
        except ConfigError:
            await self._first.stop(None)
            raise

    async def renew(self, tls: Tls) -> None:
        """Use these certificates in all transports; see `Transport.renew`."""
        for transport in self._all:
            await transport.renew(tls)
        self.tls = tls

    async def part(self, grace: float) -> None:
        """Close the open connections of all transports; see `Transport.part`."""
        await asyncio.gather(*(transport.part(grace) for transport in self._all))

    async def stop(self, grace: float | None) -> None:
        """Stop all transports; see `Transport.stop`."""
        await asyncio.gather(*(transport.stop(grace) for transport in self._all))


Build = Callable[[Settings, Services, Pages], Transports]


def build(settings: Settings, services: Services, pages: Pages) -> Transports:
    """The transports of the settings. `pages` makes the application of HTTP. Raises ConfigError."""
    both = settings.transport == "asgi"
    shown = endpoints.load(settings)
    connections = endpoints.connection_limit(settings.max_connections, listeners=1 if settings.http_port is None else 2)

    def asgi(port: Port) -> Transport:
        if lacking := missing():
            raise ConfigError(
                f"HTTP and the transport asgi need packages that are not installed: {', '.join(lacking)}",
                code="package-not-installed",
                hint=f"{how_to_install('serve')}, or use --transport grpcio without --http-port",
            )
        from kanserve.transport.h2corn_server import H2corn

        return H2corn(settings, services, pages(), port, connections, shown)

    if both:
        first = asgi(Port.grpc(settings))
    else:
        from kanserve.transport.grpc_aio import Grpcio

        first = Grpcio(settings, services, connections, shown)
    second = None if settings.http_port is None else asgi(Port.http(settings))
    return Transports(first, second, both=both, tls=shown)


def with_transport(settings: Settings) -> Settings:
    """The settings with a transport in place of `auto`: asgi if the packages that it needs are installed, otherwise
    grpcio, with a warning about what the server lacks."""
    if settings.transport != "auto":
        return settings
    lacking = missing()
    if lacking:
        advice = f"for asgi, {how_to_install('serve')}; to accept grpcio, set transport to grpcio ({LIMITS})"
        log.warning("transport_fallback", taken="grpcio", missing=lacking, lost=LOST, help=advice)
    return settings.model_copy(update={"transport": "grpcio" if lacking else "asgi"})


def missing() -> list[str]:
    """Packages that HTTP needs and that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]
