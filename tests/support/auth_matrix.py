"""Every method and route by every client role, compared with the permission table."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kanserve.auth.permissions import ANYONE, NEEDS, Need
from kanserve.auth.roles import INCLUDES, Role
from kanserve.observability.metrics import UNKNOWN
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2

SERVICES = [
    *(pb.DESCRIPTOR.services_by_name.values()),
    *(kan_pb2.DESCRIPTOR.services_by_name.values()),
    *(health_pb2.DESCRIPTOR.services_by_name.values()),
    *(reflection_pb2.DESCRIPTOR.services_by_name.values()),
]
METHODS = {f"{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}
METHODS["grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] = next(
    method for method in METHODS.values() if method.name == "ServerReflectionInfo"
)
METHODS.pop("grpc.health.v1.Health/List", None)  # not offered: an unknown method
NOWHERE = "no.Such/Method"
UNIMPLEMENTED = f"{UNKNOWN}/{UNKNOWN}"
STATUS = {grpc.StatusCode.UNAUTHENTICATED: 401, grpc.StatusCode.PERMISSION_DENIED: 403}


def expected(need: Need, role: str) -> grpc.StatusCode | None:
    """The status for a caller whose token has this role; None: accepted. Role "": no valid credential."""
    if need is ANYONE or (role and need in INCLUDES[Role(role)]):
        return None
    return grpc.StatusCode.PERMISSION_DENIED if role else grpc.StatusCode.UNAUTHENTICATED


def methods(channel: grpc.Channel, role: str, metadata: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, str]]:
    """Each method, and the fault of its response; "": none."""
    for name in (*METHODS, NOWHERE):
        need = NEEDS[UNIMPLEMENTED if name == NOWHERE else name]
        code, text = called(channel, name, metadata)
        yield name, _wrong(need, role, code if code in STATUS else None, text, metadata)


def called(channel: grpc.Channel, name: str, metadata: tuple[tuple[str, str], ...]) -> tuple[grpc.StatusCode, str]:
    """With an empty message."""
    how, options = METHODS.get(name), {"timeout": 60, "metadata": metadata}
    try:
        if how is None or not how.server_streaming:
            channel.unary_unary(f"/{name}")(b"", **options)
        elif how.client_streaming:
            list(channel.stream_stream(f"/{name}")(iter([b""]), **options))
        else:
            call = channel.unary_stream(f"/{name}")(b"", **options)
            next(call)
            call.cancel()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def routes(
    address: str, role: str, metadata: tuple[tuple[str, str], ...], context: ssl.SSLContext | None = None
) -> Iterator[tuple[str, str]]:
    """Each route, and the fault of its response; "": none."""
    refusals = {status: code for code, status in STATUS.items()}
    for name, need in NEEDS.items():
        verb, _, route = name.partition(" ")
        if route:
            status, headers, body = asked(address, verb, route, dict(metadata), context)
            text = json.loads(body)["error"] if status in refusals else ""
            wrong = _wrong(need, role, refusals.get(status), text, metadata)
            if status == 401 and headers.get("www-authenticate") != "Bearer":
                wrong = "no challenge"
            if headers.get("x-content-type-options") != "nosniff":
                wrong = "a browser may guess the type of the response"
            yield name, wrong


def asked(
    address: str, verb: str, route: str, headers: dict[str, str], context: ssl.SSLContext | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a separate connection."""
    path = "/nowhere" if route == UNKNOWN else route
    for key, value in {"name": "toy", "version": "1", "repository": "r", "rest:path": "x"}.items():
        path = path.replace(f"{{{key}}}", value)
    path += "?updates=1" if path.endswith("/watch") else ""  # or it would go on
    make = http.client.HTTPConnection(address, timeout=60)
    connection = make if context is None else http.client.HTTPSConnection(address, timeout=60, context=context)
    try:
        post = verb == "POST"
        connection.request("POST" if post else "GET", path, b"{}" if post else None, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def _wrong(need: Need, role: str, refused: grpc.StatusCode | None, text: str, metadata: Any) -> str:
    if refused is not expected(need, role):
        return f"{refused} where {expected(need, role)} was expected: {text}"
    if refused is grpc.StatusCode.PERMISSION_DENIED and f"the role {need}" not in text:
        return f"the role {need} is not named: {text}"
    return "the token is told" if any(value.split()[-1] in text for _, value in metadata) else ""
