"""Program `kanserve` for scripts of a shell: each call is a fork of the process that has all imports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from kanserve import Client
from kanserve.client.errors import ClientError
from tests.support import forked_process
from tests.support.forked_process import HEAD
from tests.support.server_process import READY_SECONDS, wait_until

CODE = """#!{python} -SEs
import json, os, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect({address!r})
job = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(peer, [len(job).to_bytes({head}, "big")], [0, 1, 2])
peer.sendall(job)
code = int(peer.recv(16) or -9)
os._exit(code if code >= 0 else 128 - code)
"""


# Models that a command or a block of a page exports into the repository `models`.
EXPORTED = re.compile(r"kanserve export (?![^\n]*--repository (?!models\b))(?![^\n]*--c )[^\n]*--name (\w+)")


def wait_for(model: str, address: str) -> None:
    """Until the server serves the model."""
    with Client(address) as client:
        wait_until(lambda: _serves(client, model), READY_SECONDS)


def _serves(client: Client, model: str) -> bool:
    try:
        client.model(model)
    except ClientError:
        return False
    return True


@contextlib.contextmanager
def on_path(address: str) -> Iterator[str]:
    """A value for the variable PATH on which `kanserve` is first. An export ends when the server at `address` has its
    model: the next command comes sooner than from an interpreter that starts."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        place = str(Path(folder) / "socket")
        listener.bind(place)
        listener.listen()
        program = Path(folder) / "kanserve"
        program.write_text(CODE.format(python=sys.executable, address=place, head=HEAD))
        program.chmod(0o755)
        threading.Thread(target=_accept, args=(listener, address), daemon=True).start()
        yield os.pathsep.join((folder, str(Path(sys.executable).parent), os.environ["PATH"]))


def _accept(listener: socket.socket, server: str) -> None:
    with contextlib.suppress(OSError):  # of the listener, which the context has closed
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=_serve, args=(peer, server), daemon=True).start()


def _serve(peer: socket.socket, server: str) -> None:
    """Run one call. If its program is killed, the fork is ended too."""
    with peer:
        head, streams, _, _ = socket.recv_fds(peer, HEAD, 3)
        arguments, folder, environment = json.loads(peer.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
        command = [sys.executable, "-m", "kanserve", *arguments]
        try:
            process = forked_process.Popen(
                command, stdin=streams[0], stdout=streams[1], stderr=streams[2], cwd=folder, env=environment
            )
        finally:
            for stream in streams:
                os.close(stream)
        if peer.fileno() in select.select([peer.fileno(), process.status], [], [])[0]:
            process.send_signal(signal.SIGTERM)
        code = process.wait()
        for model in EXPORTED.findall(f"kanserve {' '.join(arguments)}") if code == 0 else ():
            wait_for(model, server)
        with contextlib.suppress(BrokenPipeError):
            peer.sendall(str(code).encode())
