"""Makes stderr non-blocking, so that no write to it can stop the process.

kanserve's own lines have a thread (`sink`). But libraries write to descriptor 2 directly, and so does Python when it
exits. If no process reads the pipe, such a write waits, and its thread keeps its locks. So kanserve makes writes to
descriptor 2 fail instead. The flag for that belongs to an open file, which a parent or a shell may share. So kanserve
does not set it on an inherited open file:

* for a pipe or a terminal, kanserve opens it again by its name in /proc, which makes an open file of this process;
* for a socket, which systemd may give, kanserve sets a time limit for a write;
* a file on a disk does not wait for a reader, so kanserve leaves it as it is;
* if /proc cannot be used, descriptor 2 becomes a pipe of kanserve, and a thread reads its lines for the log. The last
  lines of a process that crashes may be lost then.

`Diversion` makes that pipe for a limited time, so that the log can look at lines that a library writes.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable

STDERR = 2
PATIENCE = struct.pack("ll", 0, 10_000)  # time limit of a socket: seconds and microseconds
CHUNK = 2**16  # bytes
LAST = 1.0  # seconds that the end of a diversion waits for lines in the pipe


def unblock(take: Callable[[str], object], descriptor: int = STDERR) -> int:
    """Make the descriptor non-blocking; call this once. If kanserve needs a pipe, `take` gets the lines that libraries
    write to it. Returns the descriptor that the log writes to."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind):
        with socket.socket(fileno=os.dup(descriptor)) as known:
            known.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, PATIENCE)
        return descriptor
    if not (stat.S_ISFIFO(kind) or stat.S_ISCHR(kind)):
        return descriptor
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return Diversion(take, descriptor).original
    os.dup2(own, descriptor)
    os.close(own)
    return descriptor


class Diversion:
    """A pipe in the place of a descriptor, until `end`. A thread gives `take` each line that arrives. `original` is a
    duplicate of the descriptor before. If the process crashes, lines in the pipe are lost, so faulthandler reports the
    crash to `original`."""

    def __init__(self, take: Callable[[str], object], descriptor: int = STDERR) -> None:
        self.original, self._descriptor = os.dup(descriptor), descriptor
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        os.dup2(writer, descriptor)
        os.close(writer)
        self._reports = not faulthandler.is_enabled()
        if self._reports:
            faulthandler.enable(self.original)
        self._thread = threading.Thread(target=_pass_on, args=(reader, take), name="stderr", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Restore the descriptor, and wait a moment until `take` has the lines in the pipe. Call this once."""
        os.dup2(self.original, self._descriptor)
        self._thread.join(LAST)
        if self._reports:
            faulthandler.disable()
        os.close(self.original)


def _pass_on(reader: int, take: Callable[[str], object]) -> None:
    begun = b""
    while data := os.read(reader, CHUNK):
        *whole, begun = (begun + data).split(b"\n")
        if len(begun) > CHUNK:
            whole, begun = [*whole, begun], b""
        for line in whole:
            take(line.decode(errors="backslashreplace") + "\n")
    if begun:
        take(begun.decode(errors="backslashreplace") + "\n")
    os.close(reader)
