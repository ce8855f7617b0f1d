"""grpc.health.v1 for "", "liveness", every model and both services.

Not grpcio's servicer: at shutdown that one declares everything dead, liveness
included, and its `Watch` streams stay open and hold the drain to its last second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from kanserve.errors import KanserveError
from kanserve.handlers.catalogue import Catalogue

SERVICE = "grpc.health.v1.Health"
LIVENESS = "liveness"
WATCHERS = 64  # streams; each is an open RPC

Context = grpc.aio.ServicerContext[Any, Any]


class Health:
    """Answers from the repository's state; `changed` wakes the watchers."""

    def __init__(self, catalogue: Catalogue, services: tuple[str, ...]) -> None:
        self._catalogue = catalogue
        self._services = services
        self._condition = asyncio.Condition()
        self._ended = False
        self._watchers = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """To be registered with a server."""
        serialize = health_pb2.HealthCheckResponse.SerializeToString
        deserialize = health_pb2.HealthCheckRequest.FromString
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.check, deserialize, serialize),
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch, deserialize, serialize),
            },
        )

    async def check(self, request: Any, context: Context) -> Any:
        """SERVING or NOT_SERVING; NOT_FOUND for a name that means nothing here."""
        serving = self._serving(request.service)
        if serving is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _response(serving)

    async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """The state now and after every change, until the server leaves."""
        if self._watchers >= WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many health watches are open")
        self._watchers += 1
        try:
            last: Any = self  # nothing was sent yet
            while True:
                serving = self._serving(request.service)
                if serving is not last:
                    yield _response(serving)
                    last = serving
                if self._ended:
                    return
                async with self._condition:
                    await self._condition.wait()
        finally:
            self._watchers -= 1

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
        try:
            return self._catalogue.model_ready(service, "")
        except KanserveError:
            known = {status.name for status in self._catalogue.index(only_ready=False)}
            return False if service in known else None


def _response(serving: bool | None) -> Any:
    kinds = health_pb2.HealthCheckResponse
    states = {True: kinds.SERVING, False: kinds.NOT_SERVING, None: kinds.SERVICE_UNKNOWN}
    return health_pb2.HealthCheckResponse(status=states[serving])
