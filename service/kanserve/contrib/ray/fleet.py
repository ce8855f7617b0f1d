"""A fleet: Ray places and restarts whole kanserve servers, and HAProxy spreads connections over them.

    from kanserve.contrib.ray import fleet

    running = fleet.start("models", replicas=2, port=8001)
    running.redeploy("models-2")
    running.status()
    running.stop()

    python -m kanserve.contrib.ray.fleet models --replicas 2

Each server is a child process of a Ray actor. An actor that ends with its node starts again on another node. HAProxy
and the loop that tells it the addresses run in the process that calls `start`. The fleet ends with this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from kanexport.shared import atomic
from kanexport.shared.cli import console, program
from kanexport.shared.cli.console import Exit, Failure, json_text
from kanserve.config import sources
from kanserve.config.hosts import is_loopback
from kanserve.config.settings import Settings
from kanserve.contrib.ray import FleetError, import_ray
from kanserve.contrib.ray.child import Replica, State
from kanserve.contrib.ray.haproxy import Front, Haproxy
from kanserve.errors import ConfigError

POLL = 0.3  # seconds between two looks at the servers
OWNED = ("host", "grpc_port")  # settings that the fleet chooses
# A server leaves HAProxy before it drains, so it neither waits for a load balancer nor rejects requests.
DRAIN = {"drain_delay_seconds": 0.5, "drain_reject_seconds": 0.0}
LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by the address that other machines reach
LOST = State("lost", error="the node or the actor of the server ended; Ray starts the actor again", code="lost")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a fleet.

    replicas       number of servers
    host           address on which HAProxy listens
    port           its port
    cpus           cores that Ray reserves for each server, and threads of each server
    gpus           GPUs that Ray reserves for each server
    most           most servers that `scale` may reach
    start_seconds  time in which a server must be placed, load its models and become ready
    connections    most client connections
    threads        threads of HAProxy
    config         TOML file with settings of the servers, which only this process reads
    targets        file in which the fleet keeps the metrics addresses of its servers for Prometheus; None: no file
    address        Ray cluster, such as 10.0.0.1:6379; None: RAY_ADDRESS, else the one on this machine, else a new one
    """

    replicas: int = 2
    host: str = "127.0.0.1"
    port: int = 8001
    cpus: float = 1.0
    gpus: float = 0.0
    most: int = 64
    start_seconds: float = 120.0
    connections: int = 4000
    threads: int = 1
    config: Path | None = None
    targets: Path | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Status of a server: its number in HAProxy, the id of its node, its state, and its open connections."""

    slot: int
    node: str
    server: State
    connections: int


@dataclass(slots=True)
class _Server:
    """A server as the fleet knows it. `sent`: the address that HAProxy has; `metrics`: the last address of its
    metrics."""

    slot: int
    actor: Any
    pending: Any
    node: str = ""
    state: State = field(default_factory=lambda: State("starting"))
    sent: str = ""
    metrics: str = ""


def start(repository: str | Path, *, settings: Mapping[str, Any] = sources.NOTHING, **options: Any) -> Fleet:
    """Start a fleet and wait until every server is ready. `settings`: those of `kanserve serve`, which override the
    variables KANSERVE_*; `options`: the fields of `Options`. Raises FleetError, ConfigError for wrong settings, and
    MissingPackage without Ray."""
    fleet = Fleet(repository, settings, checked(Options(**options)))
    with contextlib.ExitStack() as undo:
        undo.callback(fleet.stop)
        fleet.begin()
        undo.pop_all()
    return fleet


def checked(options: Options) -> Options:
    """The options. Raises FleetError if they contradict each other."""
    if not 1 <= options.replicas <= options.most:
        raise FleetError(
            f"replicas is {options.replicas}, expected 1 to {options.most}",
            code="fleet-replicas-invalid",
            hint="choose a number in this range, or raise most",
        )
    if options.cpus < 0 or options.gpus < 0:
        raise FleetError(
            f"cpus is {options.cpus:g} and gpus is {options.gpus:g}, expected no negative number",
            code="fleet-resources-invalid",
            hint="choose the cores and GPUs that one server needs",
        )
    return options


def server_settings(
    repository: str | Path, wanted: Mapping[str, Any], options: Options, host: str = "127.0.0.1"
) -> tuple[dict[str, Any], Settings]:
    """The settings of each server that differ from a default, and all of them. `host`: address of a node. Raises
    ConfigError if they are wrong, and FleetError if they have a setting that the fleet chooses."""
    if owned := [name for name in OWNED if name in wanted]:
        raise FleetError(
            f"the fleet chooses {' and '.join(owned)} of each server",
            code="fleet-setting-owned",
            hint="remove the setting; host and port of the fleet are those of HAProxy",
        )
    fallback = {**DRAIN, "threads": max(1, int(options.cpus))}
    path = Path(repository).absolute()
    ports = {"grpc_port": 0, "metrics_port": 0}
    flags = {"repository": path, **wanted, **ports, "host": host}
    loaded = sources.load(flags, config=options.config, without=fallback)
    values = loaded.settings.model_dump(mode="json")
    origins = loaded.origins.items()
    chosen = {name: values[name] for name, origin in origins if origin != sources.DEFAULT or name in fallback}
    return chosen, loaded.settings


class Targets:
    """File of metrics addresses for `file_sd_configs` of Prometheus: a server has another port at each start."""

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, ""

    def write(self, servers: Mapping[int, tuple[str, str]]) -> None:
        """Replace the file in one step if it has another content. `servers`: HOST:PORT of the metrics and id of the
        node, by number in HAProxy, which is the label `slot`. Raises FleetError; then the next call writes again."""
        groups = [
            {"targets": [metrics], "labels": {"slot": str(slot), "node": node[:8]}}
            for slot, (metrics, node) in sorted(servers.items())
        ]
        text = f"{json_text(groups)}\n"
        if text == self._written:
            return
        try:
            atomic.write(self._path, text.encode())
        except OSError as error:
            raise FleetError(
                f"cannot write {self._path}: {error.strerror}",
                code="fleet-targets-not-written",
                hint="choose a path in a folder that exists and that this user may write",
            ) from error
        self._written = text


class Fleet:
    """A fleet. Use `start`. Its methods may run in any thread, one at a time."""

    def __init__(self, repository: str | Path, settings: Mapping[str, Any], options: Options) -> None:
        self._repository, self._wanted, self.options = Path(repository), dict(settings), options
        self._ray: ModuleType = import_ray("kanserve.contrib.ray.fleet")
        self._connected = False
        self._servers: list[_Server] = []
        self._haproxy: Haproxy | None = None
        self._targets = Targets(options.targets) if options.targets is not None else None
        self._changing = threading.Lock()  # of one change of the fleet at a time
        self._table = threading.Lock()  # of the servers and HAProxy's table
        self._ended = threading.Event()
        self._loop = threading.Thread(target=self._watch, name="kanserve-fleet", daemon=True)
        self._settings: dict[str, Any] = {}
        self._drain_seconds = 0.0

    @property
    def address(self) -> str:
        """HOST:PORT for clients."""
        return f"{self.options.host}:{self.options.port}"

    def begin(self) -> None:
        """Connect to Ray, start all servers and HAProxy. Raises FleetError and ConfigError."""
        if not self._ray.is_initialized():
            # Start a cluster on this machine if there is none and `address` is None.
            address = self.options.address
            try:
                self._ray.init(address=address or "auto")
            except (ConnectionError, ValueError) as error:
                if address is not None or os.environ.get("RAY_ADDRESS"):
                    raise FleetError(
                        f"no Ray cluster responds at {address or os.environ['RAY_ADDRESS']}: {error}",
                        code="ray-unreachable",
                        hint="start the cluster with `ray start`, or correct address",
                    ) from error
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
                os.environ.setdefault("RAY_worker_niceness", "0")  # not 15: the servers are what this machine is for
                self._ray.init(address="local", include_dashboard=False, _node_ip_address=LOOPBACK)
            self._connected = True
        settings = self._adopt(self._repository, self._wanted)
        front = Front(
            self.options.host,
            self.options.port,
            self.options.most + 1,
            tls=settings.tls_cert is not None,
            readiness=settings.transport != "grpcio" and settings.tls_client_ca is None,
            connections=self.options.connections,
            threads=self.options.threads,
        )
        self._haproxy = Haproxy(front)
        self._add(self.options.replicas)
        self._write_targets()
        self._loop.start()

    def redeploy(self, repository: str | Path | None = None, settings: Mapping[str, Any] | None = None) -> None:
        """Replace every server by a new one, one after the other: a new one is ready before an old one drains. None:
        as before. If a new server does not start, the old ones stay, and the method raises FleetError."""
        with self._changing:
            before = self._repository, self._wanted, self._settings, self._drain_seconds
            self._adopt(
                self._repository if repository is None else Path(repository),
                self._wanted if settings is None else settings,
            )
            with contextlib.ExitStack() as undo:
                undo.callback(self._restore, *before)
                for old in list(self._servers):
                    self._add(1)
                    self._remove([old])
                undo.pop_all()

    def _restore(self, repository: Path, wanted: dict[str, Any], settings: dict[str, Any], drain: float) -> None:
        """Use the settings of before a redeploy that failed."""
        self._repository, self._wanted, self._settings, self._drain_seconds = repository, wanted, settings, drain

    def scale(self, replicas: int) -> None:
        """Start or drain servers until there are `replicas`. Raises FleetError."""
        with self._changing:
            self.options = checked(dataclasses.replace(self.options, replicas=replicas))
            more = replicas - len(self._servers)
            if more > 0:
                self._add(more)
            elif more < 0:
                self._remove(self._servers[more:])

    def status(self) -> list[Status]:
        """Status of each server."""
        with self._table:
            if self._haproxy is None:
                return []
            connections = self._haproxy.connections()
            return [Status(s.slot, s.node, s.state, connections.get(s.slot, 0)) for s in self._servers]

    def stop(self) -> None:
        """Drain and end all servers, then HAProxy. Ray goes on if it ran before."""
        self._ended.set()
        with self._changing:
            self._remove(list(self._servers))
            if self._haproxy is not None:
                self._haproxy.stop(1.0)
                self._haproxy = None
        if self._loop.is_alive():
            self._loop.join()
        with contextlib.suppress(FleetError):
            self._write_targets()
        if self._connected:
            self._ray.shutdown()

    def _adopt(self, repository: Path, wanted: Mapping[str, Any]) -> Settings:
        """Use these settings for new servers."""
        nodes = [str(node["NodeManagerAddress"]) for node in self._ray.nodes() if node["Alive"]]
        host = next((node for node in nodes if not is_loopback(node)), "127.0.0.1")
        chosen, settings = server_settings(repository, wanted, self.options, host)
        self._repository, self._wanted, self._settings = repository, dict(wanted), chosen
        waits = (settings.drain_delay_seconds, settings.drain_reject_seconds, settings.drain_grace_seconds)
        self._drain_seconds = sum(waits)
        return settings

    def _add(self, count: int) -> None:
        """Start servers, and add them to HAProxy when all are ready. Raises FleetError if one is not; then none of them
        stays."""
        used = {server.slot for server in self._servers}
        slots = [slot for slot in range(1, self.options.most + 2) if slot not in used][:count]
        actor = self._ray.remote(Replica).options(
            num_cpus=self.options.cpus,
            num_gpus=self.options.gpus,
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_concurrency=4,
        )
        servers = [_Server(slot, actor.remote(self._settings, self._drain_seconds), None) for slot in slots]
        with contextlib.ExitStack() as undo:
            undo.callback(self._end, servers)
            self._wait_ready(servers, time.monotonic() + self.options.start_seconds)
            undo.pop_all()
        with self._table:
            self._servers += servers
            for server in servers:
                self._send(server)

    def _wait_ready(self, servers: Sequence[_Server], end: float) -> None:
        """Wait until the servers are ready. Raises FleetError at a failure, or at the time `end`."""
        for server in servers:
            while server.state.state != "serving":
                self._look(server)
                if server.state.state == "failed":
                    raise FleetError(
                        f"a new server does not start: {server.state.error}",
                        code="fleet-server-failed",
                        hint="correct the settings or the repository on each node; the log of the server has details",
                    )
                if time.monotonic() > end:
                    placed = "placed it, but it is not ready" if server.node else "has not placed it"
                    raise FleetError(
                        f"a new server is not ready after {self.options.start_seconds:g} s: Ray {placed}",
                        code="fleet-server-not-ready",
                        hint="give the cluster cores for one server more than replicas, or raise start_seconds",
                    )
                time.sleep(POLL / 3)

    def _look(self, server: _Server) -> None:
        """Read the last report of a server, and request the next one."""
        if server.pending is not None:
            done, _ = self._ray.wait([server.pending], timeout=0)
            if not done:
                return
            try:
                server.node, server.state = self._ray.get(done[0])
            except self._ray.exceptions.RayError:
                server.state = LOST
            server.metrics = server.state.metrics or server.metrics  # without a server, Prometheus reports up = 0
        server.pending = server.actor.report.remote()

    def _send(self, server: _Server) -> None:
        """Pass the address of a server to HAProxy."""
        assert self._haproxy is not None
        if server.state.address == server.sent:
            return
        if server.state.address:
            host, _, port = server.state.address.rpartition(":")
            self._haproxy.fill(server.slot, host, int(port))
        else:
            self._haproxy.empty(server.slot)
        server.sent = server.state.address

    def _watch(self) -> None:
        """Keep HAProxy, its table and the file of targets up to date until the fleet ends. A failure is written once,
        and does not end the loop."""
        last = ""
        while not self._ended.wait(POLL):
            try:
                with self._table:
                    # Start HAProxy again if it has ended, and pass it the addresses.
                    if self._haproxy is not None and self._haproxy.process.poll() is not None:
                        self._haproxy.stop(0)
                        self._haproxy = Haproxy(self._haproxy.front)
                        for server in self._servers:
                            server.sent = ""
                    for server in self._servers:
                        self._look(server)
                        self._send(server)
                    self._write_targets()
                last = ""
            except (OSError, FleetError) as error:
                if str(error) != last:
                    last = str(error)
                    cause = "" if isinstance(error, FleetError) else "HAProxy does not respond: "
                    print(f"kanserve.contrib.ray.fleet: {cause}{last}; the fleet tries again", file=sys.stderr)

    def _write_targets(self) -> None:
        """Write the metrics address of each server. Raises FleetError."""
        if self._targets is not None:
            self._targets.write({server.slot: (server.metrics, server.node) for server in self._servers})

    def _remove(self, servers: Sequence[_Server]) -> None:
        """Drain and end servers."""
        with self._table:
            for server in servers:
                self._servers.remove(server)
                if self._haproxy is not None:
                    with contextlib.suppress(OSError):  # it has ended, with all connections
                        self._haproxy.drain(server.slot)
        self._end(servers)
        if self._haproxy is not None:
            for server in servers:
                with contextlib.suppress(OSError):
                    self._haproxy.empty(server.slot)

    def _end(self, servers: Sequence[_Server]) -> None:
        """Have the actors drain their servers, and end the actors."""
        stopping = [server.actor.stop.remote() for server in servers if server.state is not LOST]
        if stopping:
            self._ray.wait(
                stopping, num_returns=len(stopping), timeout=self._drain_seconds + self.options.start_seconds
            )
        for server in servers:
            self._ray.kill(server.actor)


PROGRAM = "python -m kanserve.contrib.ray.fleet"
TEXT = """Serve the models of a repository with several servers, which Ray places and restarts, behind HAProxy.

The servers have the settings of the variables KANSERVE_* and of --config. SIGHUP replaces them one after the other by
new servers with the current settings and models. SIGTERM and Ctrl-C drain all servers and end the fleet.
"""


def _run(arguments: Sequence[str]) -> int:
    """Run a fleet until SIGTERM or SIGINT. Raises Failure."""
    default = Options()
    parser = program.Parser(prog=PROGRAM, description=TEXT)
    parser.add_argument("repository", metavar="REPOSITORY", help="folder of models, the same path on each node")
    for name, kind, metavar, text in (
        ("replicas", int, "N", "number of servers"),
        ("host", str, "ADDRESS", "address on which HAProxy listens"),
        ("port", int, "PORT", "its port"),
        ("cpus", float, "N", "cores that Ray reserves for each server, and threads of each"),
        ("gpus", float, "N", "GPUs that Ray reserves for each server"),
        ("start_seconds", float, "SECONDS", "time in which a server must be ready"),
        ("connections", int, "N", "most client connections"),
        ("threads", int, "N", "threads of HAProxy"),
    ):
        value = getattr(default, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=value, metavar=metavar, help=f"{text} (default: {value:})")
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings of the servers (default: none)")
    targets = "file that the fleet keeps up to date for file_sd_configs of Prometheus (default: none)"
    parser.add_argument("--targets", type=Path, metavar="FILE.json", help=targets)
    cluster = "Ray cluster (default: RAY_ADDRESS, else the cluster on this machine, else a new one)"
    parser.add_argument("--address", metavar="HOST:PORT", help=cluster)
    parser.add_argument("--json", action="store_true", help="print one JSON document when the fleet is ready")
    args = vars(program.parse(parser, arguments))
    repository, as_json = args.pop("repository"), args.pop("json")
    output = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints messages of nodes to stdout
        try:
            fleet = start(repository, **args)
        except ConfigError as error:
            raise _failure(error, Exit.WRONG) from error
        signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda arrived, _: signals.put(arrived))
        print(_report(fleet, as_json=as_json), file=output, flush=True)
        while signals.get() == signal.SIGHUP:
            try:
                fleet.redeploy()
            except (Failure, ConfigError) as error:
                print(console.text(PROGRAM, _failure(error)), file=sys.stderr, flush=True)
            else:
                print(_report(fleet, as_json=as_json), file=output, flush=True)
        fleet.stop()
    return Exit.DONE


def _failure(error: Failure | ConfigError, exit_code: int = Exit.FAILED) -> Failure:
    """The error of a command."""
    if isinstance(error, Failure):
        return error
    return FleetError(str(error), code=error.code, hint=error.hint, kind=type(error).__name__, exit_code=exit_code)


def _report(fleet: Fleet, *, as_json: bool) -> str:
    """The address and the servers of a fleet that is ready."""
    servers = fleet.status()
    if as_json:
        return json_text({"state": "serving", "address": fleet.address, "servers": [asdict(s) for s in servers]})
    lines = [f"  {status.server.address}  node {status.node[:8]}" for status in servers]
    return "\n".join([f"{len(servers)} servers behind {fleet.address}", *lines])


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit code."""
    return program.run(PROGRAM, arguments, lambda: _run(arguments))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
