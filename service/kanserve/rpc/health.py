"""grpc.health.v1 for "", "liveness", every model and both services.

Not grpcio's servicer: at shutdown that one declares everything dead, liveness
included, and its `Watch` streams stay open and hold the drain to its last second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from grpc_health.v1 import health_pb2

from kanserve.access import roles, table
from kanserve.errors import NotFound, TooManyWatches
from kanserve.handlers.catalogue import Catalogue
from kanserve.rpc import convert
from kanserve.rpc.call import Call

SERVICE = "grpc.health.v1.Health"
LIVENESS = "liveness"


class Health:
    """Answers from the catalogue's state; `changed` wakes the watchers."""

    def __init__(self, catalogue: Catalogue, services: tuple[str, ...], max_watches: int) -> None:
        """`services`: names that mean the whole server. `max_watches`: each is an open RPC."""
        self._catalogue = catalogue
        self._services = services
        self.max_watches = max_watches
        self._condition = asyncio.Condition()
        self._ended = False
        self._watches = 0

    async def check(self, data: bytes, call: Call) -> bytes:
        """SERVING or NOT_SERVING; NOT_FOUND for a name that means nothing here. Anyone may ask about the whole; who
        asks about a part needs a role."""
        service = (await convert.parsed(health_pb2.HealthCheckRequest, data)).service
        if service not in ("", LIVENESS):
            roles.require(call.caller, table.NAMED_HEALTH)
        serving = self._serving(service)
        if serving is None:
            raise NotFound("unknown service")
        return _response(serving)

    async def watch(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The state now and after every change, until the server leaves."""
        service = (await convert.parsed(health_pb2.HealthCheckRequest, await anext(messages, b""))).service
        if self._watches >= self.max_watches:
            raise TooManyWatches("too many health watches are open")
        self._watches += 1
        try:
            last: bool | Health | None = self  # nothing was sent yet
            while True:
                serving = self._serving(service)
                if serving is not last:
                    yield _response(serving)
                    last = serving
                if self._ended:
                    return
                async with self._condition:
                    await self._condition.wait()
        finally:
            self._watches -= 1

    async def changed(self, *, end: bool = False) -> None:
        """Tell the watchers to look again; with `end`, for the last time."""
        self._ended = self._ended or end
        async with self._condition:
            self._condition.notify_all()

    def _serving(self, service: str) -> bool | None:
        if service == LIVENESS:
            return self._catalogue.live()
        if not service or service in self._services:
            return self._catalogue.ready()
        return self._catalogue.model_ready(service, "") if self._catalogue.registry.known(service) else None


def _response(serving: bool | None) -> bytes:
    states = health_pb2.HealthCheckResponse
    state = {True: states.SERVING, False: states.NOT_SERVING, None: states.SERVICE_UNKNOWN}[serving]
    return bytes(health_pb2.HealthCheckResponse(status=state).SerializeToString())
