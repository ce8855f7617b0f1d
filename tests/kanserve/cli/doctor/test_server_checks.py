"""Tests of `cli/doctor/server_checks.py`."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kanserve.cli.doctor.check_results import Level
from kanserve.cli.doctor.server_checks import Source
from kanserve.client.base import Tls
from tests.kanserve.cli.doctor.conftest import doctor, told
from tests.support import toy_model
from tests.support.command_line import kanserve, serving
from tests.support.tiers import full


@pytest.fixture(scope="module")
def alive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """With one version that serves, and one that does not."""
    folder = tmp_path_factory.mktemp("alive")
    toy_model.write(folder / "models")
    shutil.copytree(folder / "models" / "toy" / "1", folder / "models" / "toy" / "2")
    toy_model.edit(folder / "models" / "toy" / "2", version=2)
    (folder / "models" / "toy" / "2" / "model.onnx").write_bytes(b"cut")
    with serving(folder / "models", folder / "log") as server:
        yield server


def test_the_doctor_looks_at_a_server(alive: Any) -> None:
    code, result = doctor("--url", alive.url, "--metrics", alive.metrics)
    assert (code, told(result, Level.PROBLEM)) == (0, [])
    lines = told(result, Level.WARNING)
    assert any(line.startswith("server: toy version 2 is UNAVAILABLE: ") for line in lines), lines
    assert "metrics: 1 loads of versions failed" in lines
    assert "server: toy version 1 is ready" in told(result, Level.OK)
    assert not {"gRPC port", "metrics port"} & {item["about"] for item in result}
    _, result = doctor("--url", alive.url, "--metrics", "127.0.0.1:1")
    assert any("127.0.0.1:1/metrics" in line for line in told(result, Level.WARNING))


def test_the_doctor_finds_the_metrics_on_the_shared_port(alive: Any) -> None:
    """The server's metrics port is not the usual one."""
    _, result = doctor("--url", alive.url)
    assert "metrics: 1 loads of versions failed" in told(result, Level.WARNING)
    assert not [line for line in told(result, Level.WARNING) if "/metrics" in line]


def test_the_doctor_of_a_container_leaves_the_ports_to_its_server(alive: Any) -> None:
    grpc, metrics = (address.rsplit(":", 1)[1] for address in (alive.url, alive.metrics))
    code, result = doctor(KANSERVE_GRPC_PORT=grpc, KANSERVE_METRICS_PORT=metrics, KANSERVE_METRICS_HOST="0.0.0.0")
    assert (code, told(result, Level.PROBLEM)) == (0, [])
    assert "server: a server on this machine has these ports; pass --url to check it" in told(result, Level.OK)


@full("combination")
def test_the_doctor_shows_who_asks(models: Path, pems: Path, tmp_path: Path) -> None:
    """The doctor uses TLS and a token, and the certificate has another name than the host."""
    tokens = tmp_path / "tokens.toml"
    secret = kanserve("token", "new", "me", "--roles", "read", "--tokens", tokens).stdout.strip()
    (tmp_path / "mine").write_text(secret)
    pair = ("--tls-cert", pems / "server.pem", "--tls-key", pems / "server.key")
    with serving(models, tmp_path / "log", *map(str, pair), "--tokens", str(tokens)) as server:
        place = ("--url", f"grpcs://{server.url}", "--server-name", "localhost", "--ca", pems / "ca.pem")
        _, result = doctor(*place, "--token-file", tmp_path / "mine")
        told_of = [line for line in told(result, Level.OK) if line.startswith("metrics")]
        assert told_of == [
            f"metrics: https://{server.url}/metrics: no dropped log lines, no failed loads or inferences"
        ]
        for name, reason in (("localhost", "401 Unauthorized"), ("elsewhere.example", "Hostname mismatch")):
            with pytest.raises(OSError, match=reason):
                Source(server.url, Tls(pems / "ca.pem", None, None, name)).read()
        assert "kanserve_" in Source(server.metrics).read()


@full("second transport")
def test_metrics_that_are_nowhere_are_a_warning(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path / "log", "--transport", "grpcio") as server:
        _, result = doctor("--url", server.url)
        (line,) = [line for line in told(result, Level.WARNING) if line.startswith("metrics")]
    assert f"http://{server.url}/metrics: no HTTP response; http://127.0.0.1:8002/metrics: " in line


def test_a_server_that_is_not_there_is_a_problem() -> None:
    code, result = doctor("--url", "127.0.0.1:1", "--metrics", "127.0.0.1:1")
    assert (code, told(result, Level.PROBLEM)) == (1, ["server: 127.0.0.1:1: no server at 127.0.0.1:1"])
