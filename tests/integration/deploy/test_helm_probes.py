"""A real server with the variables of the rendered Deployment passes its probes, and ends at SIGTERM."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import credentials, toy_model
from tests.support.command_line import CLEAN, COMMAND
from tests.support.helm_chart import environment, passes, render, server
from tests.support.programs import free_port
from tests.support.tiers import full
from tests.support.wait import until

pytestmark = full("package")

DRAIN = {"drain_delay_seconds": 0.2, "drain_reject_seconds": 0.1, "drain_grace_seconds": 1}
PVC = {"pvc": {"claimName": "models"}}
TLS = {"secretName": "tls", "serverName": "localhost"}
CASES: dict[str, dict[str, Any]] = {
    "grpc": {"insecure": True},
    "httpGet": {"tls": TLS, "tokens": {"secretName": "tokens"}},
    "metrics": {"tls": {**TLS, "clientCA": {"secretName": "clients"}}, "tokens": {"secretName": "tokens"}},
}


def secret(folder: Path, **files: bytes) -> None:
    """A mounted Secret: links to a hidden folder, files that only owner and group can read."""
    (folder / "..1").mkdir(parents=True)
    (folder / "..data").symlink_to("..1")
    for name, content in files.items():
        file = folder / "..1" / name.replace("__", ".")
        file.write_bytes(content)
        file.chmod(0o440)
        (folder / file.name).symlink_to(f"..data/{file.name}")


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """The volumes of a pod: models and credentials."""
    (tmp_path / "models").mkdir()
    toy_model.write(tmp_path / "models")
    (tmp_path / "files").mkdir()
    made = credentials.write_certificates(tmp_path / "files")
    credentials.write_tokens(tmp_path / "files" / "tokens.toml")
    read = {name: (made / name).read_bytes() for name in ("server.pem", "server.key", "ca.pem")}
    mounts = tmp_path / "credentials"
    secret(mounts / "tls", tls__crt=read["server.pem"], tls__key=read["server.key"], ca__crt=read["ca.pem"])
    secret(mounts / "client-ca", ca__crt=read["ca.pem"])
    secret(mounts / "tokens", tokens__toml=(made / "tokens.toml").read_bytes())
    return tmp_path


def variables(container: dict[str, Any], pod: Path, port: int, metrics: int) -> dict[str, str]:
    """The variables of the container, with the folders and the ports of this test, on loopback."""
    found = dict(CLEAN)
    for name, value in environment(container).items():
        path = value.startswith(("/models", "/credentials"))
        found[name] = f"{pod}{value}" if path else value.replace("8001", str(port)).replace("8002", str(metrics))
    return found | {"KANSERVE_HOST": "127.0.0.1", "KANSERVE_METRICS_HOST": "127.0.0.1"}


@pytest.mark.parametrize("kind", CASES)
def test_the_server_of_the_chart_passes_its_probes(kind: str, pod: Path) -> None:
    if kind == "httpGet":
        pytest.importorskip("h2corn")
    container = server(render(json.dumps(CASES[kind] | {"models": PVC, "settings": DRAIN})))
    ports = {"metrics": free_port(), "h2c": free_port()}
    ports["https"] = ports["h2c"]
    env = variables(container, pod, ports["h2c"], ports["metrics"])
    with (pod / "log").open("wb") as log:
        process = subprocess.Popen([*COMMAND, *container["args"]], env=env, stdout=log, stderr=log, cwd=os.sep)
    try:
        until(lambda: process.poll() is not None or passes(container["startupProbe"], ports))
        assert process.poll() is None, (pod / "log").read_text()
        for name in ("readinessProbe", "livenessProbe"):  # a probe may take too long on a busy machine
            until(lambda name=name: passes(container[name], ports))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0, (pod / "log").read_text()
    assert not passes(container["livenessProbe"], ports)
