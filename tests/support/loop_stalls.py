"""Stalls of the event loop of a server under test, and the time slice of its threads."""

import asyncio
import ctypes
import json
import os
import platform
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from kanserve.system import resources

TURN = 0.005  # seconds between two turns of an idle loop
WORTH = 0.02  # seconds of `cpu` or `wall` from which a stall has a line
LOOK = 0.02  # seconds between two samples of the loop's stack
FRAMES = 12
LIMIT = 0.25  # seconds of `cpu` that a test may cause without a written reason


@dataclass(frozen=True, slots=True)
class Stall:
    """Seconds, and the loop's stack during the stall, "" if no sample has it."""

    cpu: float
    wall: float
    at: str


class Turns:
    """Writes the stalls of a loop to a file. The thread of the loop creates it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        self._loop, self._thread = loop, threading.get_ident()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._cpu, self._wall, self._at = time.thread_time(), time.monotonic(), ""
        threading.Thread(target=self._look, name="stalls", daemon=True).start()
        loop.call_later(TURN, self._turn)

    def _turn(self) -> None:
        cpu, wall = time.thread_time(), time.monotonic()
        spent, passed = cpu - self._cpu, wall - self._wall - TURN
        if max(spent, passed) > WORTH:
            line = json.dumps({"cpu": round(spent, 4), "wall": round(passed, 4), "at": self._at})
            os.write(self._file, line.encode() + b"\n")
        self._cpu, self._wall, self._at = time.thread_time(), time.monotonic(), ""
        self._loop.call_later(TURN, self._turn)

    def _look(self) -> None:
        while True:
            time.sleep(LOOK)
            try:
                spent = time.clock_gettime(self._clock) - self._cpu
            except OSError:  # the thread of the loop has ended
                return
            frame = sys._current_frames().get(self._thread)
            if spent > WORTH and frame is not None and frame.f_code.co_name != "select":
                self._at = "".join(traceback.format_stack(frame)[-FRAMES:])


class Log:
    """The stalls of one server, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._kept: list[Stall] = []

    def take(self) -> list[Stall]:
        """The stalls since the last call."""
        self.keep()
        result, self._kept = self._kept, []
        return result

    def keep(self) -> None:
        """Read the lines of the file before the test removes it."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()[self._read :]
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        self._kept += [Stall(**json.loads(line)) for line in whole.splitlines()]


OPEN: list[Log] = []  # the logs of all servers that a test has started


def longest() -> Stall | None:
    """The longest stall by `cpu` of all servers since the last call."""
    result = [stall for log in OPEN for stall in log.take()]
    OPEN[:] = [log for log in OPEN if log.path.exists()]
    return max(result, key=lambda stall: stall.cpu, default=None)


NUMBER = {"x86_64": 315, "aarch64": 275}.get(platform.machine())  # of the system call sched_getattr


def time_slice(thread: int) -> float | None:
    """Seconds of the slice of a thread; 0: the current one. None if the system does not know slices."""
    if NUMBER is None:
        return None
    data = ctypes.create_string_buffer(resources.SLICE_ATTRIBUTES.size)
    if ctypes.CDLL(None).syscall(NUMBER, thread, data, len(data), 0) != 0:
        return None
    return resources.SLICE_ATTRIBUTES.unpack(data.raw)[5] / 1e9 or None
