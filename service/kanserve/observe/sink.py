"""Where log lines go: a bounded queue, emptied by a thread of its own into a file descriptor.

A pipe that nobody reads, a disk that is full or a descriptor that is closed then costs lines, which are
counted, and never a call.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque

MOST_BYTES = 2**20  # that wait
MOST_LINE = 2**16  # characters; for libraries that write by themselves, since `logs` bounds the facts of its lines
CUT = "... the line is cut\n"


class Sink:
    """A file to write to, which never blocks and never fails."""

    def __init__(self, descriptor: int, most_bytes: int = MOST_BYTES) -> None:
        self._descriptor, self._most = descriptor, most_bytes
        self._lines: deque[bytes] = deque()
        self._waiting = 0  # bytes, those being written included
        self._changed = threading.Condition()
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    @property
    def dropped(self) -> int:
        """Lines that were lost so far."""
        return self._dropped

    def write(self, text: str) -> int:
        """Take a line, or drop it where too much waits."""
        data = (text if len(text) <= MOST_LINE else text[:MOST_LINE] + CUT).encode("utf-8", "backslashreplace")
        with self._changed:
            if self._waiting + len(data) > self._most:
                self._dropped += 1
            else:
                self._waiting += len(data)
                self._lines.append(data)
                self._changed.notify_all()
        return len(text)

    def separate(self, descriptor: int) -> None:
        """If the sink writes to this descriptor, write to a duplicate from now on, so that it can be replaced."""
        if self._descriptor == descriptor:
            self._descriptor = os.dup(descriptor)

    def flush(self) -> None:
        """Nothing: lines are written as soon as they can be."""

    def drain(self, seconds: float) -> None:
        """Wait until all lines are written, or the time is over."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._waiting and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                count = len(self._lines)
                data = b"".join(self._lines)
                self._lines.clear()
            lost = 0 if self._put(data) else count
            with self._changed:
                self._waiting -= len(data)
                self._dropped += lost
                self._changed.notify_all()

    def _put(self, data: bytes) -> bool:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:
                    self._free()
        except OSError:
            return False
        return True

    def _free(self) -> None:
        """Wait until a reader takes data. Only this thread may wait."""
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLOUT)
        waiting.poll()
