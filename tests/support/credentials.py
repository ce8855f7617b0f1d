"""Certificates, a server with TLS, token files, and every method by every role."""

import datetime
import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kanserve.auth import token_file
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.permissions import ANYONE, INCLUDES, NEEDS, Need, Role
from kanserve.grpc_api.call_context import RequestMetadata
from kanserve.observability.metrics import UNKNOWN
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.support import toy_model
from tests.support.server_process import Server, serving

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
LATER = datetime.datetime(2990, 1, 1, tzinfo=datetime.UTC)


def write_certificates(folder: Path) -> Path:
    """Write ca and other-ca, NAME.pem and NAME.key for server, caller, `stranger` (of other-ca), expired and early, and
    damaged files."""
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    theirs.cert_pem.write_to_path(str(folder / "other-ca.pem"))
    issued = {
        "server": ours.issue_cert("localhost", "127.0.0.1"),
        "caller": ours.issue_cert("caller.example"),
        "stranger": theirs.issue_cert("stranger.example"),
        "expired": ours.issue_cert("localhost", not_after=LONG_AGO),
        "early": ours.issue_cert("localhost", not_before=LATER),
    }
    for name, pair in issued.items():
        (folder / f"{name}.pem").write_bytes(b"".join(part.bytes() for part in pair.cert_chain_pems))
        pair.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    (folder / "text.pem").write_text("no certificate\n")
    (folder / "cut.pem").write_bytes((folder / "server.pem").read_bytes()[:300])
    lock = ["openssl", "pkcs8", "-topk8", "-in", "server.key", "-passout", "pass:word", "-out", "locked.key"]
    subprocess.run(lock, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    toy_model.write(root)
    return root


def secured(models: Path, files: Path, transport: str, **settings: Any) -> Any:
    if transport == "asgi":
        pytest.importorskip("h2corn")
    pair = {"tls_cert": str(files / "server.pem"), "tls_key": str(files / "server.key")}
    return serving(models, transport=transport, **pair, **settings)


@pytest.fixture(scope="module", params=["asgi", "grpcio"])
def server(models: Path, files: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with TLS and without client authentication."""
    with secured(models, files, request.param) as running:
        yield running


ROLES = ("read", "infer", "interpret", "admin")
EXPIRED = "2020-01-01T00:00:00Z"


def write_tokens(path: Path, *, more: str = "") -> dict[str, str]:
    """The tokens by role, and "expired", an admin's; `more` is TOML that follows."""
    created = {name: token_file.make() for name in (*ROLES, "expired")}
    parts = [block(name, created[name], "admin" if name == "expired" else name) for name in created]
    save_tokens(path, "\n".join([*parts, f"expires = {EXPIRED}\n", more]))
    return created


def block(name: str, token: str, *roles: str, **fields: object) -> str:
    """One [[token]]."""
    lines = [f'name = "{name}"', f"roles = {list(roles)}", f'sha256 = "{token_file.digest(token)}"']
    return "\n".join(["[[token]]", *lines, *(f"{key} = {value}" for key, value in fields.items()), ""])


def save_tokens(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call."""
    return (("authorization", f"Bearer {token}"),)


def shown(token: str = "", certificate: str = "") -> RequestMetadata:
    """Metadata of a call with these credentials."""
    return RequestMetadata(bearer(token) if token else (), None, certificate)


def gate(text: str, folder: Path) -> Authenticator:
    """The authenticator of a token file with this text. The names of a certificate are its words."""
    save_tokens(folder / "t", text)
    return Authenticator(token_file.load(folder / "t"), lambda certificate: frozenset(str(certificate).split()))


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
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def _wrong(need: Need, role: str, refused: grpc.StatusCode | None, text: str, metadata: Any) -> str:
    if refused is not expected(need, role):
        return f"{refused} where {expected(need, role)} was expected: {text}"
    if refused is grpc.StatusCode.PERMISSION_DENIED and f"the role {need}" not in text:
        return f"the role {need} is not named: {text}"
    return "the token is told" if any(value.split()[-1] in text for _, value in metadata) else ""
