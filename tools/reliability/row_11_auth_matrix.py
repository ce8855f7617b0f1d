"""Access control: each method and route with each caller, over TLS and mutual TLS, checked against the access table."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from kanserve.auth import token_file
from tests.support import credentials, toy_model
from tests.support.server_process import Server, serving
from tools.reliability.base import Outcome, Row, Scale

NONE, BAD = "none", "bad"
CERTIFIED = "[[certificate]]\nname = 'caller'\nsan = 'caller.example'\nroles = ['infer']\n"
# Token of a caller -> its role, "" for none. Over TLS a caller has only a token. Over mutual TLS it also has `server`'s
# certificate, which names no caller, or `caller`'s, which names one.
TOKENS = {NONE: "", BAD: "", "expired": "", **{role: role for role in credentials.ROLES}}
SHORT = (NONE, "infer")


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller. `shows`: its certificate, "" for none; `token`: a key of TOKENS; `role`: its resulting role."""

    shows: str
    token: str
    role: str


def callers(*, mutual: bool, full: bool) -> Iterator[Caller]:
    """Those of one server."""
    for token, role in TOKENS.items():
        if full or token in SHORT:
            yield Caller("server" if mutual else "", token, role)
    if mutual:
        yield Caller("caller", NONE, "infer")
        yield Caller("caller", BAD, "")  # a wrong token does not fall back to the certificate
        yield Caller("caller", "read", "read")


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Each response is compared with the permission table."""
    requested, wrong = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = credentials.write_certificates(Path(name))
        created = credentials.write_tokens(folder / "plain") | {BAD: token_file.make()}
        credentials.save_tokens(folder / "mutual", (folder / "plain").read_text() + CERTIFIED)
        toy_model.write(folder / "models")
        for mutual in (False, True):
            with _server(folder, transport, mutual=mutual) as server:
                for caller in callers(mutual=mutual, full=scale.full):
                    metadata = credentials.bearer(created[caller.token]) if caller.token in created else ()
                    for what, result in _answers(server, folder, caller, metadata):
                        requested += 1
                        wrong += [f"{'mTLS' if mutual else 'TLS'} {caller} {what}: {result}"] * bool(result)
                strangers = _strangers(server, folder) if mutual else 0
                log = server.log.read_text()
                reported = sum(token in log or token_file.digest(token) in log for token in created.values())
                wrong += [f"{reported} tokens in the log"] * bool(reported)
    figures = {
        "calls": requested,
        "against the table": len(wrong),
        "strangers let in": strangers,
    }
    return Outcome(figures, not wrong and not strangers, requested, "; ".join(wrong[:3]))


@contextlib.contextmanager
def _server(folder: Path, transport: str, *, mutual: bool) -> Iterator[Server]:
    supplied: dict[str, Any] = {"tls_cert": "server.pem", "tls_key": "server.key", "tokens": "plain"}
    if mutual:
        supplied |= {"tls_client_ca": "ca.pem", "tokens": "mutual"}
    files = {key: str(folder / value) for key, value in supplied.items()}
    port = {} if transport == "asgi" else {"http_port": 0}
    with serving(folder / "models", transport=transport, reflection=True, **port, **files) as server:
        yield server


def _answers(
    server: Server, folder: Path, caller: Caller, metadata: tuple[tuple[str, str], ...]
) -> Iterator[tuple[str, str]]:
    pair = [(folder / f"{caller.shows}.{kind}").read_bytes() if caller.shows else None for kind in ("key", "pem")]
    trusted = grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes(), *pair)
    with grpc.secure_channel(server.address, trusted, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield from credentials.methods(channel, caller.role, metadata)
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if caller.shows:
        context.load_cert_chain(folder / f"{caller.shows}.pem", folder / f"{caller.shows}.key")
    yield from credentials.routes(server.http, caller.role, metadata, context)


def _strangers(server: Server, folder: Path) -> int:
    """Number of connections accepted without a trusted certificate."""
    entered = 0
    for shows in ("", "stranger", "expired"):
        pair = [(folder / f"{shows}.{kind}").read_bytes() if shows else None for kind in ("key", "pem")]
        trusted = grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes(), *pair)
        with grpc.secure_channel(server.address, trusted, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            code, _ = credentials.called(channel, "grpc.health.v1.Health/Check", ())
            entered += code is not grpc.StatusCode.UNAVAILABLE
    return entered


ROW = Row(
    number="11",
    title="Access control of all methods",
    method=(
        "Each method and route is called without a token, with an invalid or expired token, and with one token per "
        "role. Connections use TLS, mutual TLS, and certificates without tokens."
    ),
    goal="100% as the permission table states. A method without an entry fails.",
    result=(
        "{against the table} of {calls} calls differ from the table, {strangers let in} unauthenticated calls accepted."
    ),
    wire=True,
    needs=("trustme", "cryptography"),
    guarded_by=(
        "tests/integration/wire/test_access.py::test_every_method_and_route_by_every_caller",
        "tests/integration/wire/test_credentials.py::test_a_certificate_is_told_by_its_name",
    ),
    run=run,
)
