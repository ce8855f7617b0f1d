"""The gRPC server: options, and a handler for every method there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from kanserve.errors import ConfigError
from kanserve.observe.metrics import UNKNOWN
from kanserve.pb import pool
from kanserve.rpc.guard import Guard, Method
from kanserve.rpc.health import Health
from kanserve.rpc.inference import InferenceService
from kanserve.rpc.kan import KanService

REFLECTION = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
SERVICES = (InferenceService.descriptor.full_name, KanService.descriptor.full_name)
# Each may hold a request of `max_request_bytes`. Queues refuse long before; this
# bounds memory when many models, or many connections, are busy at once.
CONCURRENT_RPCS = 1024
MINUTE = 60_000  # milliseconds


@dataclass(frozen=True, slots=True)
class Wire:
    """What the transport needs to know."""

    max_request_bytes: int
    max_response_bytes: int
    reflection: bool


def options(wire: Wire) -> list[tuple[str, int]]:
    """Channel options. gRPC accepts unknown names silently, so tests check their effect."""
    return [
        ("grpc.max_receive_message_length", wire.max_request_bytes),
        # The handlers bound the tensors; names and ids around them come on top.
        ("grpc.max_send_message_length", min(wire.max_response_bytes + 2**20, 2**31 - 1)),
        ("grpc.so_reuseport", 0),  # a second server on this port must fail, not steal half the calls
        ("grpc.max_concurrent_streams", 128),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 5 * MINUTE),
        ("grpc.max_connection_age_ms", 30 * MINUTE),
        ("grpc.max_connection_age_grace_ms", MINUTE // 2),
        ("grpc.keepalive_time_ms", MINUTE),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_allowed_incoming_connections", 1000),
        ("grpc.enable_channelz", 0),
    ]


def build(wire: Wire, guard: Guard, inference: InferenceService, kan: KanService, health: Health) -> grpc.aio.Server:
    """A server that is not bound and not started. Needs a running event loop."""
    server = grpc.aio.server(options=options(wire), maximum_concurrent_rpcs=CONCURRENT_RPCS)
    known: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for descriptor, methods in (
        (inference.descriptor, inference.methods()),
        (kan.descriptor, kan.methods()),
    ):
        known |= _handlers(guard, descriptor, methods)
    handlers: list[grpc.GenericRpcHandler] = [health.handler()]
    if wire.reflection:
        handlers.extend(_reflection())
    handlers.append(_Router(known, guard.refusal(UNKNOWN, UNKNOWN)))
    server.add_generic_rpc_handlers(tuple(handlers))
    return server


def bind(server: grpc.aio.Server, host: str, port: int) -> int:
    """Bind, and say which port it is. Raises ConfigError if the address is taken or wrong."""
    address = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        bound = server.add_insecure_port(f"{address}:{port}")
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {address}:{port}; is another server running there?") from error
    if not bound:
        raise ConfigError(f"cannot listen on {address}:{port}; is another server running there?")
    return bound


def _handlers(
    guard: Guard, descriptor: ServiceDescriptor, methods: dict[str, Method]
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """One handler per method of the descriptor, those without an implementation refused."""
    found = {}
    method: MethodDescriptor
    for method in descriptor.methods:
        path = f"/{descriptor.full_name}/{method.name}"
        if method.name in methods:
            found[path] = guard.unary(descriptor.full_name, method.name, methods[method.name])
        else:
            streaming = method.client_streaming or method.server_streaming
            found[path] = guard.refusal(descriptor.full_name, method.name, streaming=streaming)
    return found


class _Router(grpc.GenericRpcHandler):
    """By full method name; what nobody knows is refused, and counted under one label."""

    def __init__(
        self,
        known: dict[str, grpc.RpcMethodHandler[Any, Any]],
        unknown: grpc.RpcMethodHandler[Any, Any],
    ) -> None:
        self._known = known
        self._unknown = unknown

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return self._known.get(handler_call_details.method, self._unknown)


def _reflection() -> list[grpc.GenericRpcHandler]:
    """The v1alpha servicer under both names: the messages are the same on the wire."""
    servicer = ReflectionServicer(SERVICES, pool=pool())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in REFLECTION]
