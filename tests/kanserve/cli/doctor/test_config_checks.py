"""Tests of `cli/doctor/config_checks.py`."""

import datetime
import json
import socket
from pathlib import Path

import pytest

from kanserve.cli.doctor.check_results import Level
from tests.kanserve.cli.doctor.conftest import FREE, check, told
from tests.support.command_line import kanserve, program
from tests.support.programs import free_port
from tests.support.tiers import full


def test_certificates_that_cannot_be_served(models: Path, pems: Path) -> None:
    for certificate, key, text in (
        ("expired.pem", "expired.key", "expired.pem has expired"),
        ("server.pem", "server.key", "client CA: "),
    ):
        flags = ("--tls-cert", pems / certificate, "--tls-key", pems / key)
        client = ("--tls-client-ca", pems / "text.pem") if text == "client CA: " else ()
        code, result = check(models, *FREE, *flags, *client)
        (problem,) = told(result, Level.PROBLEM)
        assert (code, text in problem) == (2, True), problem


def test_certificates_that_want_looking_after(models: Path, pems: Path) -> None:
    key = pems / "soon.key"
    key.chmod(0o644)
    flags = ("--tls-cert", pems / "soon.pem", "--tls-key", key, "--tls-client-ca", pems / "ca.pem")
    code, result = check(models, *FREE, *flags)
    key.chmod(0o600)
    assert code == 0
    first, second = told(result, Level.WARNING)
    assert "soon.pem expires in 9 days" in first
    assert "every user of this machine can read or write the key" in second
    assert any(item.startswith("client CA") for item in told(result, Level.OK))
    secret = "".join(key.read_text().splitlines()[1:4])
    assert secret[:40] not in json.dumps(result)


def test_who_may_call(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    code, result = check(models, *FREE, "--tokens", file)
    assert (code, len(told(result, Level.PROBLEM))) == (2, 1)
    table = '[[token]]\nname = "%s"\nroles = ["infer"]\nsha256 = "%064x"\nexpires = %s\n'
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    days = ("2020-01-01T00:00:00Z", f"{soon:%Y-%m-%dT%H:%M:%SZ}", "2990-01-01T00:00:00Z")
    file.write_text("".join(table % (f"caller{at}", at, day) for at, day in enumerate(days)))
    file.chmod(0o600)
    code, result = check(models, *FREE, "--tokens", file)
    assert code == 0
    first, second = told(result, Level.WARNING)
    assert first == "access: the token caller0 has expired"
    assert second.startswith("access: the token caller1 expires on ")
    assert any("has 3 tokens and 0 certificates" in line for line in told(result, Level.OK))
    file.chmod(0o604)
    code, result = check(models, *FREE, "--tokens", file)
    assert (code, len(told(result, Level.PROBLEM))) == (2, 1)
    _, result = check(models, *FREE, "--host", "0.0.0.0", "--insecure")
    assert any(line.startswith("access: all clients that reach 0.0.0.0") for line in told(result, Level.WARNING))


def test_ports_that_are_not_to_be_had(models: Path) -> None:
    port = free_port()
    _, result = check(models, "--grpc-port", port, "--metrics-port", port)
    assert told(result, Level.PROBLEM) == [f"metrics port: 127.0.0.1:{port} is already the gRPC port"]
    _, result = check(models, *FREE, "--metrics-host", "192.0.2.1")
    (problem,) = told(result, Level.PROBLEM)
    assert "cannot listen on 192.0.2.1:0: Cannot assign requested address" in problem
    _, result = check(models, *FREE, "--metrics-host", "no.such.host.example")
    assert told(result, Level.PROBLEM)[0].startswith("metrics port: the server cannot listen on no.such.host.example:0")
    with socket.create_server(("127.0.0.1", port)):  # nothing of the check listens any more
        pass


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ("gRPC", ("--transport", "asgi")),
        pytest.param("gRPC", ("--transport", "grpcio"), marks=full("second transport")),
        pytest.param("gRPC", ("--transport", "grpcio", "--workers", "2"), marks=full("combination")),
        pytest.param("metrics", (), marks=full("combination")),
    ],
)
def test_a_start_says_of_a_port_what_a_check_says(models: Path, place: str, flags: tuple[str, ...]) -> None:
    """Both give the port by its name, the reason, and the fix."""
    flag = f"--{place.lower()}-port"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        supplied = ("serve", models, *FREE, flag, port, *flags)
        checked, started = kanserve(*supplied, "--check", "--json"), program(*supplied, "--json")
    (wrong,) = [item for item in json.loads(checked.stdout)["findings"] if item["level"] == Level.PROBLEM]
    error = json.loads(started.stdout)["error"]
    assert (checked.returncode, started.returncode, error["kind"]) == (2, 2, "ConfigError")
    assert error["message"] == f"{wrong['about']}: {wrong['text']}"
    assert error["message"] == f"{place} port: the server cannot listen on 127.0.0.1:{port}: Address already in use"
    hint = f"end the process that listens there (`ss -ltnp`), or choose another port with {flag}"
    assert error["hint"] == wrong["advice"] == hint


def test_where_statistics_are_kept(models: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for state, level, text in (
        ("state/of/this", Level.OK, "stored in"),
        ("a file", Level.WARNING, "is a file, expected a directory: the server does not use it"),
        ("a file/state", Level.WARNING, "is not a folder"),
        ("open", Level.WARNING, "can be written by everyone (mode 777)"),
    ):
        code, result = check(models, *FREE, "--state-dir", tmp_path / state)
        assert (code, any(text in line for line in told(result, level))) == (0, True), state
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "open"]  # the check creates no file
