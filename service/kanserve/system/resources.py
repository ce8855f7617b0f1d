"""CPU and memory of the process: usable threads, their priorities and time slices, garbage collection, returned memory.

`os.cpu_count()` returns the CPUs of the machine, not of the container. A runtime with 64 threads and a quota of 2 is
throttled.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import functools
import gc
import itertools
import math
import os
import platform
import resource
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from kanserve.errors import LoadError, LoadReason

PAUSE, LATEST = 1.0, 32.0  # seconds between two checks, and at most between two returns of pages
GROWN = 2**23  # growth in bytes after which pages are returned immediately
PAGE = os.sysconf("SC_PAGE_SIZE")
LIBRARY = ctypes.CDLL(None)  # of C
TRIM, SET = (getattr(LIBRARY, name, None) for name in ("malloc_trim", "mallopt"))  # musl does not have them
NAME_THREAD = getattr(LIBRARY, "prctl", None)  # only Linux has it
PR_SET_NAME = 15  # of prctl(2): name of the current thread
ARENAS, MOST_ARENAS = -8, 2  # glibc's M_ARENA_MAX: by default eight for each core
YOUNG = 5000  # new objects until a collection of the youngest


def share() -> None:
    """Have threads share a few arenas. glibc would give each thread a separate arena, which keeps freed memory. Then a
    server grew by 11% instead of 5% at five times its capacity, at the same rate."""
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
    """Collect all objects once, also those that `settle` excluded, so that their cycles are freed. This takes time."""
    gc.unfreeze()
    settle()


def trim() -> None:
    """Return freed pages to the system; blocks."""
    if TRIM is not None:
        TRIM(0)


async def give_back() -> None:
    """Return freed memory of glibc to the system, until cancelled. Such memory remains after large messages, and
    after connections that were reset by the thousand. The function returns at once without glibc or /proc."""
    try:  # opened once, because a process may have no descriptors left
        statm = os.open("/proc/self/statm", os.O_RDONLY) if TRIM is not None else -1
    except FileNotFoundError:
        return
    if statm < 0:
        return
    try:  # at growing intervals, because little can be returned during a burst
        low, wait, left = _resident(statm), LATEST, LATEST
        while True:
            await asyncio.sleep(PAUSE)
            now, left = _resident(statm), left - PAUSE
            if now >= low + GROWN:
                low, wait, left = now, PAUSE, 0.0
            low = min(low, now)
            if left <= 0:
                # In a separate thread: it may take milliseconds, which must not block the event loop.
                threading.Thread(target=trim, name="trim", daemon=True).start()
                wait = left = min(2 * wait, LATEST)
    finally:
        os.close(statm)


def _resident(statm: int) -> int:
    """Bytes of resident memory; see proc(5)."""
    return int(os.pread(statm, 128, 0).split()[1]) * PAGE


FACTOR = 5  # of the files: their bytes here and in the load-check process, and the memory of the runtime there;
# measured on graphs of 300 and 900 MiB: 4.7 and 5.1
CGROUP, PROC = Path("/sys/fs/cgroup"), Path("/proc")


def check(size: int, cgroup: Path = CGROUP, proc: Path = PROC) -> None:
    """Raises LoadError if files of `size` bytes would take more memory than is free."""
    free = available(cgroup, proc)
    if free is not None and FACTOR * size > free:
        raise LoadError(
            LoadReason.MEMORY,
            f"{size} bytes of files may take {FACTOR} times as much memory, but only {free} bytes are free",
            code="load-out-of-memory",
            hint="give the server more memory, or serve fewer versions (version_policy)",
        )


def available(cgroup: Path = CGROUP, proc: Path = PROC) -> int | None:
    """Bytes of memory that this process may still take, of the machine, of its cgroup and of the parents of that. Their
    file cache counts as free. None if unknown."""
    folders = _groups("memory", cgroup, proc)
    machine = _table(proc / "meminfo").get("MemAvailable:")
    known = [] if machine is None else [machine * 1024]
    for folder in folders:
        known += _free(folder, "memory.max", "memory.current", "inactive_file")
        known += _free(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")  # of v1
    return max(0, min(known)) if known else None


def _groups(controller: str, cgroup: Path, proc: Path) -> list[Path]:
    """Folders of the cgroup of this process and of its parents, in v2 and in v1; a limit of each of them applies. In a
    container, the path may be one of the host. Then only the root exists, which is the cgroup of the container."""
    own: list[Path] = []
    for line in _words(proc / "self" / "cgroup"):
        names, _, path = line.partition(":")[2].partition(":")  # no names for v2
        if ".." not in path and {controller, ""} & set(names.split(",")):
            folder = cgroup / names / path.strip("/")
            own += [folder, *folder.parents]
    roots = (cgroup, cgroup / controller, cgroup / "cpu,cpuacct")
    return list(dict.fromkeys((*(folder for folder in own if folder.is_relative_to(cgroup)), *roots)))


def _free(folder: Path, limit: str, usage: str, cached: str) -> Iterator[int]:
    """Free bytes of a cgroup; nothing without a limit."""
    most, used = _number(folder / limit), _number(folder / usage)
    if most is not None and used is not None:
        yield most - used + _table(folder / "memory.stat").get(cached, 0)


def _number(path: Path) -> int | None:
    """The number in a file. None for "max", which means unlimited, and for a missing file."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _table(path: Path) -> dict[str, int]:
    with contextlib.suppress(OSError):
        rows = (line.split() for line in path.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
    return {}


SWITCH, USUAL_SWITCH = 1e-4, sys.getswitchinterval()  # seconds; Python's default is 5 ms
YIELD = 1e-4  # seconds; a waiting thread is woken in less
_quick = itertools.count()  # contexts so far, to restore the interval at the end of the last one
_open: set[int] = set()


@contextlib.contextmanager
def quick_switches() -> Iterator[None]:
    """Context in which a thread waits at most `SWITCH` for the interpreter lock; for the event loop. The work of a load
    passes between the loop and threads a dozen times. Each time, a busy loop would keep the lock for 5 ms."""
    number = next(_quick)
    _open.add(number)
    sys.setswitchinterval(SWITCH)
    try:
        yield
    finally:
        _open.discard(number)
        if not _open:
            sys.setswitchinterval(USUAL_SWITCH)


# Time slices: threads that handle requests respond quickly while other threads compute. Linux 6.12 and later lets a
# waking thread with a short slice interrupt a running one with a longer slice. All threads still get the same share of
# CPU time, in contrast to a niceness: compute threads do not fall behind other programs. A thread inherits the slice of
# the thread that starts it. Earlier kernels and other systems ignore the request. The layout is `struct sched_attr` of
# sched_setattr(2). For a thread with the policy SCHED_OTHER, its field sched_runtime is the slice in nanoseconds,
# 0.1 ms to 100 ms.
SHORT = 100e-6  # seconds; the smallest slice. The kernel's default is 0.7 to 2.8 ms
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # of the system call sched_setattr
SLICE_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, niceness, priority, runtime, deadline, period


def short_slice() -> bool:
    """Request a short slice for the current thread. Returns whether the system accepts the request; a kernel without
    slices accepts it too."""
    return _request_slice(SHORT)


def usual_slice() -> bool:
    """Request the default slice for the current thread. Returns whether the system accepts the request."""
    return _request_slice(0.0)


def _request_slice(seconds: float) -> bool:
    """Set the slice of the current thread; 0: the default. The niceness stays, because the system call sets both. A
    thread with another policy keeps it and gets no slice: an operator has chosen it."""
    number = SCHED_SETATTR.get(platform.machine())
    if number is None or not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    values = (SLICE_ATTRIBUTES.size, os.SCHED_OTHER, 0, niceness, 0, round(seconds * 1e9), 0, 0)
    attributes = SLICE_ATTRIBUTES.pack(*values)
    return bool(LIBRARY.syscall(number, 0, attributes, 0) == 0)


P = ParamSpec("P")
T = TypeVar("T")

_running: dict[int, str] = {}
_numbers = itertools.count()


def running() -> dict[int, str]:
    """Current work of the threads of every watched pool: a number for each run, and the name of its pool."""
    return dict(_running)


_ALONE = ThreadPoolExecutor(1, "alone", initializer=usual_slice)


async def alone(work: Callable[[], T]) -> T:
    """The result of `work`, which computes only in Python. All such work shares one thread, one job after the other.
    Each job holds the interpreter lock, so several jobs at the same time would only delay the event loop."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_ALONE, context.run, work)


class WatchedPool(ThreadPoolExecutor):
    """Pool as `pool` makes it, for executions of graphs, so that the watchdog sees hung ones."""

    def __init__(self, most: int, name: str, nice: int) -> None:
        super().__init__(most, thread_name_prefix=name, initializer=functools.partial(_stand_back, nice))
        self._name = name

    def submit(self, work: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> Future[T]:
        """Submit a function as `Executor.submit` does."""

        def noted() -> T:
            number = next(_numbers)
            _running[number] = self._name
            try:
                return work(*args, **named)
            finally:
                del _running[number]

        return super().submit(noted)


def pool(most: int, name: str, nice: int) -> ThreadPoolExecutor:
    """Compute threads with the default time slice, `nice` levels below the priority of the threads that handle
    requests. The threads that they start, such as those of a runtime, have both too."""
    return ThreadPoolExecutor(most, thread_name_prefix=name, initializer=functools.partial(_stand_back, nice))


def single_thread(name: str) -> ThreadPoolExecutor:
    """Single thread for short work in Python, with the priority and the time slice of the event loop. `name`: at most
    15 characters; the system shows it too.

    The event loop waits while another thread has the interpreter lock. If that thread had a lower priority, other
    programs would run instead of it, and the loop would wait for them too (priority inversion)."""

    def share_priority() -> None:
        short_slice()
        if NAME_THREAD is not None:
            NAME_THREAD(PR_SET_NAME, name.encode(), 0, 0, 0)

    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=share_priority)


def yield_lock() -> None:
    """Pass the interpreter lock to a thread that waits for it, such as the event loop. A thread that only releases the
    lock takes it again before the waiting thread runs, so this function sleeps for `YIELD` seconds."""
    time.sleep(YIELD)


def separate(loop: asyncio.AbstractEventLoop, most: int, nice: int) -> None:
    """Prefer the current thread, which runs the event loop, and threads that it starts directly, such as those of a
    transport: they get a short time slice. The default executor of the loop gets compute threads. So rejections and
    small requests stay fast when the compute threads use all cores."""
    short_slice()
    loop.set_default_executor(pool(most, "work", nice))


def _stand_back(nice: int) -> None:
    usual_slice()
    if nice:  # Linux counts it per thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + nice)


def budget(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Usable CPUs: min(affinity, ceil(cgroup quota)), at least 1. A quota of a parent of the cgroup applies too."""
    allowed = len(os.sched_getaffinity(0))
    quotas = (_quota(folder) for folder in _groups("cpu", cgroup, proc))
    return max(1, min(allowed, *(math.ceil(quota) for quota in quotas if quota is not None), allowed))


def _quota(folder: Path) -> float | None:
    """CPUs granted by a cgroup of v2 or v1; None without a limit."""
    words = _words(folder / "cpu.max")
    if len(words) != 2 or words[0] == "max":
        words = [*_words(folder / "cpu.cfs_quota_us")[:1], *_words(folder / "cpu.cfs_period_us")[:1]]
    try:
        quota, period = map(int, words)
        value = quota / period
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None  # -1: unlimited


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


# For files that are not connections of clients: models during a load, the log, scrapes, files of the runtime.
RESERVED = 64


def connections(requested: int) -> int:
    """`requested`, or fewer if the limit of open files allows no more, at least 1.

    The function raises the soft limit of the process first, as far as the system permits.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = requested + RESERVED
    if _below(soft, needed):
        soft = min(needed, hard) if _below(hard, needed) else needed
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, soft - RESERVED) if _below(soft, needed) else requested


def _below(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
