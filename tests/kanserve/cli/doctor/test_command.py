"""`kanserve serve --check` and `kanserve doctor`: each thing that can be wrong is told, and what to do about it."""

from __future__ import annotations

import datetime
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from kanserve.cli.doctor import machine_checks, repository_checks
from kanserve.cli.doctor.check_results import Level
from kanserve.cli.doctor.server_checks import Source, Trust
from kanserve.config.settings import Settings
from kanserve.system import memory
from tests.support import certificates, toy_model
from tests.support.command_line import CLEAN, COMMAND, kanserve, program, serving
from tests.support.server_process import limited

pytestmark = pytest.mark.slow

FREE = ("--grpc-port", "0", "--metrics-port", "0")
Found = list[dict[str, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toy_model.write(folder)
    return folder


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = certificates.write(tmp_path_factory.mktemp("pems"))
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)
    pair = trustme.CA().issue_cert("localhost", not_after=soon)
    pair.cert_chain_pems[0].write_to_path(str(folder / "soon.pem"))
    pair.private_key_pem.write_to_path(str(folder / "soon.key"))
    for key in folder.glob("*.key"):
        key.chmod(0o600)
    return folder


def check(*arguments: object, **environment: str) -> tuple[int, Found]:
    done = kanserve("serve", *arguments, "--check", "--json", **environment)
    return done.returncode, json.loads(done.stdout)["findings"]


def told(found: Found, level: Level) -> list[str]:
    return [f"{one['about']}: {one['text']}" for one in found if one["level"] == level]


def test_all_is_well(models: Path) -> None:
    code, found = check(models, *FREE)
    assert code == 0
    assert {one["level"] for one in found} == {"ok"}
    about = [one["about"] for one in found]
    assert about[:5] == ["settings", "TLS", "callers", "gRPC port", "metrics port"]
    assert {"runtime", "transport", "processors", "open files", "models"} <= set(about)
    assert found[0]["text"] == "from flag: repository, grpc_port, metrics_port"


def test_people_get_a_table(models: Path) -> None:
    done = kanserve("serve", models, *FREE, "--check")
    assert done.returncode == 0
    assert "toy version 1: files and manifest are as the server wants them" in done.stdout
    assert "0 warnings, 0 problems" in done.stdout


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--tls-cert", "server.pem", "--tls-key", "caller.key"), "does not belong to the certificate"),
        (("--tls-cert", "expired.pem", "--tls-key", "expired.key"), "expired.pem has expired"),
        (("--tls-cert", "early.pem", "--tls-key", "early.key"), "early.pem is not valid yet"),
        (("--tls-cert", "cut.pem", "--tls-key", "server.key"), "cannot be read"),
        (("--tls-cert", "none.pem", "--tls-key", "server.key"), "No such file"),
        (("--tls-cert", "server.pem", "--tls-key", "locked.key"), "is encrypted"),
        (
            ("--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "text.pem"),
            "callers' authorities: ",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_certificates_that_cannot_be_served(models: Path, pems: Path, flags: tuple[str, ...], text: str) -> None:
    paths = [one if one.startswith("--") else str(pems / one) for one in flags]
    code, found = check(models, *FREE, *paths)
    assert code == 2
    (problem,) = told(found, Level.PROBLEM)
    assert text in problem


def test_certificates_that_want_looking_after(models: Path, pems: Path) -> None:
    key = pems / "soon.key"
    key.chmod(0o644)
    flags = ("--tls-cert", pems / "soon.pem", "--tls-key", key, "--tls-client-ca", pems / "ca.pem")
    code, found = check(models, *FREE, *flags)
    key.chmod(0o600)
    assert code == 0
    first, second = told(found, Level.WARNING)
    assert "soon.pem expires in 9 days" in first
    assert "everybody on this machine may read or write the key" in second
    assert any(one.startswith("callers' authorities") for one in told(found, Level.OK))
    secret = "".join(key.read_text().splitlines()[1:4])
    assert secret[:40] not in json.dumps(found)


def test_who_may_call(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    code, found = check(models, *FREE, "--tokens", file)
    assert (code, len(told(found, Level.PROBLEM))) == (2, 1)
    table = '[[token]]\nname = "%s"\nroles = ["infer"]\nsha256 = "%064x"\nexpires = %s\n'
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    days = ("2020-01-01T00:00:00Z", f"{soon:%Y-%m-%dT%H:%M:%SZ}", "2990-01-01T00:00:00Z")
    file.write_text("".join(table % (f"caller{at}", at, day) for at, day in enumerate(days)))
    file.chmod(0o600)
    code, found = check(models, *FREE, "--tokens", file)
    assert code == 0
    first, second = told(found, Level.WARNING)
    assert first == "callers: the token caller0 has expired"
    assert second.startswith("callers: the token caller1 expires on ")
    assert any("has 3 tokens and 0 certificates" in line for line in told(found, Level.OK))
    file.chmod(0o604)
    code, found = check(models, *FREE, "--tokens", file)
    assert (code, len(told(found, Level.PROBLEM))) == (2, 1)
    _, found = check(models, *FREE, "--host", "0.0.0.0", "--insecure")
    assert any(line.startswith("callers: anyone who reaches 0.0.0.0") for line in told(found, Level.WARNING))


def test_ports_that_are_not_to_be_had(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, found = check(models, "--grpc-port", port, "--metrics-port", "0", "--http-port", "0")
        assert code == 2
        assert told(found, Level.PROBLEM) == [
            f"gRPC port: 127.0.0.1:{port} cannot be listened on: Address already in use"
        ]
    _, found = check(models, "--grpc-port", port, "--metrics-port", port)
    assert told(found, Level.PROBLEM) == [f"metrics port: 127.0.0.1:{port} is the gRPC port already"]
    _, found = check(models, *FREE, "--metrics-host", "192.0.2.1")
    (problem,) = told(found, Level.PROBLEM)
    assert "192.0.2.1:0 cannot be listened on: Cannot assign requested address" in problem
    _, found = check(models, *FREE, "--metrics-host", "no.such.host.example")
    assert told(found, Level.PROBLEM)[0].startswith("metrics port: no.such.host.example:0 cannot be listened on")
    with socket.create_server(("127.0.0.1", port)):  # nothing of the check listens any more
        pass


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ("gRPC", ("--transport", "asgi")),
        ("gRPC", ("--transport", "grpcio")),
        ("gRPC", ("--transport", "grpcio", "--workers", "2")),
        ("metrics", ()),
    ],
)
def test_a_start_says_of_a_port_what_a_check_says(models: Path, place: str, flags: tuple[str, ...]) -> None:
    """Both give the port by its name, the reason, and the fix."""
    if "asgi" in flags:
        pytest.importorskip("h2corn")
    flag = f"--{place.lower()}-port"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = ("serve", models, *FREE, flag, port, *flags)
        checked, started = kanserve(*given, "--check", "--json"), program(*given, "--json")
    (wrong,) = [one for one in json.loads(checked.stdout)["findings"] if one["level"] == Level.PROBLEM]
    error = json.loads(started.stdout)["error"]
    assert (checked.returncode, started.returncode, error["kind"]) == (2, 2, "ConfigError")
    assert error["message"] == f"{wrong['about']}: {wrong['text']}"
    assert error["message"] == f"{place} port: 127.0.0.1:{port} cannot be listened on: Address already in use"
    assert error["hint"] == wrong["advice"] == f"end what listens there (`ss -ltnp`), or take another port with {flag}"


def broken(folder: Path) -> None:
    (folder / "toy" / "1" / "model.onnx").write_bytes(b"cut")


def half_exported(folder: Path) -> None:
    (folder / "toy" / ".kanexport-host-1-abcd").mkdir()


def plain(folder: Path) -> None:
    shutil.copytree(folder / "toy", folder / "plain")
    (folder / "plain" / "1" / "manifest.json").unlink()


def passed_over(folder: Path) -> None:
    (folder / "toy" / "02").mkdir()


def idle_config(folder: Path) -> None:
    (folder / "toy" / "config.pbtxt").write_text("optimization { graph { level: 1 } }\n")


def empty(folder: Path) -> None:
    shutil.rmtree(folder / "toy")


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        (broken, Level.PROBLEM, "toy version 1 is refused: "),
        (empty, Level.PROBLEM, "has no version that can be served"),
        (half_exported, Level.WARNING, "an export left toy/.kanexport-host-1-abcd behind"),
        (plain, Level.WARNING, "plain version 1 has no manifest and is passed over"),
        (passed_over, Level.WARNING, "toy version 02 is passed over: the server takes no such version"),
        (idle_config, Level.WARNING, "toy version 1: optimization in config.pbtxt is without effect"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_repositories(tmp_path: Path, change: Callable[[Path], None], level: Level, text: str) -> None:
    toy_model.write(tmp_path)
    change(tmp_path)
    code, found = check(tmp_path, *FREE)
    assert code == (2 if level is Level.PROBLEM else 0)
    assert any(text in line for line in told(found, level)), found
    assert all(one["advice"] for one in found if one["level"] != Level.OK)


@pytest.mark.parametrize(
    ("flags", "level", "text"),
    [
        (("--device", "cuda"), Level.PROBLEM, "runtime: device 'cuda' is not available"),
        (("--backend", "tensorrt"), Level.PROBLEM, "runtime: unknown backend 'tensorrt'"),
        (("--threads", "1024"), Level.WARNING, "processors: threads = 1024, and"),
        (("--workers", "256"), Level.WARNING, "processors: workers = 256, and"),
        (("--gprc-port", "1"), None, ""),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_machines(models: Path, flags: tuple[str, ...], level: Level | None, text: str) -> None:
    if level is None:
        assert kanserve("serve", models, *flags, "--check").returncode == 2
        return
    code, found = check(models, *FREE, *flags)
    assert code == (2 if level is Level.PROBLEM else 0)
    assert any(line.startswith(text) for line in told(found, level)), found


@pytest.mark.parametrize(
    ("state", "level", "text"),
    [
        ("state/of/this", Level.OK, "kept in"),
        ("a file", Level.WARNING, "is a file, expected a directory: the server will not use it"),
        ("a file/state", Level.WARNING, "is no folder"),
        ("open", Level.WARNING, "can be written by everyone (mode 777)"),
    ],
)
def test_where_statistics_are_kept(models: Path, tmp_path: Path, state: str, level: Level, text: str) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    code, found = check(models, *FREE, "--state-dir", tmp_path / state)
    assert code == 0
    assert any(text in line for line in told(found, level))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "open"]  # the check creates no file


def test_settings_that_are_wrong_are_all_named(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "kanserve.toml"
    file.write_text("gprc_port = 1\nmax_watch_stream = 2\n")
    code, (one,) = check(models, "--config", file)
    assert code == 2
    assert (one["level"], one["about"]) == ("problem", "settings")
    assert "did you mean 'grpc_port'?" in one["text"]
    assert "did you mean 'max_watch_streams'?" in one["text"]
    code, (one,) = check(models, KANSERVE_WORKER="2", KANSERVE_THREAD="1")
    assert code == 2
    assert "KANSERVE_WORKER in" in one["text"]
    assert "KANSERVE_THREAD in" in one["text"]


def test_memory_against_models_and_messages(models: Path) -> None:
    settings = Settings(repository=models, workers=2, max_inflight_bytes=256 * 2**20)
    size, messages = 100 * 2**20, 512 * 2**20
    needed = memory.FACTOR * size * 2 + messages
    assert repository_checks.room(size, settings, needed).level is Level.OK
    short = repository_checks.room(size, settings, needed - 1)
    assert (short.level, short.about) == (Level.WARNING, "memory")
    assert short.text == "models may take 1,000 MiB, messages 512 MiB, and 1,512 MiB are free"
    assert repository_checks.room(size, settings, None).level is Level.OK
    _, found = check(models, *FREE)
    assert any(line.startswith("memory: models may take 0 MiB, messages 256 MiB; ") for line in told(found, Level.OK))


def test_files_that_may_be_open(models: Path) -> None:
    command = [*limited(200), *COMMAND, "serve", str(models), *FREE, "--check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, timeout=60)
    assert done.returncode == 0
    (line,) = told(json.loads(done.stdout)["findings"], Level.WARNING)
    assert line == "open files: 200 are allowed, 1064 are needed for max_connections = 1000"


def test_what_is_installed_is_held_against_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"onnxruntime": "1.2.0", "onnxruntime-gpu": "", "h2corn": "3.0.1", "orjson": ""}
    real = machine_checks._version
    monkeypatch.setattr(machine_checks, "_version", lambda name: versions.get(name, real(name)))
    lines = [f"{finding.level}: {finding.text}" for finding in machine_checks.installation()]
    assert "warning: onnxruntime 1.2.0; kanserve was made for >=1.20" in lines
    assert "warning: h2corn 3.0.1; kanserve was made for <3,>=2.0" in lines
    assert "problem: orjson is not installed" in lines
    versions = {"onnxruntime": "", "onnxruntime-gpu": "1.24.0"}
    assert all(finding.level is Level.OK for finding in machine_checks.installation())


def test_a_clock_from_before_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks.time, "time", lambda: 10**9)
    assert machine_checks.clock().level is Level.PROBLEM


def test_telemetry_that_the_environment_would_have(models: Path) -> None:
    code = "import sys; from kanserve.cli import main; sys.exit(main.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", str(models), *FREE, "--check", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**CLEAN, "ORT_DISABLE_TELEMETRY": "0"}, timeout=60
    )
    (line,) = told(json.loads(done.stdout)["findings"], Level.WARNING)
    assert line.startswith("telemetry: ORT_DISABLE_TELEMETRY=0")


def doctor(*arguments: object, **environment: str) -> tuple[int, Found]:
    done = kanserve("doctor", *arguments, "--json", **environment)
    return done.returncode, json.loads(done.stdout)["findings"]


PORTS = {"KANSERVE_GRPC_PORT": "0", "KANSERVE_METRICS_PORT": "0"}


def test_the_doctor_needs_no_repository(models: Path) -> None:
    code, found = doctor(**PORTS)
    assert code == 0
    assert [one["about"] for one in found[:3]] == ["Python", "packages", "clock"]
    assert "models" not in {one["about"] for one in found}
    code, found = doctor(models, **PORTS)
    assert code == 0
    assert "models" in {one["about"] for one in found}
    code, found = doctor(models / "nobody", **PORTS)
    assert code == 1
    assert "nobody is not a folder" in told(found, Level.PROBLEM)[0]
    code, found = doctor(KANSERVE_REPOSITORY=str(models), KANSERVE_DEVICE="cuda", **PORTS)
    assert (code, len(told(found, Level.PROBLEM))) == (1, 1)


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
    code, found = doctor("--url", alive.url, "--metrics", alive.metrics)
    assert code == 1  # not ready, as long as one version is not
    (problem,) = told(found, Level.PROBLEM)
    assert problem == f"server: {alive.url} answers, and is NOT_SERVING"
    lines = told(found, Level.WARNING)
    assert any(line.startswith("server: toy version 2 is UNAVAILABLE: ") for line in lines), lines
    assert "metrics: 1 loads of versions failed" in lines
    assert "server: toy version 1 serves" in told(found, Level.OK)
    assert not {"gRPC port", "metrics port"} & {one["about"] for one in found}


def test_the_doctor_finds_the_metrics_on_the_shared_port(alive: Any) -> None:
    """The server's metrics port is not the usual one."""
    pytest.importorskip("h2corn")
    _, found = doctor("--url", alive.url)
    assert "metrics: 1 loads of versions failed" in told(found, Level.WARNING)
    assert not [line for line in told(found, Level.WARNING) if "/metrics" in line]


def test_the_doctor_shows_who_asks(models: Path, pems: Path, tmp_path: Path) -> None:
    """The doctor uses TLS and a token, and the certificate has another name than the host."""
    pytest.importorskip("h2corn")
    tokens = tmp_path / "tokens.toml"
    secret = kanserve("token", "new", "me", "--roles", "read", "--tokens", tokens).stdout.strip()
    (tmp_path / "mine").write_text(secret)
    pair = ("--tls-cert", pems / "server.pem", "--tls-key", pems / "server.key")
    with serving(models, tmp_path / "log", *map(str, pair), "--tokens", str(tokens)) as server:
        place = ("--url", f"grpcs://{server.url}", "--server-name", "localhost", "--ca", pems / "ca.pem")
        _, found = doctor(*place, "--token-file", tmp_path / "mine")
        told_of = [line for line in told(found, Level.OK) if line.startswith("metrics")]
        assert told_of == [f"metrics: https://{server.url}/metrics: nothing was lost, no load and no inference failed"]
        for name, reason in (("localhost", "401 Unauthorized"), ("elsewhere.example", "Hostname mismatch")):
            with pytest.raises(OSError, match=reason):
                Source(server.url, Trust(pems / "ca.pem", name=name)).read()
        assert "kanserve_" in Source(server.metrics).read()


def test_metrics_that_are_nowhere_are_a_warning(models: Path, tmp_path: Path) -> None:
    """The warning names each place with the reason."""
    with serving(models, tmp_path / "log", "--transport", "grpcio") as server:
        _, found = doctor("--url", server.url)
        (line,) = [line for line in told(found, Level.WARNING) if line.startswith("metrics")]
    assert f"http://{server.url}/metrics: there is no HTTP; http://127.0.0.1:8002/metrics: " in line


def test_a_server_that_is_not_there_is_a_problem() -> None:
    code, found = doctor("--url", "127.0.0.1:1", "--metrics", "127.0.0.1:1")
    assert code == 1
    assert told(found, Level.PROBLEM) == ["server: 127.0.0.1:1: no server answers at 127.0.0.1:1"]


def test_metrics_that_are_elsewhere_are_a_warning(alive: Any) -> None:
    _, found = doctor("--url", alive.url, "--metrics", "127.0.0.1:1")
    assert any("127.0.0.1:1/metrics" in line for line in told(found, Level.WARNING))


def test_nothing_is_written(models: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before = sorted(models.rglob("*"))
    command = [*COMMAND, "doctor", str(models), "--json"]
    environment = {**CLEAN, **PORTS, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert sorted(models.rglob("*")) == before
