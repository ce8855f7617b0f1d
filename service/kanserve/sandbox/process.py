"""Sandbox process that has everything imported and forks a child for each load check.

    python -m kanserve.sandbox.process BACKEND       on descriptor 0: a socket to the server

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
from kanexport.shared.manifest import LayerInfo, Manifest
from kanserve.errors import (
    BackendError,
    ConfigError,
    FailedPrecondition,
    KanserveError,
    LoadError,
    LoadReason,
    ResourceExhausted,
)
from kanserve.repository.layout import Texts
from kanserve.repository.validation import check_manifest
from kanserve.runtime import base
from kanserve.runtime.base import Backend, Session, SessionOptions
from kanserve.sandbox import graph_screen, verify
from kanserve.sandbox import job as jobs
from kanserve.sandbox.job import Job
from kanserve.types import NUMPY_DTYPES, TensorInfo

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
    prepare(base.load(sys.argv[1]))
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


def prepare(backend: Backend) -> None:
    """Do once, before all forks, what each child would do at its first use: evaluate the types of a manifest, and fill
    the registries of the runtime with a session of a small graph. The session has ended before the first fork."""
    manifests.prepare()
    with contextlib.suppress(KanserveError):  # each load check reports it
        backend.create(SMALL, SessionOptions("cpu", 1)).run(["y"], {"x": np.zeros((1, 1), np.float32)})
    gc.collect()
    gc.freeze()  # otherwise the garbage collector of each child would copy every page that it visits
    gc.disable()  # a child ends after one version


def _forked(requests: socket.socket, others: list[Running], most: int, memory: int, back: int) -> Running:
    parent, pid = os.getpid(), os.fork()
    if pid:
        os.close(memory)
        return Running(pid, socket.socket(fileno=back), most)
    _end_with(parent)
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


def _end_with(parent: int) -> None:
    """End this process when its parent ends, also if that has just happened."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _ended(child: Running) -> bool:
    """True if the child has exited; then its exit code is reported. A child with too much memory or without a reader
    is killed."""
    pid, status = os.waitpid(child.pid, os.WNOHANG)
    if pid:
        with contextlib.suppress(OSError):
            child.reply.sendall(json.dumps({"ended": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
        child.reply.close()
        return True
    if _abandoned(child.reply):
        os.kill(child.pid, signal.SIGKILL)
    elif child.most and _resident(child.pid) > child.most:
        with contextlib.suppress(OSError):
            child.reply.sendall(b'{"memory": ""}\n')
        os.kill(child.pid, signal.SIGKILL)
    return False


def _abandoned(reply: socket.socket) -> bool:
    poll = select.poll()
    poll.register(reply, 0)
    return bool(poll.poll(0))


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
        following = _next(reply)
        if following is not None:
            _replied(reply, functools.partial(second, following))


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


def _next(reply: socket.socket) -> int | None:
    """The memory with the next job; None if the server has closed its socket. The time limit does not include this."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    _, descriptors, _, _ = socket.recv_fds(reply, 1, 1)
    return descriptors[0] if descriptors else None


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
    manifest = Texts.from_files(files).judge()
    if manifest is None:
        return None
    check_manifest(manifest)
    return jobs.stripped(manifest)


def try_out(job: Job, files: Mapping[str, bytes], parsed: Manifest | None = None) -> None:
    """Check the structure of all graphs, then run them. `parsed`: the manifest from an earlier part of the check.
    Raises LoadError, ConfigError, ResourceExhausted."""
    manifest = parsed if job.parsed else _strip_for_sandbox(job)
    layers = () if manifest is None else manifest.layers
    sizes = {name: len(data) for name, data in files.items() if name == manifests.WEIGHTS_FILE}
    for name in _graphs(manifest):
        graph_screen.check(name, files[name], sizes, strict=job.strict)
    backend = base.load(job.backend)
    plain = dataclasses.replace(job.options, library="")

    def create(file: str, options: SessionOptions = plain) -> Session:
        return base.create_session(backend, files, manifest, file, options)

    session = create(manifests.MODEL_FILE)
    _prove(manifest, session, job.rows)
    if manifest is not None:
        _prove_others(manifest, create, job.rows)
    if job.options.library:
        _try_kernel(job, files, sizes, manifest, functools.partial(create, options=job.options))
    for at, layer in enumerate(layers):
        graph = create(layer.edges_file)
        nodes = _nodes(layer.node_tensor, graph, session, layer.sources)
        verify.check_edges(at, layer, graph, nodes)
        if job.options.library:
            _try_kernel_edges(job, at, layer, files, sizes, nodes, create)


def _strip_for_sandbox(job: Job) -> Manifest | None:
    """The manifest that the server wrote for the load check, of any size."""
    if job.manifest is None:
        return None
    text = job.manifest.encode()
    return manifests.loads(text, most=len(text))


def _try_kernel(
    job: Job,
    files: Mapping[str, bytes],
    sizes: Mapping[str, int],
    manifest: Manifest | None,
    create: Callable[[str], Session],
) -> None:
    """Check the graph with custom operators of a library, as the model's graph. Raises LoadError, ResourceExhausted."""
    data = files.get(KERNEL_FILE)
    if data is not None:
        graph_screen.check(KERNEL_FILE, data, sizes, strict=job.strict, kernel=True)
        verify.named(KERNEL_FILE, functools.partial(_prove, manifest, create(KERNEL_FILE), job.rows))


def _try_kernel_edges(
    job: Job,
    at: int,
    layer: LayerInfo,
    files: Mapping[str, bytes],
    sizes: Mapping[str, int],
    nodes: int,
    create: Callable[[str, SessionOptions], Session],
) -> None:
    """Check that the edge graph of a layer with custom operators, if there is one, runs. The server compares its values
    with those of the portable edge graph. Raises LoadError, ResourceExhausted."""
    file = edges_file(layer.edges_file)
    if file in files:
        graph_screen.check(file, files[file], sizes, strict=job.strict, kernel=True)
        verify.operator_edges(at, layer, create(file, job.options), np.zeros((1, nodes), np.float32))


def _prove_others(manifest: Manifest, create: Callable[[str], Session], rows: int) -> None:
    """Check the other graphs of the model: the large-batch variant and the explanation graph."""
    for variant in manifest.variants:
        verify.named(variant.file, functools.partial(_prove, manifest, create(variant.file), rows))
    if manifest.explanations.file:
        verify.check_explained(manifest, create(manifest.explanations.file))


def _graphs(manifest: Manifest | None) -> list[str]:
    """The files that are graphs, also the explanation graph, which the server does not run."""
    if manifest is None:
        return [manifests.MODEL_FILE]
    files = [variant.file for variant in manifest.variants]
    files += [manifest.explanations.file] if manifest.explanations.file else []
    return list(dict.fromkeys((manifests.MODEL_FILE, *files, *(layer.edges_file for layer in manifest.layers))))


def _prove(manifest: Manifest | None, session: Session, rows: int) -> None:
    inputs, outputs = session.inputs, session.outputs
    if manifest is not None:
        verify.check_graph(manifest, session)
        verify.check_reference(manifest, session)
        inputs, outputs = verify.tensors(manifest.inputs), verify.tensors(manifest.outputs)
    _batch(session, inputs, [tensor.name for tensor in outputs], rows)


def _batch(session: Session, inputs: tuple[TensorInfo, ...], outputs: list[str], rows: int) -> None:
    """Run zeros, as the server does to measure. A graph may reject them, but may not take too much memory. Raises
    ResourceExhausted."""
    if rows == 0 or not all(tensor.shape and min(tensor.shape[1:], default=1) > 0 for tensor in inputs):
        return
    feeds = {tensor.name: np.zeros((rows, *tensor.shape[1:]), NUMPY_DTYPES[tensor.datatype]) for tensor in inputs}
    with contextlib.suppress(BackendError, FailedPrecondition):
        session.run(outputs, feeds)


def _nodes(name: str, graph: Session, session: Session, sources: int) -> int:
    """Length of the input vector of a layer: from its graph, the model's graph, or its number of sources."""
    known = (*graph.inputs, *session.outputs, *session.inputs)
    lengths = [tensor.shape[-1] for tensor in known if tensor.name == name and tensor.shape]
    return next((length for length in lengths if length > 0), sources)


if __name__ == "__main__":
    main()
