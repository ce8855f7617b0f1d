"""The compose stack without containers, and the field names of its files."""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from kanserve.config import sources
from kanserve.config.settings import Settings
from tests.support import wait
from tests.support.command_line import CLEAN, COMMAND
from tests.support.programs import free_ports

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "service" / "deploy"
FOLDER = DEPLOY / "compose"
PACKAGES = {
    "prometheus": ("prometheus", "prometheus"),
    "promtool": ("promtool", "prometheus"),
    "alertmanager": ("prometheus-alertmanager", "prometheus-alertmanager"),
    "amtool": ("amtool", "prometheus-alertmanager"),
    "docker-registry": ("docker-registry", "docker-registry"),
    "oras": ("oras", "oras"),
}
SECONDS = 120
# Waits of the shipped configuration become one second, and windows of its expressions five.
WAITS = re.compile(r"(\b(?:for|scrape_interval|evaluation_interval|group_wait|group_interval): )\d+[smhd]\b")
WINDOWS = re.compile(r"\[\d+[smhd]\]")
# The server scans the models often, and serves a graph that the tests make slow.
QUICK = {"KANSERVE_REPOSITORY_POLL_SECONDS": "0.2", "KANSERVE_PLAIN_ONNX": "true"}


def compose() -> Any:
    """The compose file."""
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def variables() -> set[str]:
    """The environment variables of the server and of its health check, which is a client without a token."""
    clients = {name for name in sources.CLIENTS if not name.startswith("KANSERVE_TOKEN")}
    return {f"KANSERVE_{name.upper()}" for name in Settings.model_fields} | clients


def program(name: str) -> str:
    """The path of an installed program. Skips the test if it is absent."""
    command, package = PACKAGES[name]
    found = shutil.which(command)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files that init created: two folders, and the files for clients."""

    server: Path
    client: Path

    @property
    def ca(self) -> Path:
        """The certificate that clients trust."""
        return self.client / "ca.crt"

    @property
    def token(self) -> Path:
        """The file with the token of clients."""
        return self.client / "app.token"


def credentials(folder: Path, *names: str) -> Credentials:
    """Run init with the folders `server` and `client` below `folder`, and the names of the compose file."""
    made = Credentials(folder / "server", folder / "client")
    made.server.mkdir(exist_ok=True)
    made.client.mkdir(exist_ok=True)
    shipped = compose()["services"]["init"]["command"][2:]
    command = [sys.executable, "-P", FOLDER / "init.py", made.server, made.client, *(names or shipped)]
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return made


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first true value of a condition. An error of a connection counts as false."""
    return wait.until(condition, what, seconds=seconds, errors=(OSError,))


def get(url: str, **query: str) -> Any:
    """The JSON document at an address."""
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=60) as response:
        return json.load(response)


@dataclass(slots=True)
class Stack:
    """The running stack. `folder` has models, credentials, configuration and logs."""

    folder: Path
    ports: dict[str, int]
    credentials: Credentials
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Address of the server for clients."""
        return f"grpcs://localhost:{self.ports['server:8001']}"

    def start(self, name: str, command: list[Any], **environment: str) -> None:
        """Start a process of the stack, with its output in a log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                list(map(str, command)), env=CLEAN | environment, stdout=log, stderr=log, cwd=os.sep
            )

    def end(self, name: str) -> None:
        """Kill a process of the stack."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def start_server(self) -> None:
        """Start the server with the variables of the compose file."""
        service = compose()["services"]["server"]
        self.start("server", [*COMMAND, *service["command"]], **self.local(service["environment"]))

    def start_demo(self, rate: int) -> None:
        """Start the demo load."""
        arguments = [self.replaced(text) for text in compose()["services"]["demo"]["command"][:3]]
        self.start("demo", [sys.executable, "-P", FOLDER / "demo.py", *arguments, rate])

    def local(self, environment: dict[str, str]) -> dict[str, str]:
        """Variables of the server, with folders and ports of this stack, on loopback."""
        local = {name: self.replaced(value) for name, value in environment.items()}
        local |= {"KANSERVE_HOST": "127.0.0.1", "KANSERVE_METRICS_HOST": "127.0.0.1"}
        local["KANSERVE_GRPC_PORT"] = str(self.ports["server:8001"])
        local["KANSERVE_METRICS_PORT"] = str(self.ports["server:8002"])
        return local | QUICK

    def replaced(self, text: str) -> str:
        """A text with the addresses and folders of this stack."""
        for address, port in self.ports.items():
            text = text.replace(address, f"localhost:{port}" if address == "server:8001" else f"127.0.0.1:{port}")
        text = text.replace("localhost:8001", f"localhost:{self.ports['server:8001']}")
        return re.sub(r"^/(models|credentials)\b", rf"{self.folder}/\1", text)

    def configure(self, path: Path) -> Path:
        """A copy of a shipped configuration, with the addresses of this stack and short waits."""
        target = self.folder / path.name
        target.write_text(WINDOWS.sub("[5s]", WAITS.sub(r"\g<1>1s", self.replaced(path.read_text()))))
        return target

    def prometheus(self, path: str, **query: str) -> Any:
        """The data of a response of Prometheus."""
        return get(f"http://127.0.0.1:{self.ports['prometheus:9090']}/api/v1/{path}", **query)["data"]

    def value(self, expression: str) -> float | None:
        """The first value of a query, if there is any."""
        result = self.prometheus("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None

    def serving(self) -> bool:
        """True if the server exports metrics. Raises OSError if it does not respond."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['server:8002']}/metrics", timeout=60) as response:
            return b"kanserve_build_info{" in response.read()

    def empty_panels(self) -> set[str]:
        """Titles of the panels of the dashboard without a series."""
        full = {title for title, expression in panels() if self.prometheus("query", query=expression)["result"]}
        return {title for title, _ in panels()} - full

    def delivered(self, state: str, alert: str) -> list[str]:
        """The lines of the webhook about an alert."""
        lines = (self.folder / "receiver.log").read_text().splitlines()
        return [line for line in lines if line.startswith(f"{state} {alert} ")]

    def settled(self, alert: str) -> bool:
        """True if the webhook got the end of an alert as often as the alert."""
        return len(self.delivered("firing", alert)) == len(self.delivered("resolved", alert))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """The stack with the models in `folder`/models. Skips the test if Prometheus or Alertmanager is absent."""
    prometheus, alertmanager = program("prometheus"), program("alertmanager")
    ports = free_ports("server:8001", "server:8002", "prometheus:9090", "alertmanager:9093", "receiver:8080")
    (folder / "credentials").mkdir()
    stack = Stack(folder, ports, credentials(folder / "credentials"))
    try:
        stack.start_server()
        receiver = [sys.executable, "-P", FOLDER / "receiver.py", "127.0.0.1", ports["receiver:8080"]]
        stack.start("receiver", receiver)
        until(stack.serving, "the metrics of the server")
        stack.configure(DEPLOY / "monitoring" / "prometheus" / "rules.yml")
        config = stack.configure(FOLDER / "prometheus.yml")
        listen = "--web.listen-address=127.0.0.1"
        options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        stack.start("prometheus", [prometheus, *options, f"{listen}:{ports['prometheus:9090']}"])
        options = [f"--config.file={stack.configure(FOLDER / 'alertmanager.yml')}", "--cluster.listen-address="]
        options += [f"--storage.path={folder / 'alerts'}", f"{listen}:{ports['alertmanager:9093']}"]
        stack.start("alertmanager", [alertmanager, *options])
        yield stack
    finally:
        for name in list(stack.processes):
            stack.end(name)


@functools.cache
def panels() -> list[tuple[str, str]]:
    """Title and expression of every query of the dashboard, for all servers and models."""
    dashboard = json.loads((DEPLOY / "monitoring" / "grafana" / "kanserve.json").read_text())
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m")
            everything = re.sub(r"\$(namespace|release|job|instance|model|version)\b", ".*", expression)
            found.append((panel["title"], everything))
    return found


LEAF = None
Shape = dict[str, Any] | None


def _leaves(names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), LEAF)


# The fields that the stack uses. A new one is added here after a look into the documentation of its program.
NAMED: Shape = {"*": LEAF}
SERVICE: Shape = _leaves(
    "cap_drop command entrypoint image network_mode ports profiles read_only restart security_opt stop_grace_period "
    "user"
) | {
    "build": _leaves("context"),
    "depends_on": {"*": _leaves("condition")},
    "deploy": {"resources": {"limits": _leaves("cpus memory")}},
    "environment": NAMED,
    "healthcheck": _leaves("disable interval retries test timeout start_period"),
    "networks": NAMED,
    "volumes": _leaves("type source target read_only") | {"bind": _leaves("create_host_path")},
}
COMPOSE: Shape = {"name": LEAF, "services": {"*": SERVICE}, "networks": NAMED, "volumes": NAMED}
TARGETS = {"static_configs": _leaves("targets")}
PROMETHEUS: Shape = {
    "global": _leaves("scrape_interval evaluation_interval"),
    "rule_files": LEAF,
    "alerting": {"alertmanagers": TARGETS},
    "scrape_configs": TARGETS | _leaves("job_name"),
}
ALERTMANAGER: Shape = {
    "route": _leaves("receiver group_by group_wait group_interval repeat_interval"),
    "receivers": {"name": LEAF, "webhook_configs": _leaves("url send_resolved")},
}
DATASOURCES: Shape = {
    "apiVersion": LEAF,
    "datasources": _leaves("name type uid access url isDefault") | {"jsonData": _leaves("timeInterval")},
}
DASHBOARDS: Shape = {
    "apiVersion": LEAF,
    "providers": _leaves("name type allowUiUpdates") | {"options": _leaves("path")},
}


def unknown(value: Any, shape: Shape, path: str = "") -> list[str]:
    """The paths of all fields that the shape does not have."""
    if isinstance(value, list):
        return [found for at, item in enumerate(value) for found in unknown(item, shape, f"{path}[{at}]")]
    if not isinstance(value, dict):
        return []
    found = []
    for name, inner in value.items():
        if not path and name.startswith("x-"):
            continue
        if shape is not LEAF and (name in shape or "*" in shape):
            found += unknown(inner, shape.get(name, shape.get("*")), f"{path}.{name}")
        else:
            found.append(f"{path}.{name}")
    return found
