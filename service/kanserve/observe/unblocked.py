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
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from collections.abc import Callable

STDERR = 2
PATIENCE = struct.pack("ll", 0, 10_000)  # time limit of a socket: seconds and microseconds
CHUNK = 2**16  # bytes


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
        return _through_pipe(take, descriptor)
    os.dup2(own, descriptor)
    os.close(own)
    return descriptor


def _through_pipe(take: Callable[[str], object], descriptor: int) -> int:
    """Replace the descriptor by a pipe. Returns a duplicate of the original."""
    before = os.dup(descriptor)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.dup2(writer, descriptor)
    os.close(writer)
    threading.Thread(target=_pass_on, args=(reader, take), name="stderr", daemon=True).start()
    return before


def _pass_on(reader: int, take: Callable[[str], object]) -> None:
    begun = b""
    while data := os.read(reader, CHUNK):
        *whole, begun = (begun + data).split(b"\n")
        if len(begun) > CHUNK:
            whole, begun = [*whole, begun], b""
        for line in whole:
            take(line.decode(errors="backslashreplace") + "\n")
