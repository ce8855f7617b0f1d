"""Proxy of TCP connections on loopback. Each connection goes to the server that is the target when it opens."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Balancer:
    """Running proxy. `target`: port of the server for new connections; `targets`: that of each connection so far."""

    port: int
    target: int
    targets: list[int] = field(default_factory=list)


@contextlib.contextmanager
def balancing(target: int) -> Iterator[Balancer]:
    """A proxy that first connects to this port."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        balancer = Balancer(listener.getsockname()[1], target)

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                    server = socket.create_connection(("127.0.0.1", balancer.target))
                except OSError:
                    return
                balancer.targets.append(balancer.target)
                threading.Thread(target=_carry, args=(client, server), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield balancer
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(60)


def _carry(client: socket.socket, server: socket.socket) -> None:
    with client, server:
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
