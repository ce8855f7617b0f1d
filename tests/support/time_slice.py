"""Attributes of a thread that Python does not show: its time slice."""

from __future__ import annotations

import ctypes
import platform

from kanserve.system import slices

NUMBER = {"x86_64": 315, "aarch64": 275}.get(platform.machine())  # of the system call sched_getattr


def time_slice(thread: int) -> float | None:
    """Seconds of the slice of a thread; 0: the current one. None if the system does not know slices."""
    if NUMBER is None:
        return None
    data = ctypes.create_string_buffer(slices.ATTRIBUTES.size)
    if ctypes.CDLL(None).syscall(NUMBER, thread, data, len(data), 0) != 0:
        return None
    return slices.ATTRIBUTES.unpack(data.raw)[5] / 1e9 or None
