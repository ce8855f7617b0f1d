"""The servers that the benchmark measures, and the command that starts each of them.

TRITONSERVER=PATH                      a tritonserver with an onnxruntime backend (TRITON_BACKENDS names its folder).
                                       It serves the exported folder, and a copy with dynamic batching
KSERVE_PYTHON=PATH, MLSERVER_PYTHON=PATH   interpreters in whose environments those servers are
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
START_SECONDS, STOP_SECONDS = 60, 20
# Names in the report, and arguments of bare.py.
BARE = {"no-op grpcio": "noop-grpcio", "no-op asgi": "noop-asgi", "grpc.aio handler": "handler"}
PORTABLE, TLS = "kanserve asgi, portable graph", "kanserve asgi, TLS"
TRITONS = ("triton", "triton, dynamic batching")
OURS = {"grpcio": ("--transport", "grpcio"), "asgi": ("--transport", "asgi")}


@dataclass(frozen=True)
class Contestant:
    """One server to measure. `flags`: perf_analyzer options in addition to the address."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Running:
    """A started server that accepts requests. `port`: its gRPC port."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """User and kernel time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB that lie in memory."""
        words = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(words[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def contestants(repository: Path, model: str, folder: Path) -> list[Contestant]:
    """Systems that can run on this machine. In a command, PORT stands for the gRPC port. `folder` contains cert.pem
    and key.pem; the function writes a second repository for Triton there."""
    serve = _serve(repository)
    systems = [_bare(name, repository, model) for name in BARE]
    systems += [Contestant(f"kanserve {name}", (*serve, *flags)) for name, flags in OURS.items()]
    systems.append(Contestant(PORTABLE, (*serve, *OURS["asgi"], "--no-kernel")))
    systems.append(_secure(TLS, (*serve, *OURS["asgi"]), folder))
    if "TRITONSERVER" in os.environ:
        systems.append(_triton(TRITONS[0], repository))
        systems.append(_triton(TRITONS[1], _batched(repository, model, folder / "batched")))
    return systems


def production(repository: Path, model: str, folder: Path) -> list[Contestant]:
    """The servers of the production matrix, kanserve with default settings. `folder` contains tokens.toml too."""
    serve, tokens = _serve(repository), ("--tokens", str(folder / "tokens.toml"))
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}  # which nothing listens on
    systems = [
        Contestant("kanserve plain", serve),
        Contestant("kanserve tokens", (*serve, *tokens)),
        _secure("kanserve tls", (*serve, *tokens), folder),
        Contestant("kanserve log", (*serve, "--access-log", "all", "--log-format", "json")),
        Contestant("kanserve traces", (*serve, "--traces"), sampler | collector),
        _bare("no-op grpcio", repository, model),
    ]
    return [*systems, _triton(TRITONS[0], repository)] if "TRITONSERVER" in os.environ else systems


def _serve(repository: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "kanserve", "serve", str(repository), "--grpc-port", "PORT", "--metrics-port", "0")


def _secure(name: str, command: tuple[str, ...], folder: Path) -> Contestant:
    """The server with TLS, and perf_analyzer with its certificate."""
    secret = ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))
    trusted = ("--ssl-grpc-use-ssl", "--ssl-grpc-root-certifications-file", str(folder / "cert.pem"))
    return Contestant(name, (*command, *secret), flags=trusted)


def _bare(name: str, repository: Path, model: str) -> Contestant:
    return Contestant(name, (sys.executable, str(HERE / "bare.py"), BARE[name], "PORT", str(repository), model))


def rivals(repository: Path, model: str) -> list[Contestant]:
    """Python servers of the same protocol, where an environment with them is named."""
    path = str(repository / model / "1" / "model.onnx")
    return [
        Contestant(kind, (os.environ[variable], str(HERE / f"with_{kind}.py"), "PORT", path, model))
        for kind, variable in (("kserve", "KSERVE_PYTHON"), ("mlserver", "MLSERVER_PYTHON"))
        if variable in os.environ
    ]


def _batched(repository: Path, model: str, copy: Path) -> Path:
    """A copy of the repository whose model has Triton's dynamic batching with its default settings."""
    if not copy.exists():
        shutil.copytree(repository, copy)
        config = copy / model / "config.pbtxt"
        text = config.read_text()
        if "dynamic_batching" not in text:
            config.write_text(f"{text}\ndynamic_batching {{}}\n")
    return copy


def _triton(name: str, repository: Path) -> Contestant:
    command = [os.environ["TRITONSERVER"], f"--model-repository={repository}", "--grpc-port=PORT"]
    command += ["--allow-http=false", "--allow-metrics=false"]
    if "TRITON_BACKENDS" in os.environ:
        command.append(f"--backend-directory={os.environ['TRITON_BACKENDS']}")
    return Contestant(name, tuple(command))


def free_port() -> int:
    """A loopback port that was free at the time of the call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(contestant: Contestant, log: Path) -> Iterator[Running]:
    """Start, wait for the port, stop. Raises RuntimeError with the end of the log if the port does not open."""
    port = free_port()
    command = [part.replace("PORT", str(port)) for part in contestant.command]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", **contestant.environment}
    with log.open("wb") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines, env=environment)
    try:
        _wait(process, port, contestant, log)
        yield Running(port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, contestant: Contestant, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            time.sleep(1.5)  # the port is open before the models are ready
            return
        time.sleep(0.1)
    raise RuntimeError(f"{contestant.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
