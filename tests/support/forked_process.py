"""Python processes of tests as forks of one process that has all imports: 0.6 s of processor time less for each.

`Popen` stands for `subprocess.Popen` if the command is `python -c CODE` or `python -m MODULE`, without options of the
interpreter. The fork has the arguments, environment, folder and streams that the caller gives, and runs the code as the
main module. Its exit is that of any interpreter. Tests of imports and of start-up times use `subprocess` itself.
"""

import array
import atexit
import functools
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any

LIBRARIES = (
    *(
        "h2corn", "grpc.aio", "onnxruntime", "orjson", "starlette.applications",
        "prometheus_client.openmetrics.exposition",
    ),
    *("kanserve.server.app", "kanserve.server.supervisor", "kanserve.cli.serve", "kanserve.client.sync"),
    *("kanexport.pipeline", "kanexport.cli.export_command"),
)  # fmt: skip
START = "from tests.support import forked_process as forks\nforks.serve({fd})"
# The interpreter reads these when it starts.
OF_THE_INTERPRETER = {"PYTHONPATH", "PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONSAFEPATH", "PYTHONDEVMODE", "LD_PRELOAD"}
AT_START = dict(os.environ)  # a test may set some for the processes that it starts
HEAD = 8  # bytes of a message's length
ASKING = threading.Lock()  # threads take turns


class Popen(subprocess.Popen[Any]):
    """Process that is a fork. Its parent is the process with the imports, which reports the exit."""

    _status: int

    def _execute_child(self, *arguments: Any) -> None:
        args, cwd, env, ends = arguments[0], arguments[5], arguments[6], arguments[10:16]
        p2cread, _, _, c2pwrite, _, errwrite = ends
        job = {
            "arguments": [os.fspath(value) for value in args][1:],
            "folder": os.fspath(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
        }
        self._status, status = os.pipe()
        streams = [inherited if end == -1 else end for inherited, end in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            self.pid = _ask(job, [*streams, status])
        finally:
            os.close(status)
            self._close_pipe_fds(*ends)
        self._child_created = True

    def poll(self) -> int | None:
        return self._until(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._until(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def _until(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            report = os.read(self._status, 16)
            os.close(self._status)
            self.returncode = int(report) if report else -signal.SIGKILL  # nobody is left who could report
        return self.returncode

    @property
    def status(self) -> int:
        """A file that is readable when the process has ended and `wait` has not returned yet."""
        return self._status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:  # of __del__
        return self.returncode


def popen(command: Any, **options: Any) -> subprocess.Popen[Any]:
    """The process of a command: a fork where one can stand for it."""
    env = os.environ if options.get("env") is None else options["env"]
    same = all(env.get(name) == AT_START.get(name) for name in OF_THE_INTERPRETER)
    forked = same and len(command) > 2 and command[0] == sys.executable and command[1] in ("-c", "-m")
    return (Popen if forked else subprocess.Popen)(command, **options)


def run(command: Any, *, input: bytes, timeout: float, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run` with captured output."""
    pipe = subprocess.PIPE
    with popen(command, stdin=pipe, stdout=pipe, stderr=pipe, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@functools.cache
def _parent() -> socket.socket:
    """The connection to the process with the imports, which ends with it."""
    ours, theirs = socket.socketpair()
    # A thread of the telemetry of onnxruntime would make forks hang.
    environment = {"GRPC_VERBOSITY": "NONE", **AT_START, "ORT_DISABLE_TELEMETRY": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("KANSERVE_")}
    code = START.format(fd=theirs.fileno())
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment)
    theirs.close()
    atexit.register(lambda: (ours.close(), process.wait(60)))
    return ours


def _ask(job: Mapping[str, Any], files: list[int]) -> int:
    data = json.dumps(job).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
    with ASKING:
        parent = _parent()
        parent.sendmsg([len(data).to_bytes(HEAD, "big")], rights)
        parent.sendall(data)
        return int.from_bytes(parent.recv(HEAD, socket.MSG_WAITALL), "big")


def serve(fd: int) -> None:
    """Fork for each message, until the connection ends. A fork returns from `_fork`, and then runs its code."""
    for name in LIBRARIES:
        try:
            __import__(name)
        except ImportError:
            continue
    gc.collect()
    gc.freeze()  # the collector of a fork does not touch, and so copy, the pages of all modules
    before = {int(name) for name in os.listdir("/proc/self/fd")} - {fd}
    statuses: dict[int, int] = {}
    wake, woken = os.pipe2(os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(woken)
    peer = socket.socket(fileno=fd)
    while True:
        ready, _, _ = select.select([peer, wake], [], [])
        if wake in ready:
            os.read(wake, 512)
            _reap(statuses)
        if peer in ready:
            head, files, _, _ = socket.recv_fds(peer, HEAD, 4)
            if not head:
                os._exit(0)
            job = json.loads(peer.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                peer.detach()
                _become(job, files, before)
                return
            statuses[pid] = files.pop()
            for file in files:
                os.close(file)
            peer.sendall(pid.to_bytes(HEAD, "big"))


def _reap(statuses: dict[int, int]) -> None:
    while statuses:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        with os.fdopen(statuses.pop(pid), "w") as report:
            try:
                print(os.waitstatus_to_exitcode(status), file=report, flush=True)
            except BrokenPipeError:
                continue


def _become(job: Mapping[str, Any], files: list[int], before: set[int]) -> None:
    """The state of a new interpreter, and then the code of the job."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for at, file in enumerate(files[:3]):
        os.dup2(file, at)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in before:
            try:
                os.close(int(name))
            except OSError:
                continue  # of the listing itself
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    direct = bool(os.environ.get("PYTHONUNBUFFERED"))
    for at, name in enumerate(("stdin", "stdout", "stderr")):
        raw = open(at, "rb" if not at else "wb", 0 if direct and at else -1, closefd=False)  # noqa: SIM115 - for good
        errors = "backslashreplace" if at == 2 else "strict"
        stream = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=at == 2, write_through=direct)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    kind, value, *rest = job["arguments"]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.orig_argv = [sys.executable, *job["arguments"]]
    if kind == "-m":
        sys.argv, sys.path[0] = [value, *rest], os.getcwd()
        runpy.run_module(value, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = ["-c", *rest], ""
        exec(compile(value, "<string>", "exec"), main.__dict__)
