"""A Ray cluster of two nodes on loopback, each with its address and its ports, and load on a server in it."""

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import toy_model
from tests.support.wait import until

RAY = Path(sys.executable).with_name("ray")
START_SECONDS = 120.0
ROWS = np.array([[0.5, -1.0, 2.0]], np.float32)
SEPARATE = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each client


def descendants(pid: int) -> list[int]:
    """The process and all that it has started, by id."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    every = [pid]
    for known in every:
        every += children.get(known, [])
    return every


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster."""

    process: subprocess.Popen[bytes]
    ip: str

    def kill(self) -> None:
        """End everything that runs on the node, at once, as a machine that loses power."""
        pids = descendants(self.process.pid)
        for pid in pids:  # first stop all, so that nobody starts another one or says goodbye
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        for pid in {*pids, *descendants(self.process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster. `address`: for drivers, with the variables `environment`."""

    address: str
    environment: dict[str, str]
    head: Node
    second: Node

    def pids(self) -> set[int]:
        """The ids of all processes of the cluster."""
        return {pid for node in (self.head, self.second) for pid in descendants(node.process.pid)}


def _ports(base: int) -> list[str]:
    names = ("node-manager", "object-manager", "metrics-export", "dashboard-agent-listen", "dashboard-agent-grpc")
    flags = [f"--{name}-port={base + number}" for number, name in enumerate((*names, "runtime-env-agent"))]
    return [*flags, f"--min-worker-port={base + 20}", f"--max-worker-port={base + 220}"]


@contextlib.contextmanager
def running(*, cpus: int = 4, nodes: int = 2) -> Iterator[Cluster]:
    """A cluster of one or two nodes with so many cores each, as far as Ray knows."""
    base = random.SystemRandom().randrange(16000, 31000, 500)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "KANSERVE_"))},
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_MAXCONN": "1000",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(base + 245),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/h/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/h/admin.sock",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/h/metrics.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{folder}/h",
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/h/server-state",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONWARNINGS": "ignore",
        }
        common = ["start", "--block", "--disable-usage-stats", f"--num-cpus={cpus}", "--object-store-memory=80000000"]
        address = f"127.0.0.2:{base + 10}"
        head = ["--head", f"--port={base + 10}", "--node-ip-address=127.0.0.2", "--include-dashboard=false"]
        second = [f"--address={address}", "--node-ip-address=127.0.0.3"]
        with contextlib.ExitStack() as stack:

            def start(ip: str, *flags: str) -> Node:
                log = stack.enter_context(Path(folder, f"{ip}.log").open("wb"))
                command = [str(RAY), *common, *flags]
                node = Node(subprocess.Popen(command, stdout=log, stderr=log, env=environment), ip)
                stack.callback(node.kill)
                return node

            first = start("127.0.0.2", *head, *_ports(base), f"--temp-dir={folder}")
            _wait_nodes(1, address, environment, Path(folder))
            other = first
            if nodes == 2:
                other = start("127.0.0.3", *second, *_ports(base + 250))
                _wait_nodes(2, address, environment, Path(folder))
            yield Cluster(address, environment, first, other)


def _wait_nodes(count: int, address: str, environment: dict[str, str], logs: Path) -> None:
    """Wait until so many nodes are alive."""
    code = (
        "import sys, ray, time\nray.init(address=sys.argv[1], logging_level='ERROR')\n"
        "while sum(node['Alive'] for node in ray.nodes()) < int(sys.argv[2]): time.sleep(0.2)"
    )
    command = [sys.executable, "-P", "-c", code, address, str(count)]

    def joined() -> bool:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_SECONDS)
        if done.returncode != 0:
            logged = "".join(path.read_text() for path in logs.glob("127*.log"))
            raise OSError(f"{done.stderr[-2000:]}{logged[-2000:]}")
        return True

    until(joined, f"{count} nodes", seconds=START_SECONDS, errors=(OSError,))


@dataclass(slots=True)
class Load:
    """Calls of clients without retries and with the retries of `kanserve.Client`, until `end`."""

    address: str
    calls: dict[str, int] = field(default_factory=lambda: {"tritonclient": 0, "kanserve.Client": 0})
    lost: dict[str, list[str]] = field(default_factory=lambda: {"tritonclient": [], "kanserve.Client": []})
    slowest: dict[str, float] = field(default_factory=lambda: {"tritonclient": 0.0, "kanserve.Client": 0.0})
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, clients: int = 4) -> None:
        """Start `clients` clients of each kind, with a connection each."""
        for make in (self._triton, self._kanserve) * clients:
            thread = threading.Thread(target=make, daemon=True)
            thread.start()
            self._threads.append(thread)

    def more(self, count: int) -> None:
        """Wait until each kind of client has made so many more calls."""
        wanted = {name: calls + count for name, calls in self.calls.items()}
        until(lambda: all(self.calls[name] >= calls for name, calls in wanted.items()))

    def end(self) -> None:
        """End the load."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def row(self, event: str) -> str:
        """A line of a table: calls and lost calls of each client."""
        cells = [f"{len(self.lost[name])} of {self.calls[name]}, {self.slowest[name]:.2f} s" for name in self.calls]
        return f"{event:<34}" + "".join(f"{cell:>24}" for cell in cells)

    def _triton(self) -> None:
        import tritonclient.grpc as triton

        tensor = triton.InferInput("x", list(ROWS.shape), "FP32")
        tensor.set_data_from_numpy(ROWS)
        with triton.InferenceServerClient(self.address, channel_args=SEPARATE) as client:
            self._repeat("tritonclient", lambda: client.infer("toy", [tensor], client_timeout=60).as_numpy("y"))

    def _kanserve(self) -> None:
        import kanserve

        with kanserve.Client(self.address, timeout=60) as client:
            self._repeat("kanserve.Client", lambda: client.infer("toy", {"x": ROWS}).outputs["y"])

    def _repeat(self, name: str, call: Callable[[], Any]) -> None:
        expected = toy_model.outputs(ROWS)
        while not self._ended.wait(0.002):
            began = time.monotonic()
            try:
                np.testing.assert_allclose(call(), expected, rtol=1e-5)
            except Exception as error:
                self.lost[name].append(f"{type(error).__name__}: {error}"[:300])
            self.calls[name] += 1
            self.slowest[name] = max(self.slowest[name], time.monotonic() - began)


@contextlib.contextmanager
def loaded(address: str) -> Iterator[Load]:
    """Load on a server, from some calls before the body until some after it."""
    load = Load(address)
    load.begin()
    try:
        load.more(100)
        yield load
        load.more(100)
    finally:
        load.end()
