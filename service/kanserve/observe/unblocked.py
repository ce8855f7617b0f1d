"""stderr that cannot hold the process up, whoever writes to it.

Our own lines have a thread (`sink`). But libraries write to descriptor 2 by themselves, and so do Python's last words:
where nobody reads the pipe, such a write waits, with whatever lock its thread holds. So descriptor 2 becomes one whose
writes fail instead. The flag for that belongs to an open file, which a parent or a shell may share, and is never set
on what was inherited:

* a pipe or a terminal is opened once more by its name in /proc, which makes an open file of this process' own;
* a socket, as systemd gives one, has a time limit for a write;
* a file on a disk does not wait for a reader, and stays;
* where /proc cannot be used, descriptor 2 becomes a pipe of our own, from which a thread takes lines for the log. Last
  words of a process that crashes may be lost then.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from collections.abc import Callable

STDERR = 2
PATIENCE = struct.pack("ll", 0, 10_000)  # of a socket: seconds and microseconds
CHUNK = 2**16  # bytes


def unblock(take: Callable[[str], object], descriptor: int = STDERR) -> int:
    """Call once. `take` gets lines that go past the log, where they have to go through it. Returns the descriptor
    that the log writes to."""
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
    """Returns what the descriptor was, as another."""
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
