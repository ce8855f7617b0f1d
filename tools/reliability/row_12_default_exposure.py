"""Default exposure: a start without flags opens only two loopback ports, without administrative methods."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc

from kanserve.pb import grpc_service_pb2 as pb
from tests.support import toy_model
from tests.support.command_line import CLEAN, COMMAND
from tests.support.server_process import INFERENCE
from tests.support.wait import until
from tools.reliability.base import NotRun, Outcome, Row, Scale, suite

DOCUMENTED = {("127.0.0.1", 8001), ("127.0.0.1", 8002)}
LISTENS = "0A"  # of /proc/net/tcp
ADMINISTERS = (
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "grpc.channelz.v1.Channelz/GetServers",
    "grpc.channelz.v1.Channelz/GetTopChannels",
    "grpc.admin.v1.Admin/Anything",
    f"{INFERENCE.strip('/')}/TraceSetting",
    f"{INFERENCE.strip('/')}/LogSettings",
    *(
        f"{INFERENCE.strip('/')}/{where}SharedMemory{verb}"
        for where in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    ),
)


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """One start: each socket that the process listens on, and the responses of the port."""
    if taken := [port for _, port in sorted(DOCUMENTED) if _answers(port)]:
        raise NotRun(f"another process uses port {taken[0]}")
    with tempfile.TemporaryDirectory() as name:
        toy_model.write(Path(name, "models"))
        # The transport is no flag of exposure: without one it is asgi where that is installed.
        with _started(Path(name), *(() if transport == "asgi" else ("--transport", transport))) as process:
            result = _listening(process.pid)
            with grpc.insecure_channel("127.0.0.1:8001", [("grpc.use_local_subchannel_pool", 1)]) as channel:
                answered = {method: _code(channel, method) for method in ADMINISTERS}
                load = pb.RepositoryModelLoadRequest(model_name="toy").SerializeToString()
                loaded = _code(channel, f"{INFERENCE.strip('/')}/RepositoryModelLoad", load)
    wrong = {method: code for method, code in answered.items() if code != "UNIMPLEMENTED"}
    figures = {
        "listening": ", ".join(f"{host}:{port}" for host, port in sorted(result)),
        "beyond what is documented": len(result - DOCUMENTED),
        "administering methods": len(answered) + 1,
        "not refused": len(wrong) + (loaded == "OK"),
    }
    return Outcome(figures, result == DOCUMENTED and not wrong and loaded != "OK", len(answered) + 1, str(wrong or ""))


@contextlib.contextmanager
def _started(folder: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("w") as log:
        command = [*COMMAND, "serve", str(folder / "models"), *flags]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=CLEAN) as process:
            try:
                until(lambda: process.poll() is not None or "server_ready" in (folder / "log").read_text())
                assert process.poll() is None, (folder / "log").read_text()
                yield process
            finally:
                process.kill()


def _answers(port: int) -> bool:
    with socket.socket() as peer:
        return peer.connect_ex(("127.0.0.1", port)) == 0


def _listening(pid: int) -> set[tuple[str, int]]:
    """Sockets of a process that accept connections or datagrams, by address and port."""
    inodes = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(entry.path))
    result = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            local, state, inode = parts[1], parts[3], parts[9]
            if f"socket:[{inode}]" in inodes and (state == LISTENS or table.startswith("udp")):
                result.add(_address(local))
    return result


def _address(text: str) -> tuple[str, int]:
    """As the kernel writes it: each 32-bit word in the machine's own order."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words)).removeprefix("::ffff:"), int(port, 16)


def _code(channel: grpc.Channel, method: str, data: bytes = b"") -> str:
    try:
        channel.unary_unary(f"/{method}")(data, timeout=60)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


ROW = Row(
    number="12",
    title="Default exposure",
    method="A server starts without flags. The test reads its sockets from /proc and calls administrative methods.",
    goal=(
        "It listens on 127.0.0.1 only, for gRPC and metrics. Administration, reflection and channelz are UNIMPLEMENTED."
    ),
    result="Listens on {listening}. {not refused} of {administering methods} administrative methods accepted.",
    wire=True,
    run=run,
)
test_row = suite(ROW)
