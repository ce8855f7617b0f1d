"""Side effects of an export, a server and a request: `python telemetry_probe.py FOLDER CHECKPOINT [loud]`.

With `loud`, the control, the program imports onnxruntime before kanserve can disable its telemetry.
It prints one JSON document. In its own network namespace it can only reach loopback, and the kernel counts
packets without a route.
"""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MAIN = """
import os, sys
from kanserve.cli.main import main
code = main(sys.argv[1:])
print("threads", len(os.listdir("/proc/self/task")), file=sys.stderr)
raise SystemExit(code)
"""
FIRST_LOOKUP = 9  # seconds after its import, onnxruntime 1.32 looks up the host of its telemetry
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def main(folder: Path, checkpoint: Path, loud: bool) -> None:
    """Export, serve, infer, wait for a lookup, stop."""
    owned = int(os.environ["OWN_NAMESPACE"])
    if owned:
        _loopback_up()
    before = without_route()
    command = [sys.executable, "-c", ("import onnxruntime\n" if loud else "") + MAIN]
    models = folder / "models"
    exported = subprocess.run(
        [*command, "export", str(checkpoint), "--repository", str(models), "--name", "digits"],
        capture_output=True,
        text=True,
        check=True,
    )
    facts: dict[str, Any] = {"export_threads": int(exported.stderr.rpartition("threads ")[2])}
    facts |= _served(command, models, before, stop_at_first=loud and bool(owned))
    facts["without_route"] = without_route() - before if owned else None
    print(json.dumps(facts))


def _served(command: list[str], models: Path, before: int, *, stop_at_first: bool) -> dict[str, Any]:
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--drain-delay-seconds", "0"]
    server = subprocess.Popen(
        [*command, "serve", str(models), *ports, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["grpc"]
            rows = models.parent / "rows.json"
            rows.write_text(json.dumps([[0.5] * 64]))
            subprocess.run(
                [*command, "infer", "digits", "--input", str(rows), "--url", address, "--json"],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            opened = [os.readlink(entry) for entry in Path(f"/proc/{server.pid}/fd").iterdir()]
            end = time.monotonic() + FIRST_LOOKUP + (60 if stop_at_first else 3)
            while time.monotonic() < end and not (stop_at_first and without_route() > before):
                time.sleep(0.2)
        finally:
            server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    return {"server_opened": [path for path in opened if path.startswith(os.environ["HOME"])], "server_code": code}


def without_route() -> int:
    """How often this network namespace had no route to a requested address."""
    names, values = Path("/proc/self/net/snmp").read_text().splitlines()[:2]
    return int(dict(zip(names.split(), values.split(), strict=True))["OutNoRoutes"])


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            control.connect(("127.0.0.1", 9))
        except OSError:
            assert without_route() == 1, "the kernel does not count what has no route"
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), loud=sys.argv[3:] == ["loud"])
