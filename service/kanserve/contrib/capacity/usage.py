"""CPU time and memory of the processes of a server on this machine, from /proc; see proc(5)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
LISTENS = "0A"  # state of a socket in /proc/net/tcp
KIBIBYTE = 1024


def listeners(port: int, proc: Path = PROC) -> frozenset[int]:
    """Processes of this user that listen on a TCP port, and their descendants. Empty if there are none."""
    sockets, owners = set(), set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for pid in _processes(proc):
        with contextlib.suppress(OSError):  # a process of another user, or one that has ended
            for entry in os.scandir(proc / str(pid) / "fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path) in sockets:
                        owners.add(pid)
    return descendants(owners, proc) if owners else frozenset()


def _processes(proc: Path) -> list[int]:
    return [int(entry.name) for entry in os.scandir(proc) if entry.name.isdecimal()]


def _stat(pid: int, proc: Path) -> list[str]:
    """Fields of /proc/PID/stat from the third on; empty if the process has ended."""
    with contextlib.suppress(OSError):
        return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return []


def descendants(pids: Iterable[int], proc: Path = PROC) -> frozenset[int]:
    """These processes, their children, and so on."""
    parents = {pid: int(fields[1]) for pid in _processes(proc) if (fields := _stat(pid, proc))}
    known = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in known} - known:
        known |= more
    return frozenset(known)


def cpu_seconds(pids: Iterable[int], proc: Path = PROC) -> float:
    """CPU seconds that these processes and their ended children have used, in steps of a clock tick (10 ms)."""
    every = (_stat(pid, proc) for pid in pids)
    return sum(sum(map(int, fields[11:15])) for fields in every if fields) / TICKS


def machine_seconds(proc: Path = PROC) -> float:
    """CPU seconds of all programs on this machine since it started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, (proc / "stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS


def peak_bytes(pids: Iterable[int], proc: Path = PROC) -> int:
    """Sum of the largest resident memory of each process since its start."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            match = re.search(r"VmHWM:\s+(\d+)", (proc / str(pid) / "status").read_text())
            total += int(match[1]) * KIBIBYTE if match else 0
    return total


def cores() -> list[int]:
    """Cores on which this process may run."""
    return sorted(os.sched_getaffinity(0))
