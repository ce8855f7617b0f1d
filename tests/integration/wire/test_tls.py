"""TLS on both transports with real clients: accepted and rejected connections, log messages, invalid settings."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from kanserve import Client, Unreachable
from tests.support import toy_model
from tests.support.command_line import document, kanserve, program
from tests.support.credentials import files as files
from tests.support.credentials import models as models
from tests.support.credentials import secured
from tests.support.server_process import SHARED, Server

ROWS = np.full((2, 3), 0.25, np.float32)


@pytest.fixture(scope="module", params=SHARED)
def server(models: Path, files: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Open to all."""
    with secured(models, files, request.param) as running:
        yield running


@pytest.fixture(scope="module", params=SHARED)
def mutual(models: Path, files: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Open to those whose certificate our authority signed."""
    with secured(models, files, request.param, tls_client_ca=str(files / "ca.pem")) as running:
        yield running


def url(server: Server) -> str:
    return f"grpcs://{server.address}"


def test_tritons_client_infers(mutual: Server, files: Path) -> None:
    names = {"root_certificates": "ca.pem", "private_key": "caller.key", "certificate_chain": "caller.pem"}
    pems = {name: str(files / file) for name, file in names.items()}
    with triton.InferenceServerClient(mutual.address, ssl=True, **pems) as client:
        supplied = triton.InferInput("x", ROWS.shape, "FP32")
        supplied.set_data_from_numpy(ROWS)
        result = client.infer("toy", [supplied]).as_numpy("y")
    np.testing.assert_allclose(result, toy_model.outputs(ROWS), rtol=1e-5)


def test_a_client_that_also_speaks_http_1_gets_http_2(server: Server, files: Path) -> None:
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    context.set_alpn_protocols(["http/1.1", "h2"])
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as peer,
    ):
        assert peer.selected_alpn_protocol() == "h2"


def test_our_client_and_its_commands(mutual: Server, files: Path) -> None:
    supplied = {name: files / file for name, file in (("ca", "ca.pem"), ("cert", "caller.pem"), ("key", "caller.key"))}
    with Client(url(mutual), **supplied) as client:
        assert client.health() == "SERVING"
    flags = [item for name, file in supplied.items() for item in (f"--{name}", file)]
    assert document(kanserve("health", "--url", mutual.address, *flags, "--json"))["state"] == "SERVING"
    variables = {f"KANSERVE_{name.upper()}": str(file) for name, file in supplied.items()}
    shown = program("models", KANSERVE_URL=url(mutual), KANSERVE_SERVER_NAME="localhost", **variables)
    assert shown.returncode == 0, shown.stderr
    assert "toy" in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("original", "says"),
    [
        ({"ca": "other-ca.pem"}, r"its certificate is not trusted \(unable to get local issuer certificate\)"),
        ({}, "its certificate is not trusted"),
        ({"ca": "ca.pem", "server_name": "elsewhere"}, "its certificate is for another name"),
    ],
)
def test_a_server_that_is_not_trusted(server: Server, files: Path, original: dict[str, str], says: str) -> None:
    named = {key: str(files / value) if key == "ca" else value for key, value in original.items()}
    with Client(url(server), timeout=60, **named) as client, pytest.raises(Unreachable, match=says):
        client.health()
    assert trusted(server, files) == "SERVING"


@pytest.mark.parametrize("shown", ["", "stranger", "expired"])
def test_a_caller_that_may_not_enter(mutual: Server, files: Path, shown: str) -> None:
    pair = {"cert": files / f"{shown}.pem", "key": files / f"{shown}.key"} if shown else {}
    with Client(url(mutual), timeout=60, ca=files / "ca.pem", **pair) as client, pytest.raises(Unreachable) as caught:
        client.health()
    assert "if the server requires a client certificate, pass cert and key" in caught.value.hint
    assert trusted(mutual, files, cert=files / "caller.pem", key=files / "caller.key") == "SERVING"


def trusted(server: Server, files: Path, **pair: Path) -> str:
    with Client(url(server), ca=files / "ca.pem", **pair) as client:
        return client.health()


def test_plain_text_is_not_served(server: Server, files: Path) -> None:
    with Client(server.address, timeout=60) as client, pytest.raises(Unreachable, match="closes the conn") as caught:
        client.health()
    assert caught.value.hint == "if the server requires TLS, connect to grpcs://HOST:PORT"
    for said in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(100)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as peer:
            peer.sendall(said)
            assert b"HTTP" not in rest(peer)
    assert trusted(server, files) == "SERVING"


def rest(peer: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    result = b""
    try:
        while data := peer.recv(65536):
            result += data
    except ConnectionResetError:
        pass
    return result


@pytest.mark.parametrize("transport", SHARED)
def test_a_handshake_that_never_ends_is_cut_off(models: Path, files: Path, transport: str) -> None:
    with secured(models, files, transport, handshake_timeout=1.0) as hasty:
        peers = [socket.create_connection(("127.0.0.1", hasty.port), timeout=60) for _ in range(20)]
        for at, peer in enumerate(peers):
            peer.sendall(b"\x16\x03\x01\x02\x00\x01\x00"[: at % 8])
        assert trusted(hasty, files) == "SERVING"
        for peer in peers:
            with peer:
                rest(peer)
        assert trusted(hasty, files) == "SERVING"


def test_a_client_that_cannot_be(files: Path) -> None:
    ca, cert, key = files / "ca.pem", files / "caller.pem", files / "server.key"
    for address, options, says in (
        ("grpc://a:1", {"ca": ca}, "is an address without TLS"),
        ("a:1", {"cert": cert}, r"only one of the client certificate \(cert\) and its private key \(key\) is set"),
        ("a:1", {"ca": files / "none.pem"}, "cannot be read: No such file"),
        ("a:1", {"cert": cert, "key": key}, "does not belong to"),
    ):
        with pytest.raises(ValueError, match=says):
            Client(address, **options)
    done = kanserve("health", "--url", "a:1", "--ca", files / "none.pem")
    assert (done.returncode, "No such file" in done.stderr) == (2, True)
