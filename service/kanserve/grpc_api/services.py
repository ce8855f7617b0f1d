"""Table of all methods of all services behind the interceptor, which a transport serves."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from kanserve.auth import permissions
from kanserve.auth.authenticator import require
from kanserve.errors import NotFound, WatchesLimited
from kanserve.grpc_api import call_context, infer_codec
from kanserve.grpc_api.call_context import Call
from kanserve.grpc_api.hot_path.batch import Account
from kanserve.grpc_api.hot_path.method import HotMethod
from kanserve.grpc_api.inference import InferenceService, infer_stream
from kanserve.grpc_api.interceptor import Guarded, Interceptor, Kind, MethodSeries
from kanserve.grpc_api.kan import KanService
from kanserve.observability.metrics import UNKNOWN
from kanserve.pb import pool
from kanserve.services.control import Catalogue

INFER, STREAM = "ModelInfer", "ModelStreamInfer"
CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # between the words of a name such as ServerLive
HOT = f"/{InferenceService.descriptor.full_name}/{INFER}"  # path of the method whose calls native code may take
NAMES = (InferenceService.descriptor.full_name, KanService.descriptor.full_name)


@dataclass(frozen=True, slots=True)
class Services:
    """Methods that a transport serves, and the accounts that it reports to.

    methods  by path, such as /grpc.health.v1.Health/Check
    unknown  handles any other path
    guard    counts the bytes of responses that wait for their client, and of requests that have not arrived completely
    hot      the method ModelInfer, whose calls native code may take
    """

    methods: Mapping[str, Guarded]
    unknown: Guarded
    guard: Interceptor
    hot: HotMethod


def guarded(
    guard: Interceptor,
    inference: InferenceService,
    kan: KanService,
    probes: Health,
    mirror: Reflection | None,
    *,
    max_stream_requests: int,
    native: Any = None,
) -> Services:
    """All methods. `mirror` None: reflection is not offered. `native`: the module of `hot_path.method.native_calls`."""
    methods: dict[str, Guarded] = {}
    account = Account(guard, MethodSeries(guard.metrics, Kind.UNARY, NAMES[0], INFER))
    sampled = None if guard.tracing is None else functools.partial(guard.tracing.samples, HOT.removeprefix("/"))
    hot = HotMethod(inference, account, native, sampled)
    methods |= _service(guard, inference)
    methods[HOT] = guard.unary(NAMES[0], INFER, hot.infer)
    infer = call_context.with_deadline(hot.infer, guard.max_seconds, f"{NAMES[0]}/{STREAM}")
    responses = functools.partial(infer_stream, guard, infer, max_stream_requests)
    methods[f"/{NAMES[0]}/{STREAM}"] = guard.stream(NAMES[0], STREAM, Kind.BIDI_STREAM, responses)
    methods |= _service(guard, kan)
    methods[f"/{SERVICE}/Check"] = guard.unary(SERVICE, "Check", probes.check, probe=True)
    methods[f"/{SERVICE}/Watch"] = guard.stream(SERVICE, "Watch", Kind.SERVER_STREAM, probes.watch, probe=True)
    if mirror is not None:
        for name in SERVICES:
            methods[f"/{name}/{METHOD}"] = guard.stream(name, METHOD, Kind.BIDI_STREAM, mirror.info, probe=True)
    return Services(methods, guard.refusal(UNKNOWN, UNKNOWN), guard, hot)


def implementation(service: object, name: str) -> Any:
    """The Python method of a service or of its class that implements a method of gRPC; None if there is none."""
    return getattr(service, CAPITAL.sub("_", name).lower(), None)


def _service(guard: Interceptor, service: InferenceService | KanService) -> dict[str, Guarded]:
    """Entries for all methods of a service. A method without an implementation is rejected."""
    table: dict[str, Guarded] = {}
    for method in service.descriptor.methods:
        name, place = method.name, service.descriptor.full_name
        handler = implementation(service, name)
        if handler is None:
            streaming = method.client_streaming or method.server_streaming
            table[f"/{place}/{name}"] = guard.refusal(place, name, streaming=streaming)
        elif method.server_streaming:
            table[f"/{place}/{name}"] = guard.stream(place, name, Kind.SERVER_STREAM, handler)
        else:
            table[f"/{place}/{name}"] = guard.unary(place, name, handler)
    return table


SERVICE = "grpc.health.v1.Health"
LIVENESS = "liveness"


class Health:
    """grpc.health.v1.Health, which reports the state of the catalogue. `changed` wakes the watchers."""

    def __init__(self, catalogue: Catalogue, services: tuple[str, ...], most: int) -> None:
        """`services`: names that mean the whole server. `most`: number of open watches. A client that balances calls
        has one for each connection."""
        self._catalogue = catalogue
        self._services = services
        self._most = most
        self._condition = asyncio.Condition()
        self._ended = False
        self._watches = 0

    async def check(self, data: bytes, call: Call) -> bytes:
        """SERVING or NOT_SERVING; NOT_FOUND for an unknown name. The status of the server needs no role; the status of
        a service or a model needs one."""
        service = await self._requested(data, call)
        serving = self._serving(service)
        if serving is None:
            raise NotFound(
                "unknown service",
                code="service-unknown",
                hint="send the name of a gRPC service or a model, or no name for the server",
            )
        return _response(serving)

    async def watch(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The state now and after every change, until the server shuts down. It needs the roles of `check`."""
        service = await self._requested(await anext(messages, b""), call)
        if self._watches >= self._most:
            raise WatchesLimited(
                f"{self._most} health watches are open, which is the limit max_connections",
                code="too-many-watches",
                hint="close a watch, or raise max_connections on the server",
            )
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
                    while not self._ended and self._serving(service) is last:  # it can change while a state is sent
                        await self._condition.wait()
        finally:
            self._watches -= 1

    async def _requested(self, data: bytes, call: Call) -> str:
        """The service that a request names. Raises the reason if its caller may not know the state of that service."""
        service = (await infer_codec.parsed(health_pb2.HealthCheckRequest, data)).service
        if service not in ("", LIVENESS):
            require(call.caller, permissions.NAMED_HEALTH)
        return str(service)

    async def changed(self, *, end: bool = False) -> None:
        """Wake the watchers, so that they send the state again; with `end`, for the last time."""
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


METHOD = "ServerReflectionInfo"
# The v1alpha servicer under both names: the messages are the same on the wire.
SERVICES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")


class Reflection:
    """Server reflection of the given services."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._servicer = ReflectionServicer(services, pool=pool())

    async def info(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The response to each request of a stream."""
        kind = reflection_pb2.ServerReflectionRequest
        requests = (await infer_codec.parsed(kind, message) async for message in messages)
        async for response in self._servicer.ServerReflectionInfo(requests, None):
            yield response.SerializeToString()
            await asyncio.sleep(0)  # thousands of requests may arrive at once: other calls get a turn
