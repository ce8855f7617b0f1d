"""Whether the ports can be listened on: free, allowed, and of an address that this machine has."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from kanserve.config import Settings
from kanserve.diagnosis.finding import Finding, ok, problem

ADVICE = {
    errno.EADDRINUSE: "end what listens there (`ss -ltnp`), or take another port",
    errno.EACCES: "take a port from 1024 on, or give the process the right to bind it",
    errno.EADDRNOTAVAIL: "name an address of this machine (`ip addr`)",
}


def look(settings: Settings) -> Iterator[Finding]:
    """One finding a port. Each is bound for a moment; nobody is answered there."""
    ports = [("gRPC port", settings.host, settings.grpc_port)]
    if settings.http_port is not None:
        ports.append(("HTTP port", settings.host, settings.http_port))
    ports.append(("metrics port", settings.metrics_host, settings.metrics_port))
    taken: dict[tuple[str, int], str] = {}
    for name, host, port in ports:
        first = taken.setdefault((host, port), name)
        if port and first != name:
            yield problem(name, f"{host}:{port} is the {first} already", "take another port")
        else:
            yield _tried(name, host, port)


def _tried(name: str, host: str, port: int) -> Finding:
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: a port of calls just ended
            probe.bind((bare, port))
            probe.listen(1)
    except OSError as error:
        text = f"{host}:{port} cannot be listened on: {error.strerror or error}"
        return problem(name, text, ADVICE.get(error.errno or 0, "name another address"))
    return ok(name, f"{host}:{port} is free" if port else f"any free port of {host}")
