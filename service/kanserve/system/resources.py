"""CPU resources of the process: usable threads, thread priorities, and the current work of each thread.

`os.cpu_count()` tells about the machine, not about the container, and a runtime
that starts 64 threads on a quota of 2 is throttled, not fast.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import math
import os
import resource
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

CGROUP = Path("/sys/fs/cgroup")


P = ParamSpec("P")
T = TypeVar("T")

_running: dict[int, str] = {}
_numbers = itertools.count()


def running() -> dict[int, str]:
    """Current work of the threads of every watched pool: a number for each run, and the name of its pool."""
    return dict(_running)


_ALONE = ThreadPoolExecutor(1, "alone")


async def alone(work: Callable[[], T]) -> T:
    """The result of `work`, which computes only in Python. All such work shares one thread, one job after the other.
    Each job holds the interpreter lock, so several at once would only keep the event loop waiting for it."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_ALONE, context.run, work)


class Pool(ThreadPoolExecutor):
    """Thread pool that reports its current work."""

    def __init__(self, most: int, name: str, nice: int) -> None:
        super().__init__(most, thread_name_prefix=name, initializer=functools.partial(_stand_back, nice))
        self._name = name

    def submit(self, work: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> Future[T]:
        """Submit a function as `Executor.submit` does."""
        return super().submit(_noted, self._name, functools.partial(work, *args, **named))


def _noted(name: str, work: Callable[[], T]) -> T:
    number = next(_numbers)
    _running[number] = name
    try:
        return work()
    finally:
        del _running[number]


def watched(most: int, name: str, nice: int) -> Pool:
    """Pool as `pool` makes it, for executions of graphs, so that the watchdog sees hung ones."""
    return Pool(most, name, nice)


def pool(most: int, name: str, nice: int) -> ThreadPoolExecutor:
    """Threads that compute, `nice` levels behind those that take requests and answer them, as are the threads that
    they start, such as a runtime's. Where computing takes every core, what is refused, and what needs little, is
    answered at once all the same."""
    return ThreadPoolExecutor(most, thread_name_prefix=name, initializer=functools.partial(_stand_back, nice))


def _stand_back(nice: int) -> None:
    if nice:  # Linux counts it per thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + nice)


def budget(cgroup: Path = CGROUP) -> int:
    """min(affinity, ceil(cgroup quota)), at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """CPUs granted by cgroup v2 or v1; None where there is no limit or no cgroup."""
    unified = _words(cgroup / "cpu.max")
    if len(unified) == 2 and unified[0] != "max":
        return _ratio(unified[0], unified[1])
    for controller in ("cpu", "cpu,cpuacct"):
        quota = _words(cgroup / controller / "cpu.cfs_quota_us")
        period = _words(cgroup / controller / "cpu.cfs_period_us")
        if quota and period:
            return _ratio(quota[0], period[0])
    return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _ratio(quota: str, period: str) -> float | None:
    """None for no limit (-1) and for text that is no number."""
    try:
        value = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


# For files that are no connections of callers: models as they load, the log, scrapes, the runtime's own.
RESERVED = 64


def connections(requested: int) -> int:
    """`requested`, or fewer where the system's limit on open files allows no more, at least 1.

    Raises the process' own limit first, as far as the system lets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = requested + RESERVED
    if _below(soft, needed):
        soft = min(needed, hard) if _below(hard, needed) else needed
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, soft - RESERVED) if _below(soft, needed) else requested


def _below(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
