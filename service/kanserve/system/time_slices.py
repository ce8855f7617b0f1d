"""Time slices of threads, so that threads that handle requests respond quickly while other threads compute.

Linux 6.12 and later lets a waking thread with a short slice interrupt a running one with a longer slice. All threads
still get the same share of CPU time, in contrast to a niceness: compute threads do not fall behind other programs. A
thread inherits the slice of the thread that starts it. Earlier kernels and other systems ignore the request.

The layout is `struct sched_attr` of sched_setattr(2). For a thread with the policy SCHED_OTHER, its field sched_runtime
is the slice in nanoseconds, 0.1 ms to 100 ms.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import struct
import threading

SHORT = 100e-6  # seconds; the smallest slice. The kernel's default is 0.7 to 2.8 ms
NUMBERS = {"x86_64": 314, "aarch64": 274}  # of the system call sched_setattr
ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, niceness, priority, runtime, deadline, period


def short() -> bool:
    """Request a short slice for the current thread. Returns whether the system accepts the request; a kernel without
    slices accepts it too."""
    return _request(SHORT)


def usual() -> bool:
    """Request the default slice for the current thread. Returns whether the system accepts the request."""
    return _request(0.0)


def _request(seconds: float) -> bool:
    """Set the slice of the current thread; 0: the default. The niceness stays, because the system call sets both. A
    thread with another policy keeps it and gets no slice: an operator has chosen it."""
    number = NUMBERS.get(platform.machine())
    if number is None or not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    attributes = ATTRIBUTES.pack(ATTRIBUTES.size, os.SCHED_OTHER, 0, niceness, 0, round(seconds * 1e9), 0, 0)
    return bool(_system().syscall(number, 0, attributes, 0) == 0)


@functools.cache
def _system() -> ctypes.CDLL:
    """The C library. Opening it takes 0.1 ms, and each load of a model starts threads."""
    return ctypes.CDLL(None)
