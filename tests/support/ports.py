"""Ports for servers whose port must be known before they start."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

LOWEST, BELOW = 10_000, 32_768  # the kernel's own ports begin at 32768 by default
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port of 127.0.0.1 below those that the kernel assigns, so that no other process gets it from the kernel
    before the server binds it. It is random, because other workers of pytest choose ports too."""
    below = int(RANGE.read_text().split()[0]) if RANGE.exists() else BELOW
    while True:
        port = LOWEST + secrets.randbelow(max(below, BELOW) - LOWEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
