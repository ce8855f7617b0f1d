"""Two Ray nodes on loopback: a fleet and an application of Ray Serve, whose servers and nodes end under load.

Each test runs with clients that retry and with clients that do not, and prints what each kind lost (`pytest -s`).
"""

import contextlib
import importlib.util
import json
import os
import queue
import re
import select
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import yaml
from grpc_health.v1 import health_pb2

import kanserve
from tests.support import ray_cluster, toy_model
from tests.support.programs import free_port
from tests.support.ray_cluster import ROWS, Cluster, Load
from tests.support.server_process import INFERENCE, request
from tests.support.tiers import full
from tests.support.wait import until

pytestmark = [
    full("peer"),
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None or not ray_cluster.RAY.is_file(),
        reason="Ray is not installed: the extra `ray` has it, and `make stack-test ARGS=ray` installs it",
    ),
]

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "guides" / "serve" / "ray.md").read_text()
CONFIG = ROOT / "service" / "deploy" / "ray" / "serve.yaml"
SECONDS = 120.0
CALLS = 2000  # of each kind of client, while the cluster replaces what was killed


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    toy_model.write(root)
    return root


@dataclass(slots=True)
class Fleet:
    """A fleet that `python -m kanserve.contrib.ray.fleet` runs."""

    process: subprocess.Popen[str]
    cluster: Cluster
    log: Path

    def report(self) -> dict[str, Any]:
        """The next document that the command prints."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if readable else ""
        assert line, self.log.read_text()[-4000:]
        return dict(json.loads(line))


@pytest.fixture(scope="module")
def fleet(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, dict[str, Any]]]:
    """A fleet of two servers on two nodes, and what it reports at its start."""
    log = tmp_path_factory.mktemp("fleet") / "log"
    with ray_cluster.running() as cluster, log.open("w") as errors:
        (written,) = re.findall(r"^python (-m kanserve.contrib.ray.fleet models .*) --port 8001$", GUIDE, re.MULTILINE)
        command = [sys.executable, "-P", *shlex.split(written.replace("models", str(repository)))]
        command += ["--address", cluster.address, "--port", str(free_port()), "--connections", "500", "--json"]
        command += ["--targets", str(log.with_name("targets.json"))]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=cluster.environment
        ) as process:
            try:
                running = Fleet(process, cluster, log)
                yield running, running.report()
                process.send_signal(signal.SIGTERM)
                assert process.wait(SECONDS) == 0, log.read_text()[-4000:]
            finally:
                for pid in ray_cluster.descendants(process.pid)[::-1] if process.poll() is None else ():
                    os.kill(pid, signal.SIGKILL)


def hosts(report: dict[str, Any]) -> list[str]:
    return sorted(server["server"]["address"].rpartition(":")[0] for server in report["servers"])


def check(load: Load, event: str, *, without_retries: bool) -> None:
    """Print what the clients lost. Clients with retries may lose nothing."""
    print(load.row(event))
    assert not load.lost["kanserve.Client"], load.lost["kanserve.Client"]
    assert min(load.calls.values()) > 100
    if without_retries:
        assert not load.lost["tritonclient"], load.lost["tritonclient"]


def predicts(client: triton.InferenceServerClient) -> triton.InferInput:
    """Check the outputs of ROWS. Returns their tensor."""
    tensor = triton.InferInput("x", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)
    np.testing.assert_allclose(client.infer("toy", [tensor]).as_numpy("y"), toy_model.outputs(ROWS), rtol=1e-5)
    return tensor


def scrapes(running: Fleet, report: dict[str, Any]) -> bool:
    """Whether Prometheus reads the metrics addresses of these servers."""
    groups = json.loads(running.log.with_name("targets.json").read_text())
    targets = {target for group in groups for target in group["targets"]}
    return targets == {server["server"]["metrics"] for server in report["servers"]}


def test_a_fleet_has_servers_on_both_nodes(fleet: tuple[Fleet, dict[str, Any]]) -> None:
    running, report = fleet
    assert hosts(report) == ["127.0.0.2", "127.0.0.3"]
    assert scrapes(running, report)
    with triton.InferenceServerClient(report["address"]) as client:
        assert client.is_server_ready()
        predicts(client)
    with urllib.request.urlopen(f"http://{report['address']}/v2/models/toy", timeout=60) as response:
        assert json.load(response)["name"] == "toy"


def test_the_python_block_of_the_guide_runs(fleet: tuple[Fleet, dict[str, Any]], repository: Path) -> None:
    running, _ = fleet
    (block,) = re.findall(r"^```py\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    code = block.replace('"models"', repr(str(repository))).replace("8001", str(free_port()))
    environment = running.cluster.environment | {"RAY_ADDRESS": running.cluster.address}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(re.findall(r"^[0-9a-f]{56} 127\.0\.0\.[23]:\d+ 0 \d+$", done.stdout, re.MULTILINE)) == 3, done.stdout


def test_a_redeploy_loses_no_call(fleet: tuple[Fleet, dict[str, Any]]) -> None:
    running, before = fleet
    with ray_cluster.loaded(before["address"]) as load:
        running.process.send_signal(signal.SIGHUP)
        after = running.report()
    check(load, "fleet: redeploy", without_retries=True)
    pids = [{server["server"]["pid"] for server in report["servers"]} for report in (before, after)]
    assert not pids[0] & pids[1]
    assert len(pids[1]) == 2
    until(lambda: scrapes(running, after))
    before.update(after)


def test_haproxy_that_is_killed_starts_again(fleet: tuple[Fleet, dict[str, Any]]) -> None:
    running, report = fleet
    names = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in ray_cluster.descendants(running.process.pid)}
    (haproxy,) = [pid for pid, name in names.items() if name == "haproxy\n"]
    os.kill(haproxy, signal.SIGKILL)
    with kanserve.Client(report["address"], timeout=60, retries=20) as client:
        np.testing.assert_allclose(client.infer("toy", {"x": ROWS}).outputs["y"], toy_model.outputs(ROWS), rtol=1e-5)


def test_a_node_that_is_killed_loses_no_call_with_retries(fleet: tuple[Fleet, dict[str, Any]]) -> None:
    running, report = fleet
    with ray_cluster.loaded(report["address"]) as load:
        running.cluster.second.kill()
        load.more(CALLS)
    check(load, "fleet: node killed", without_retries=False)
    running.process.send_signal(signal.SIGHUP)
    assert hosts(running.report()) == ["127.0.0.2", "127.0.0.2"]


# The application of a config on the cluster. A line on stdin deploys it again with a changed setting.
DRIVER = """
import importlib, json, sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
from ray import serve
config = json.loads(sys.argv[2])
serve.start("HeadOnly", config["http_options"], grpc_options=config["grpc_options"])
(application,) = config["applications"]
module, _, name = application["import_path"].partition(":")
for number in range(1, 100):
    args = application["args"] | {"settings": {"max_watch_streams": number, "drain_grace_seconds": 5}}
    application_of = getattr(importlib.import_module(module), name)
    serve.run(application_of(args), name=application["name"], route_prefix=application["route_prefix"])
    print("ready", flush=True)
    if not sys.stdin.readline():
        break
"""


@dataclass(slots=True)
class Application:
    """An application of Ray Serve with its ports of HTTP and gRPC."""

    process: subprocess.Popen[str]
    cluster: Cluster
    http: str
    address: str
    log: Path

    def wait(self) -> None:
        """Wait until the application is deployed, and Ray's HAProxy reaches it."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        assert readable, self.log.read_text()[-4000:]
        assert self.process.stdout.readline() == "ready\n", self.log.read_text()[-4000:]
        until(self._ready)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{self.http}/readyz", timeout=60):
            return True
        return False


@pytest.fixture(scope="module")
def application(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """Two replicas of a Ray Serve application, one on each node."""
    log = tmp_path_factory.mktemp("application") / "log"
    http, port = free_port(), free_port()
    with ray_cluster.running(cpus=1) as cluster, log.open("w") as errors:
        config = yaml.safe_load(CONFIG.read_text())
        config["http_options"]["port"], config["grpc_options"]["port"] = http, port
        config["applications"][0]["args"]["repository"] = str(repository)
        command = [sys.executable, "-P", "-c", DRIVER, cluster.address, json.dumps(config)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, **pipes, text=True, env=cluster.environment) as process:
            try:
                running = Application(process, cluster, f"127.0.0.1:{http}", f"127.0.0.1:{port}", log)
                running.wait()
                yield running
            finally:
                process.kill()


def replicas(node: ray_cluster.Node) -> int:
    """Number of replicas of Ray Serve on a node."""
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in ray_cluster.descendants(node.process.pid)]
    return sum(line.startswith(b"ray::ServeReplica") for line in lines)


def test_an_application_serves_grpc_and_rest_on_both_nodes(application: Application) -> None:
    assert [replicas(node) for node in (application.cluster.head, application.cluster.second)] == [1, 1]
    with triton.InferenceServerClient(application.address) as client:
        tensor = predicts(client)
        results: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        client.start_stream(lambda result, error: results.put((result, error)))
        client.async_stream_infer("toy", [tensor])
        result, error = results.get(timeout=60)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("y"), toy_model.outputs(ROWS), rtol=1e-5)
        client.stop_stream()
    with kanserve.Client(application.address) as client:
        assert client.describe("toy").name == "toy"
    with urllib.request.urlopen(f"http://{application.http}/v2/models/toy", timeout=60) as response:
        assert json.load(response)["name"] == "toy"


def test_an_application_returns_the_errors_of_kanserve(application: Application) -> None:
    with grpc.insecure_channel(application.address) as channel:
        healthy = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60)
        assert health_pb2.HealthCheckResponse.FromString(healthy).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"{INFERENCE}ModelInfer")(request(ROWS, "toys").SerializeToString(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert ("kan-error-code", "model-unknown") in {(key, value) for key, value in caught.value.trailing_metadata()}


def test_an_application_loses_no_call_with_retries(application: Application) -> None:
    with ray_cluster.loaded(application.address) as load:
        assert application.process.stdin is not None
        application.process.stdin.write("again\n")
        application.process.stdin.flush()
        application.wait()
    check(load, "application: redeploy", without_retries=False)
    with ray_cluster.loaded(application.address) as load:
        application.cluster.second.kill()
        load.more(CALLS)
    check(load, "application: node killed", without_retries=False)
