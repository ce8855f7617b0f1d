"""Credentials of the kanserve client and the commands on both transports: tokens, and names in certificates."""

import asyncio
import datetime
import importlib.util
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kanserve import AsyncClient, Client, NotAllowed
from kanserve.auth import authenticator
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from tests.support import credentials, toy_model
from tests.support.command_line import document, kanserve, program
from tests.support.credentials import files as files
from tests.support.credentials import models as models
from tests.support.server_process import INFERENCE, SHARED, Server, first_line, launched, serving
from tests.support.wait import until

ROWS = np.full((2, 3), 0.25, np.float32)
CERTIFIED = "[[certificate]]\nname = 'caller'\nsan = 'caller.example'\nroles = ['infer']\n"


@pytest.fixture(scope="module")
def created(files: Path) -> dict[str, str]:
    """The tokens of the file `tokens.toml`, which also names a certificate."""
    return credentials.write_tokens(files / "tokens.toml", more=CERTIFIED)


@pytest.fixture(scope="module", params=SHARED)
def mutual(models: Path, files: Path, created: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Server]:
    """Callers show a certificate, and perhaps a token."""
    pytest.importorskip("h2corn")
    pems = {"tls_cert": "server.pem", "tls_key": "server.key", "tls_client_ca": "ca.pem", "tokens": "tokens.toml"}
    with serving(models, transport=request.param, **{key: str(files / file) for key, file in pems.items()}) as server:
        yield server


def client(server: Server, files: Path, name: str, **more: str) -> Client:
    return Client(
        f"grpcs://{server.address}", ca=files / "ca.pem", cert=files / f"{name}.pem", key=files / f"{name}.key", **more
    )


def test_a_certificate_is_told_by_its_name(mutual: Server, created: dict[str, str], files: Path) -> None:
    with client(mutual, files, "caller") as asking:
        response = asking.infer(asking.model("toy").inputs[0], ROWS, name="toy")
        np.testing.assert_allclose(response.outputs["y"], toy_model.outputs(ROWS), rtol=1e-5)
        with pytest.raises(NotAllowed, match="the role interpret, which caller does not have"):
            asking.describe("toy")
    with client(mutual, files, "server") as other:  # of the same authority, and nobody's here
        assert other.health() == "SERVING"
        with pytest.raises(NotAllowed, match="but has no credential") as caught:
            other.index()
        assert caught.value.code == "UNAUTHENTICATED"
    with client(mutual, files, "caller", token=created["interpret"]) as both:  # a token wins
        assert both.describe("toy").name == "toy"
        with pytest.raises(NotAllowed, match="which interpret does not have"):
            both.infer(both.model("toy").inputs[0], ROWS, name="toy")


def test_a_stream_and_a_second_call_are_told_too(mutual: Server, files: Path) -> None:
    for name, code in (("caller", grpc.StatusCode.OK), ("server", grpc.StatusCode.UNAUTHENTICATED)):
        shown = [(files / file).read_bytes() for file in ("ca.pem", f"{name}.key", f"{name}.pem")]
        with grpc.secure_channel(mutual.address, grpc.ssl_channel_credentials(*shown)) as channel:
            for _ in range(2):
                call = channel.stream_stream(f"{INFERENCE}ModelStreamInfer")(iter([]), timeout=60)
                assert call.code() is code


def sans(*value: x509.GeneralName) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    created = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now)
    if value:
        created = created.add_extension(x509.SubjectAlternativeName(value), critical=True)
    return created.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_names_of_a_certificate() -> None:
    uri, dns = x509.UniformResourceIdentifier("spiffe://a/b"), x509.DNSName("a.example")
    address = x509.IPAddress(ipaddress.ip_address("10.0.0.1"))
    assert authenticator.certificate_names(sans(uri, dns, address, x509.RFC822Name("a@b.example"))) == {
        *("spiffe://a/b", "a.example", "10.0.0.1", "a@b.example")
    }
    # No URI, whatever it looks like.
    assert authenticator.certificate_names(sans(x509.DNSName("spiffe://a/b"))) == frozenset()
    assert authenticator.certificate_names(sans()) == authenticator.certificate_names("no certificate") == frozenset()


def test_certificates_that_nothing_here_can_read_are_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert authenticator.missing_name() == ""
    for scope in ({}, {"extensions": {"tls": {"client_cert_chain": []}}}):
        assert authenticator.presented(scope) == ""
    credentials.save_tokens(tmp_path / "tokens", CERTIFIED)
    settings = Settings(repository=tmp_path, tokens=tmp_path / "tokens")
    assert authenticator.build(settings.model_copy(update={"tls_client_ca": tmp_path / "ca.pem"})) is not None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for authority, says in ((None, "tls_client_ca is not set"), (tmp_path / "ca.pem", "need the package cryptography")):
        with pytest.raises(ConfigError, match=says):
            authenticator.build(settings.model_copy(update={"tls_client_ca": authority}))


def test_our_awaited_client_shows_its_certificate(mutual: Server, files: Path) -> None:
    pems = {"ca": files / "ca.pem", "cert": files / "caller.pem", "key": files / "caller.key"}

    async def ask() -> Any:
        async with AsyncClient(f"grpcs://{mutual.address}", **pems) as asking:
            with pytest.raises(NotAllowed, match="the role interpret, which caller does not have"):
                await asking.describe("toy")
            return (await asking.infer(await asking.model("toy"), ROWS)).outputs["y"]

    np.testing.assert_allclose(asyncio.run(ask()), toy_model.outputs(ROWS), rtol=1e-5)


def test_our_client_and_its_commands(models: Path, tmp_path: Path) -> None:
    created = credentials.write_tokens(tmp_path / "tokens")
    (tmp_path / "mine").write_text(f"{created['infer']}\n")
    (tmp_path / "rows.csv").write_text("0.25,0.25,0.25\n")
    with serving(models, tokens=str(tmp_path / "tokens")) as server:
        with Client(server.address, token=created["infer"]) as asking:
            assert asking.ready()
        with Client(server.address) as nobody:
            assert nobody.ready()
            with pytest.raises(NotAllowed):
                nobody.describe("toy")
        infer = ("infer", "toy", "--input", tmp_path / "rows.csv", "--url", server.address, "--json")
        assert document(kanserve(*infer, "--token-file", tmp_path / "mine"))["outputs"]
        assert program(*infer, KANSERVE_TOKEN=created["infer"]).returncode == 0
        refused = kanserve(*infer)
        assert refused.returncode == 1
        assert "pass a token with --token-file FILE" in refused.stderr
        assert created["infer"] not in kanserve(*infer, "--token-file", tmp_path / "mine").stderr
        listed = document(kanserve("models", "--url", server.address, "--token-file", tmp_path / "mine", "--json"))
        assert listed["models"][0]["name"] == "toy"


def test_token_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name, says in (("none", "No such file"), ("empty", "is empty"), ("bytes", "it is not ASCII text")):
        done = kanserve("health", "--token-file", tmp_path / name)
        assert (done.returncode, says in done.stderr) == (2, True)


def test_what_is_open_to_others_says_so_at_the_start(models: Path) -> None:
    with launched(models, host="0.0.0.0", insecure=True) as (process, log):
        assert first_line(process, log)
        until(lambda: '"event": "insecure_address"' in log.read_text())
        assert "there is neither TLS nor authentication" in log.read_text()
