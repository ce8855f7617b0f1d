"""Application of Ray Serve: gRPC and REST of kanserve in the replicas of a deployment.

Ray's gRPC server passes bytes to a replica, and the replica returns bytes. Inside, a replica is a whole kanserve server
without a transport: registry, batches, limits, access and metrics are those of `kanserve serve`.

gRPC needs `grpc_servicer_functions: [kanserve.contrib.ray.add_services]` in the gRPC options of Ray Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from ray import serve

from kanexport.shared.cli.suggest import advice
from kanserve.config import sources
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.grpc_api import services
from kanserve.grpc_api.call_context import CallFailed, RequestMetadata
from kanserve.grpc_api.inference import InferenceService
from kanserve.grpc_api.interceptor import Stream, Unary, alone
from kanserve.grpc_api.kan import KanService
from kanserve.grpc_api.services import Services
from kanserve.observability import logs
from kanserve.server.app import App
from kanserve.transport import factory, grpc_aio
from kanserve.transport.asgi import GrpcApp, Limits
from kanserve.transport.call_io import Event, Receive, Send
from kanserve.transport.endpoints import Tls
from kanserve.transport.factory import Pages, Transports

ARGUMENTS = ("repository", "settings", "num_replicas", "num_cpus")
REQUESTS = 10_000  # that Ray passes to a replica at the same time: the limits of kanserve are inside
OWNED = ("host", "grpc_port", "http_port", "tls_cert", "tls_key", "tls_client_ca", "workers")  # Ray has the ports
HEALTH = (("Check", False), ("Watch", True))  # methods of grpc.health.v1.Health, and whether they stream


def build(args: Mapping[str, Any]) -> Any:
    """The application. `args`:

    repository    folder of models, the same path on each node
    settings      settings of `kanserve serve` by name; they override the variables KANSERVE_*
    num_replicas  number of replicas, or "auto" (1)
    num_cpus      cores that Ray reserves for each replica, and threads of each (1)

    Raises ConfigError for unknown arguments and wrong settings.
    """
    if unknown := [name for name in args if name not in ARGUMENTS]:
        raise ConfigError(
            f"unknown argument {unknown[0]!r} of the application",
            code="argument-unknown",
            hint=advice(unknown[0], ARGUMENTS, what="arguments"),
        )
    if "repository" not in args:
        raise ConfigError(
            "the application has no repository",
            code="setting-missing",
            hint="pass the folder of models as the argument repository",
        )
    cpus = float(args.get("num_cpus", 1))
    settings = _settings(args["repository"], args.get("settings", {}), max(1, int(cpus)))
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="kanserve",
        num_replicas=args.get("num_replicas", 1),
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=REQUESTS,
        logging_config={"enable_access_log": False},  # kanserve has its own log
    )
    return deployment.bind(settings)


def _settings(repository: str, wanted: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """The settings of a replica that differ from a default. Raises ConfigError."""
    if owned := [name for name in wanted if name in OWNED]:
        raise ConfigError(
            f"Ray Serve has the ports, so the setting {owned[0]} has no effect",
            code="setting-without-effect",
            hint="set the ports and TLS of Ray Serve, and remove this setting",
        )
    flags = {"metrics_port": 0, **wanted, "repository": Path(repository).absolute(), "grpc_port": 0}
    loaded = sources.load(flags, without={"threads": threads})
    values, origins = loaded.settings.model_dump(mode="json"), loaded.origins.items()
    return {name: values[name] for name, origin in origins if origin != sources.DEFAULT or name == "threads"}


def methods() -> Iterator[tuple[str, str, bool, bool]]:
    """Service, method, and whether requests and responses are streams. The names of the methods are unique, because Ray
    Serve knows a method by its name without the service."""
    for descriptor in (InferenceService.descriptor, KanService.descriptor):
        for method in descriptor.methods:
            yield descriptor.full_name, method.name, method.client_streaming, method.server_streaming
    for name, streams in HEALTH:
        yield services.SERVICE, name, False, streams


def add_services(servicer: Any, server: Any) -> None:
    """Register all methods with a gRPC server of Ray Serve. Ray replaces the handlers by those that call a replica;
    without a deserializer, they pass the bytes."""
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    handlers: dict[str, dict[str, Any]] = {}
    for service, name, *kind in methods():
        handler = kinds[kind[0], kind[1]]
        handlers.setdefault(service, {})[name] = handler(_replaced)
    for service, table in handlers.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, table),))


def _replaced(*_: Any) -> None:
    """Stand in for a handler, which Ray replaces."""


class Reply(bytes):
    """Response in the form that Ray Serve expects: a message that serializes itself."""

    def SerializeToString(self) -> bytes:
        """The bytes of the response."""
        return bytes(self)


class _NoTransport:
    """Transport of a replica: Ray Serve has the ports."""

    async def start(self) -> int:
        return 0

    async def renew(self, tls: Tls) -> None:
        return

    async def part(self, grace: float) -> None:
        return

    async def stop(self, grace: float | None) -> None:
        return


class Replica:
    """Replica of the deployment. It has a method for each gRPC method, and the ASGI application of REST."""

    async def __init__(self, settings: Mapping[str, Any]) -> None:  # type: ignore[misc] # Ray Serve awaits it
        """Load all models. Raises ConfigError."""
        self._settings = Settings(**settings)
        logs.configure(self._settings.log_format, self._settings.log_level)
        self._running = contextlib.AsyncExitStack()
        self._app = App(self._settings, build=self._keep)
        await self._app.start()
        await self._app.load(asyncio.Event())
        await self._running.enter_async_context(self._app.watching())

    def _keep(self, settings: Settings, table: Services, pages: Pages) -> Transports:
        """Keep the methods that a transport would serve."""
        self._services, self._methods = table, table.methods
        limits = Limits(settings.max_request_bytes, settings.request_read_timeout, settings.max_inflight_requests)
        self._pages = GrpcApp(table, limits, pages())
        return factory.Transports(_NoTransport(), None, both=True)

    def __serve_build_asgi_app__(self) -> Any:
        """The ASGI application, which `serve.ingress()` serves: a function, as uvicorn takes a method for ASGI 2."""

        async def application(scope: Event, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                await self._pages(scope, receive, send)
                return
            kind = ""
            while kind != "lifespan.shutdown":  # the start and the end of the server of Ray need nothing
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})

        return application

    async def respond(self, path: str, data: bytes, context: Any) -> Reply:
        """The response of a method with one response. A failure is in the context."""
        method = self._methods[path]
        assert isinstance(method, Unary)
        try:
            return Reply(await method.respond(data, _arrival(context)))
        except CallFailed as failure:
            _fail(context, failure)
            return Reply()

    async def stream(self, path: str, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[Reply]:
        """The responses of a method with a stream of responses. A failure is in the context."""
        method = self._methods[path]
        if isinstance(method, Unary):  # refused
            yield await self.respond(path, b"", context)
            return
        assert isinstance(method, Stream)
        try:
            async for data in method.respond(messages, _arrival(context)):
                yield Reply(data)
        except CallFailed as failure:
            _fail(context, failure)

    async def __del__(self) -> None:
        """Shut down, which Ray Serve awaits after the last request."""
        await self._running.aclose()
        await self._app.drain(asyncio.Event(), patient=False)


def _arrival(context: Any) -> RequestMetadata:
    """The metadata of a call. Ray Serve does not pass the deadline on; it cancels the call when the client leaves."""
    return RequestMetadata(tuple(context.invocation_metadata()), None)


def _fail(context: Any, failure: CallFailed) -> None:
    """Put the failure of a call into its context. Ray Serve would drop the trailers of an exception."""
    failure.forget()
    context.set_code(grpc_aio.status(failure.status))
    context.set_details(failure.text)
    context.set_trailing_metadata(list(failure.trailers))


def _add_methods() -> None:
    """Give `Replica` a method for each gRPC method, which Ray Serve finds by its name."""

    def unary(path: str) -> Any:
        async def call(self: Replica, request: bytes, grpc_context: Any) -> Reply:
            return await self.respond(path, request, grpc_context)

        return call

    def stream(path: str, *, many: bool) -> Any:
        async def call(self: Replica, request: Any, grpc_context: Any) -> AsyncIterator[Reply]:
            messages = request if many else alone(request)
            async for reply in self.stream(path, messages, grpc_context):
                yield reply

        return call

    for service, name, requests, responses in methods():
        path = f"/{service}/{name}"
        setattr(Replica, name, stream(path, many=requests) if responses else unary(path))


_add_methods()
