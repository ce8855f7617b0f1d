"""Memory tuning of Python and glibc: garbage collection pauses, and the return of freed memory to the system."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import threading
from pathlib import Path

from kanserve.errors import LoadError, LoadReason

PAUSE, LATEST = 1.0, 32.0  # seconds between two looks, and at most between two returns of pages
GROWN = 2**23  # bytes more than there were, after which pages are returned at once
PAGE = os.sysconf("SC_PAGE_SIZE")
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
SET = getattr(ctypes.CDLL(None), "mallopt", None)  # nor this
ARENAS, MOST_ARENAS = -8, 2  # glibc's M_ARENA_MAX: by default eight for each core
YOUNG = 5000  # objects more than before, for a look at the youngest


def share() -> None:
    """Have threads share a few arenas. glibc would give each its own, which keeps what was freed in it: at five times
    what can be answered a server grew by 11 % and not by 5, at the same rate."""
    if SET is not None and "MALLOC_ARENA_MAX" not in os.environ:
        SET(ARENAS, MOST_ARENAS)


def settle() -> None:
    """Exclude all loaded objects from garbage collection. A full collection of a server took 40 ms on two cores, in
    which it responded to no request. Requests leave no cycles, so young objects are collected less often than by
    default."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def thaw() -> None:
    """Look at everything once: what was settled and is in a cycle would stay for ever otherwise. Takes its time."""
    gc.unfreeze()
    settle()


def trim() -> None:
    """Give freed pages back; blocks."""
    if TRIM is not None:
        TRIM(0)


async def give_back() -> None:
    """Return freed memory of glibc to the system, until cancelled. Such memory remains after large messages, and
    after connections that were reset by the thousand. The function returns at once without glibc or /proc."""
    with contextlib.suppress(FileNotFoundError):
        if TRIM is not None:
            await _keep(os.open("/proc/self/statm", os.O_RDONLY))


async def _keep(statm: int) -> None:
    """Return memory repeatedly, at growing intervals, because little can be returned during a burst. `statm` is
    opened once, because a process may have no descriptors left."""
    try:
        low, wait, left = _resident(statm), LATEST, LATEST
        while True:
            await asyncio.sleep(PAUSE)
            now, left = _resident(statm), left - PAUSE
            if now >= low + GROWN:
                low, wait, left = now, PAUSE, 0.0
            low = min(low, now)
            if left <= 0:
                # In a thread of its own: it may take milliseconds, for which nobody has to wait.
                threading.Thread(target=trim, name="trim", daemon=True).start()
                wait = left = min(2 * wait, LATEST)
    finally:
        os.close(statm)


def _resident(statm: int) -> int:
    """Bytes in memory; proc(5)."""
    return int(os.pread(statm, 128, 0).split()[1]) * PAGE


FACTOR = 5  # of the files: their bytes here and, while they are tried, in another process, and what the runtime makes
# of them there; measured on graphs of 300 and 900 MiB: 4.7 and 5.1
CGROUP, PROC = Path("/sys/fs/cgroup"), Path("/proc")


def check(size: int, cgroup: Path = CGROUP, proc: Path = PROC) -> None:
    """Raises LoadError where files of so many bytes would take more memory than is free."""
    free = available(cgroup, proc)
    if free is not None and FACTOR * size > free:
        raise LoadError(
            LoadReason.MEMORY,
            f"{size} bytes of files may take {FACTOR} times as much memory, and {free} bytes are free: "
            "give the server more, or serve fewer versions (version_policy)",
        )


def available(cgroup: Path = CGROUP, proc: Path = PROC) -> int | None:
    """Bytes that this process may still take: of the machine, and of its cgroup, whose file cache can be taken back.
    None where nobody tells."""
    known = [free for free in (_machine(proc), _group(cgroup)) if free is not None]
    return max(0, min(known)) if known else None


def _machine(proc: Path) -> int | None:
    kilobytes = _table(proc / "meminfo").get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _group(cgroup: Path) -> int | None:
    most, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if most is None or used is None:
        return None
    return most - used + _table(cgroup / "memory.stat").get("inactive_file", 0)


def _number(path: Path) -> int | None:
    """None for "max", which is no limit, and for a file that is not there."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _table(path: Path) -> dict[str, int]:
    with contextlib.suppress(OSError):
        rows = (line.split() for line in path.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
    return {}
