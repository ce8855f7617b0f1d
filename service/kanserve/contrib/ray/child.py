"""One kanserve server as a child process: it starts again when it ends, and drains when it is to stop.

A `Keeper` does not need Ray. A `Replica` is the class of the Ray actors of a fleet.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kanserve.config.settings import ENV_PREFIX, Settings

LIBC = ctypes.CDLL(None)  # before a fork: a child of a process with threads must not load a library
PR_SET_PDEATHSIG = 1
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds before a server that ended starts again; each failure doubles them
SETTLED = 10.0  # seconds after which a server counts as one that works
SPARE = 10.0  # seconds in which a server ends in addition to its drain settings


@dataclass(frozen=True, slots=True)
class State:
    """State of a server.

    state     "starting", "serving", "failed" (it ended and starts again) or "stopped"
    address   HOST:PORT for gRPC and REST, or ""
    metrics   HOST:PORT of the metrics port, or ""
    pid       process id, or 0
    restarts  number of times that it ended and started again
    error     message of the last failure, or ""
    code      its code, or ""
    """

    state: str
    address: str = ""
    metrics: str = ""
    pid: int = 0
    restarts: int = 0
    error: str = ""
    code: str = ""


def arguments(settings: Mapping[str, Any]) -> list[str]:
    """The command line of a server with these settings, by name; None is left out."""
    flags = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if name == "repository" or value is None:
            continue
        flags += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return [sys.executable, "-P", "-m", "kanserve", "serve", str(settings["repository"]), "--json", *flags]


def environment() -> dict[str, str]:
    """The variables of this process without those of settings: a server of a fleet has the settings of the fleet."""
    ours = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in ours}


class Keeper:
    """Keeper of one server. Its methods may run in any thread."""

    def __init__(self, settings: Mapping[str, Any], drain_seconds: float) -> None:
        """Start the server. `drain_seconds`: sum of its drain settings."""
        self._command, self._drain_seconds = arguments(settings), drain_seconds
        self._state = State("starting")
        self._process: subprocess.Popen[str] | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        # The server gets SIGTERM when the thread that started it ends, which is when this process ends.
        self._thread = threading.Thread(target=self._keep, name="kanserve-keeper", daemon=True)
        self._thread.start()

    def state(self) -> State:
        """The state now."""
        return self._state

    def stop(self) -> int | None:
        """Drain the server and end it; the exit code, or None if it did not run."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(self._drain_seconds + SPARE)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(SPARE)
        return None if process is None else process.returncode

    def _keep(self) -> None:
        restarts, pause = 0, FIRST_PAUSE
        while True:
            began = time.monotonic()
            with self._lock:
                if self._stopping.is_set():
                    break
                process = self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment(),
                    start_new_session=True,
                    preexec_fn=_detach,
                )
            assert process.stdout is not None
            self._state = State("starting", pid=process.pid, restarts=restarts)
            with process.stdout:
                for line in process.stdout:
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        document = json.loads(line)
                        if error := document.get("error"):
                            self._state = State("failed", restarts=restarts, error=error["message"], code=error["code"])
                        else:
                            self._state = State("serving", document["grpc"], document["metrics"], process.pid, restarts)
            code = process.wait()
            if not self._state.error:
                self._state = State(
                    "failed", restarts=restarts, error=f"the server ended with code {code}", code="ended"
                )
            if self._stopping.is_set():
                break
            restarts, pause = restarts + 1, FIRST_PAUSE if time.monotonic() - began > SETTLED else pause
            self._state = State("failed", restarts=restarts, error=self._state.error, code=self._state.code)
            if self._stopping.wait(pause):
                break
            pause = min(2 * pause, LONGEST_PAUSE)
        self._state = State("stopped", restarts=restarts)


def _detach() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends, and take back the low priority that Ray gives
    to its workers, if the user may."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


class Replica(Keeper):
    """Keeper in a Ray actor: the server listens on the address of the node."""

    def __init__(self, settings: Mapping[str, Any], drain_seconds: float) -> None:
        import ray

        self._node = ray.get_runtime_context().get_node_id()
        node = ray.util.get_node_ip_address()
        super().__init__({"metrics_host": node, **settings, "host": node}, drain_seconds)

    def report(self) -> tuple[str, State]:
        """The id of the node, and the state of the server."""
        return self._node, self.state()
