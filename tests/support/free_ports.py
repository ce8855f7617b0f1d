"""Free ports of loopback for programs that take a number and do not choose a port."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator

FIRST, LAST = 10_000, 16_000  # below the ports of `ray_cluster`, and below those that the kernel gives out
WORKERS = 10  # of pytest-xdist; each has its own part of the range
_LEFT: list[int] = []  # of this process, in random order; it gives each number once before it repeats one


def free_ports(*names: str) -> dict[str, int]:
    """A different free port for each name. Between this call and the start of the program, no other socket gets one of
    them: the kernel gives out higher ports, and other workers of pytest have other parts of the range."""
    with contextlib.ExitStack() as stack:
        return {name: next(number for number in _numbers() if _binds(stack, number)) for name in names}


def _numbers() -> Iterator[int]:
    """Numbers of the part of this worker. Raises RuntimeError if all of them are in use."""
    size = (LAST - FIRST) // WORKERS
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    for _ in range(size):
        if not _LEFT:
            _LEFT.extend(random.SystemRandom().sample(range(FIRST + worker * size, FIRST + (worker + 1) * size), size))
        yield _LEFT.pop()
    raise RuntimeError(f"none of {size} ports from {FIRST + worker * size} is free")


def free_port() -> int:
    """One free port; see `free_ports`."""
    return free_ports("")[""]


def _binds(stack: contextlib.ExitStack, number: int) -> bool:
    """Whether a port is free. It stays bound until the end of the context."""
    each = stack.enter_context(socket.socket())
    try:
        each.bind(("127.0.0.1", number))
    except OSError:
        return False
    return True
