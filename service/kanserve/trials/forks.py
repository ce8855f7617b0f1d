"""A process that has everything imported and forks one more for each version that is to be tried.

    python -m kanserve.trials.forks BACKEND       on descriptor 0: a socket to the server

A message is how many bytes of memory it may take, with two descriptors: memory with a job, and a socket on which the
answer goes back. The process that is forked answers (`child`); this one adds how it ended. It has no threads and no
session of a runtime, and so may be forked; it ends with the server's end of its socket, and takes those that it forked
with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from kanserve import backends
from kanserve.trials import child

PAUSE = 50  # milliseconds between two looks at those that run
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Running:
    """A process that tries a version; `most`: bytes that it may have."""

    pid: int
    reply: socket.socket
    most: int


def main() -> None:
    """Until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then lets go of the socket
    asked = socket.socket(fileno=0)
    backends.load(sys.argv[1])
    gc.collect()
    gc.freeze()  # or each process would copy every page that a collection of its own looks at
    asked.send(b"+")
    running: list[Running] = []
    while True:
        for one in [one for one in running if _ended(one)]:
            running.remove(one)
        if not select.select([asked], [], [], PAUSE / 1000 if running else None)[0]:
            continue
        message, descriptors, _, _ = socket.recv_fds(asked, 16, 2)
        if len(descriptors) != 2:
            break
        running.append(_forked(asked, running, int.from_bytes(message, "little"), *descriptors))
    for one in running:
        os.kill(one.pid, signal.SIGKILL)


def _forked(asked: socket.socket, others: list[Running], most: int, memory: int, back: int) -> Running:
    pid = os.fork()
    if pid:
        os.close(memory)
        return Running(pid, socket.socket(fileno=back), most)
    reply = socket.socket(fileno=back)
    try:
        asked.close()
        for other in others:
            other.reply.close()
        child.run(memory, reply)
    finally:
        if sys.exc_info()[0] is not None:  # a bug: told to who asked, and the end of this process alone
            reply.sendall(json.dumps({"bug": traceback.format_exc()[-4000:]}).encode() + b"\n")
        os._exit(0)


def _ended(one: Running) -> bool:
    """Whether it is gone; what became of it is said then. One that has too much, or that nobody waits for, is ended."""
    pid, status = os.waitpid(one.pid, os.WNOHANG)
    if pid:
        with contextlib.suppress(OSError):
            one.reply.sendall(json.dumps({"ended": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
        one.reply.close()
        return True
    if _deserted(one.reply):
        os.kill(one.pid, signal.SIGKILL)
    elif one.most and _resident(one.pid) > one.most:
        with contextlib.suppress(OSError):
            one.reply.sendall(b'{"memory": ""}\n')
        os.kill(one.pid, signal.SIGKILL)
    return False


def _deserted(reply: socket.socket) -> bool:
    poll = select.poll()
    poll.register(reply, 0)
    return bool(poll.poll(0))


def _resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 where nobody tells."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return 0


if __name__ == "__main__":
    main()
