"""Sandbox process that has everything imported and forks a child for each load check.

    python -m kanserve.sandbox.process       on descriptor 0: a socket to the server

A message is the number of bytes of memory that the child may use, with two descriptors: shared memory with the job,
and a socket for the reply. The child replies, and this process adds how the child ended. A child that has parsed the
texts of a version waits on its socket for the next job of that version. Each version has a new child, so no check
affects another one. This process has no threads and no open session of a runtime, so that it may fork. It ends with the
server's end of its socket, and then kills its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanexport.shared import manifest as manifests
from kanexport.shared.custom_ops import KERNEL_FILE, edges_file
from kanexport.shared.manifest import Manifest
from kanserve.errors import (
    BackendError,
    ConfigError,
    FailedPrecondition,
    KanserveError,
    LoadError,
    LoadReason,
    ResourceExhausted,
)
from kanserve.repository import layout
from kanserve.repository.validation import check_manifest
from kanserve.runtime import base, ort
from kanserve.runtime.base import Session, SessionOptions
from kanserve.sandbox import graph_screen, verify
from kanserve.sandbox import job as jobs
from kanserve.sandbox.job import Job
from kanserve.types import NUMPY_DTYPES

PAUSE = 50  # milliseconds between two checks of the running children
PAGE = os.sysconf("SC_PAGE_SIZE")
# An ONNX graph with y = x + w, for x [b, 1].
SMALL = (
    b'\x08\x08:N\n\x0e\n\x01x\n\x01w\x12\x01y"\x03Add\x12\x01g*\r\x08\x01\x10\x01"\x04\x00\x00\x80?B\x01wZ\x14\n\x01x'
    b"\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01b\n\x02\x08\x01b\x14\n\x01y\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01b\n"
    b"\x02\x08\x01B\x04\n\x00\x10\x11"
)


@dataclass(frozen=True, slots=True)
class Running:
    """Child process with a load check in progress. `most`: limit of its memory in bytes."""

    pid: int
    reply: socket.socket
    most: int


def main() -> None:
    """Serve requests until the server closes its socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then closes the socket
    requests = socket.socket(fileno=0)
    prepare()
    requests.send(b"+")
    running: list[Running] = []
    while True:
        for child in [child for child in running if _ended(child)]:
            running.remove(child)
        if not select.select([requests], [], [], PAUSE / 1000 if running else None)[0]:
            continue
        message, descriptors, _, _ = socket.recv_fds(requests, 16, 2)
        if len(descriptors) != 2:
            break
        running.append(_forked(requests, running, int.from_bytes(message, "little"), *descriptors))
    for child in running:
        os.kill(child.pid, signal.SIGKILL)


def prepare() -> None:
    """Do once, before all forks, what each child would do at its first use: evaluate the types of a manifest, and fill
    the registries of the runtime with a session of a small graph. The session has ended before the first fork."""
    manifests.prepare()
    with contextlib.suppress(KanserveError):  # each load check reports it
        ort.create(SMALL, SessionOptions("cpu", 1)).run(["y"], {"x": np.zeros((1, 1), np.float32)})
    gc.collect()
    gc.freeze()  # otherwise the garbage collector of each child would copy every page that it visits
    gc.disable()  # a child ends after one version


def _forked(requests: socket.socket, others: list[Running], most: int, memory: int, back: int) -> Running:
    parent, pid = os.getpid(), os.fork()
    if pid:
        os.close(memory)
        return Running(pid, socket.socket(fileno=back), most)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # this process ends when its parent ends
    if os.getppid() != parent:  # it has just ended
        os._exit(1)
    reply = socket.socket(fileno=back)
    try:
        requests.close()
        for other in others:
            other.reply.close()
        run(memory, reply)
    finally:
        if sys.exc_info()[0] is not None:  # a bug: reported to the server, and the end of this process only
            reply.sendall(json.dumps({"bug": traceback.format_exc()[-4000:]}).encode() + b"\n")
        os._exit(0)


def _ended(child: Running) -> bool:
    """True if the child has exited; then its exit code is reported. A child with too much memory or without a reader
    is killed."""
    pid, status = os.waitpid(child.pid, os.WNOHANG)
    if pid:
        with contextlib.suppress(OSError):
            child.reply.sendall(json.dumps({"ended": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
        child.reply.close()
        return True
    reader = select.poll()
    reader.register(child.reply, 0)
    if reader.poll(0):  # the server has closed its end
        os.kill(child.pid, signal.SIGKILL)
    elif child.most and _resident(child.pid) > child.most:
        with contextlib.suppress(OSError):
            child.reply.sendall(b'{"memory": ""}\n')
        os.kill(child.pid, signal.SIGKILL)
    return False


def _resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 if unknown."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return 0


PR_SET_PDEATHSIG = 1
ADDRESSES = 2**31  # bytes of addresses in addition to the memory: stacks, reserves of the allocator
ARENA = 2**27  # bytes of addresses that the allocator reserves for a thread
TOO_MUCH = "there is not enough memory to run the version"
FIRST_TO_GO = "1000"  # for a kernel that is out of memory


def run(memory: int, reply: socket.socket) -> None:
    """Run the load check of the job in `memory`, and reply with its error. After the texts of a version, the check
    goes on with the next job from `reply`. If the process cannot reply, its exit code shows the failure."""
    parsed: list[Manifest | None] = []

    def first() -> None:
        job, files = jobs.take(memory)
        limit(job)
        if job.texts:
            parsed.append(parse(files))
        else:
            try_out(job, files)

    def second(following: int) -> None:
        job, files = jobs.take(following)
        signal.setitimer(signal.ITIMER_REAL, job.seconds)
        try_out(job, files, parsed[0])

    if _replied(reply, first) and parsed:
        signal.setitimer(signal.ITIMER_REAL, 0)  # the time limit does not include the wait for the next job
        _, descriptors, _, _ = socket.recv_fds(reply, 1, 1)
        if descriptors:  # otherwise the server has closed its socket
            _replied(reply, functools.partial(second, descriptors[0]))


def _replied(reply: socket.socket, check: Callable[[], None]) -> bool:
    """Reply with the error of a check, or without one; True in the second case."""
    words: dict[str, str] = {}
    try:
        check()
    except LoadError as error:
        words = {"reason": error.reason, "text": str(error), "code": error.code, "hint": error.hint}
    except ConfigError as error:
        words = {"config": str(error), "code": error.code, "hint": error.hint}
    except (MemoryError, ResourceExhausted):
        words = {"reason": LoadReason.MEMORY, "text": TOO_MUCH}
    reply.sendall(json.dumps(words).encode() + b"\n")
    return not words


def limit(job: Job) -> None:
    """Set the kernel's limits of this process. A GPU driver reserves more addresses than it uses, so the parent process
    checks the resident memory in that case."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, job.seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(OSError):  # no /proc, or one that is not to be written
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    if job.options.device == "cpu":
        addresses = job.most + ADDRESSES + ARENA * job.options.threads
        resource.setrlimit(resource.RLIMIT_DATA, (job.most, job.most))
        resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))


def parse(files: Mapping[str, bytes]) -> Manifest | None:
    """Parse the texts before the server does. This process has limits on time and memory. Returns the parts of the
    manifest that the rest of the check reads; None for plain ONNX. Raises LoadError."""
    manifest = layout.parsed(files)
    if manifest is None:
        return None
    check_manifest(manifest)
    return jobs.stripped(manifest)


# radon: one graph after the other.
def try_out(job: Job, files: Mapping[str, bytes], parsed: Manifest | None = None) -> None:
    """Check the structure of all graphs, then run them. `parsed`: the manifest from an earlier part of the check.
    Raises LoadError, ConfigError, ResourceExhausted."""
    manifest = parsed
    if not job.parsed and job.manifest is not None:
        text = job.manifest.encode()
        manifest = manifests.loads(text, most=len(text))  # the server wrote it for this check, of any size
    layers = () if manifest is None else manifest.layers
    others = [] if manifest is None else [variant.file for variant in manifest.variants]
    explained = "" if manifest is None else manifest.explanations.file  # the server does not run this graph
    sizes = {name: len(data) for name, data in files.items() if name == manifests.WEIGHTS_FILE}
    graphs = (manifests.MODEL_FILE, *others, explained, *(layer.edges_file for layer in layers))
    for name in dict.fromkeys(filter(None, graphs)):
        graph_screen.check(name, files[name], sizes, strict=job.strict)
    plain = dataclasses.replace(job.options, library="")

    def create(file: str, options: SessionOptions = plain) -> Session:
        return base.create_session(files, manifest, file, options)

    session = create(manifests.MODEL_FILE)
    _prove(manifest, session, job.rows)
    for file in others:
        verify.named(file, functools.partial(_prove, manifest, create(file), job.rows))
    if manifest is not None and explained:
        verify.check_explained(manifest, create(explained))
    if job.options.library and KERNEL_FILE in files:
        graph_screen.check(KERNEL_FILE, files[KERNEL_FILE], sizes, strict=job.strict, kernel=True)
        verify.named(KERNEL_FILE, functools.partial(_prove, manifest, create(KERNEL_FILE, job.options), job.rows))
    for at, layer in enumerate(layers):
        graph = create(layer.edges_file)
        known = (*graph.inputs, *session.outputs, *session.inputs)
        lengths = (tensor.shape[-1] for tensor in known if tensor.name == layer.node_tensor and tensor.shape)
        nodes = next((length for length in lengths if length > 0), layer.sources)
        verify.check_edges(at, layer, graph, nodes)
        file = edges_file(layer.edges_file)
        if job.options.library and file in files:
            # It only runs here. The server compares its values with those of the portable edge graph.
            graph_screen.check(file, files[file], sizes, strict=job.strict, kernel=True)
            verify.operator_edges(at, layer, create(file, job.options), np.zeros((1, nodes), np.float32))


def _prove(manifest: Manifest | None, session: Session, rows: int) -> None:
    """Check a graph of the model, and run a batch. Raises LoadError, ResourceExhausted."""
    inputs, outputs = session.inputs, session.outputs
    if manifest is not None:
        verify.check_graph(manifest, session)
        verify.check_reference(manifest, session)
        inputs, outputs = verify.tensors(manifest.inputs), verify.tensors(manifest.outputs)
    if rows == 0 or not all(tensor.shape and min(tensor.shape[1:], default=1) > 0 for tensor in inputs):
        return
    # Zeros, as the server runs them to measure. A graph may reject them, but may not take too much memory.
    feeds = {tensor.name: np.zeros((rows, *tensor.shape[1:]), NUMPY_DTYPES[tensor.datatype]) for tensor in inputs}
    with contextlib.suppress(BackendError, FailedPrecondition):
        session.run([tensor.name for tensor in outputs], feeds)


if __name__ == "__main__":
    main()
