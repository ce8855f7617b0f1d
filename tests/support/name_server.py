"""DNS server on loopback with one name, whose addresses a test changes. gRPC uses it for dns://SERVER/NAME:PORT."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

NAME = "replicas.test"
A, IN, TTL = 1, 1, 1
HEAD = struct.Struct(">6H")  # id, flags, and the counts of questions, answers, authorities, additional records
ANSWERED = 0x8580  # response, authoritative, recursion as requested, no error
POINTER = 0xC00C  # to the name of the question


@dataclass(slots=True)
class NameServer:
    """Running server. `addresses`: IPv4 addresses of NAME. `asked`: number of requests for them."""

    port: int
    addresses: list[str] = field(default_factory=list)
    asked: int = 0

    def target(self, port: int) -> str:
        """The address for a client, with this server as its resolver."""
        return f"dns://127.0.0.1:{self.port}/{NAME}:{port}"


@contextlib.contextmanager
def resolving(*addresses: str) -> Iterator[NameServer]:
    """A name server that first has these addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        names = NameServer(listener.getsockname()[1], list(addresses))
        thread = threading.Thread(target=_answer, args=(listener, names), daemon=True)
        thread.start()
        try:
            yield names
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", listener.getsockname())
            thread.join(60)


def _answer(listener: socket.socket, names: NameServer) -> None:
    while True:
        query, client = listener.recvfrom(512)
        if not query:
            return
        end = query.index(0, HEAD.size) + 5  # of the question: name, type, class
        question, (kind,) = query[HEAD.size : end], struct.unpack(">H", query[end - 4 : end - 2])
        found = list(names.addresses) if kind == A else []
        names.asked += kind == A
        records = b"".join(struct.pack(">3HIH", POINTER, A, IN, TTL, 4) + socket.inet_aton(each) for each in found)
        head = HEAD.pack(int.from_bytes(query[:2], "big"), ANSWERED, 1, len(found), 0, 0)
        listener.sendto(head + question + records, client)
