"""In a process that was forked to try one version, and ends with it: whatever the version does, it does it here.

Its limits are the kernel's: a timer whose signal ends the process whatever runs, and the memory that it may have.
It has no files of the server's but the memory with the bytes to be tried, and writes none.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kanexport import manifest as contract
from kanexport.manifest import Manifest
from kanexport.shared.kernel import KERNEL_FILE
from kanserve import backends
from kanserve.backends import Session
from kanserve.errors import BackendError, ConfigError, Exhausted, LoadError, LoadReason, NotPossible
from kanserve.nouns import HELD, TensorInfo
from kanserve.repository.check import check_manifest
from kanserve.repository.layout import Texts
from kanserve.trials import job as jobs
from kanserve.trials import proving, screen
from kanserve.trials.job import Job

PR_SET_PDEATHSIG = 1
ADDRESSES = 2**31  # bytes of addresses beside the memory: stacks, reserves of the allocator
ARENA = 2**27  # bytes of addresses that the allocator reserves for a thread
TOO_MUCH = "there is not enough memory to run it"
FIRST_TO_GO = "1000"  # for a kernel that is out of memory


def run(memory: int, reply: socket.socket) -> None:
    """Try what lies in `memory` and say what came of it. Where nothing can be said, the end of the process does."""
    try:
        job, files = jobs.take(memory)
        limit(job)
        (parse if job.texts else try_out)(job, files)
        words: dict[str, str] = {}
    except LoadError as error:
        words = {"reason": error.reason, "text": str(error)}
    except ConfigError as error:
        words = {"config": str(error)}
    except (MemoryError, Exhausted):
        words = {"reason": LoadReason.MEMORY, "text": TOO_MUCH}
    reply.sendall(json.dumps(words).encode() + b"\n")


def limit(job: Job) -> None:
    """What the kernel holds this process to from here on. Memory of a GPU's driver looks like much more than it is:
    there who forked this process looks at what it has."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, job.seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(OSError):  # no /proc, or one that is not to be written
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    if job.device == "cpu":
        addresses = job.most + ADDRESSES + ARENA * job.threads
        resource.setrlimit(resource.RLIMIT_DATA, (job.most, job.most))
        resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))


def parse(job: Job, files: Mapping[str, bytes]) -> None:
    """Parse the texts before the server does. This process has limits on time and memory. Raises LoadError."""
    manifest = Texts.of(files).judge()
    if manifest is not None:
        check_manifest(manifest)


def try_out(job: Job, files: Mapping[str, bytes]) -> None:
    """The structure first, then the runtime. Raises LoadError, ConfigError, Exhausted."""
    manifest = _slim(job)
    layers = () if manifest is None else manifest.layers
    beside = {name: data for name, data in files.items() if name == contract.WEIGHTS_FILE}
    sizes = {name: len(data) for name, data in beside.items()}
    for name in _graphs(manifest):
        screen.check(name, files[name], sizes, strict=job.strict)
    backend = backends.load(job.backend)
    create = functools.partial(backend.create, device=job.device, threads=job.threads, beside=beside)
    session = create(files[contract.MODEL_FILE])
    _prove(manifest, session, job.rows)
    if manifest is not None:
        _prove_others(manifest, files, create, job.rows)
    if job.library:
        _try_kernel(job, files, sizes, manifest, functools.partial(create, library=job.library))
    for at, layer in enumerate(layers):
        graph = create(files[layer.edges_file])
        proving.check_edges(at, layer, graph, _nodes(layer.node_tensor, graph, session, layer.sources))


def _slim(job: Job) -> Manifest | None:
    """The manifest that the server has made, of any size."""
    if job.manifest is None:
        return None
    text = job.manifest.encode()
    return contract.loads(text, most=len(text))


def _try_kernel(
    job: Job,
    files: Mapping[str, bytes],
    sizes: Mapping[str, int],
    manifest: Manifest | None,
    create: Callable[[bytes], Session],
) -> None:
    """As the model's graph, the one by operators of a library. Raises LoadError, Exhausted."""
    data = files.get(KERNEL_FILE)
    if data is not None:
        screen.check(KERNEL_FILE, data, sizes, strict=job.strict, kernel=True)
        proving.named(KERNEL_FILE, functools.partial(_prove, manifest, create(data), job.rows))


def _prove_others(
    manifest: Manifest, files: Mapping[str, bytes], create: Callable[[bytes], Session], rows: int
) -> None:
    """The graphs that answer as the model does: for many rows, and with what is behind the answers."""
    for variant in manifest.variants:
        proving.named(variant.file, functools.partial(_prove, manifest, create(files[variant.file]), rows))
    if manifest.explanations.file:
        proving.check_explained(manifest, create(files[manifest.explanations.file]))


def _graphs(manifest: Manifest | None) -> list[str]:
    """The files that are graphs, also the one that is handed on and never served."""
    if manifest is None:
        return [contract.MODEL_FILE]
    told = [variant.file for variant in manifest.variants]
    told += [manifest.explanations.file] if manifest.explanations.file else []
    return list(dict.fromkeys((contract.MODEL_FILE, *told, *(layer.edges_file for layer in manifest.layers))))


def _prove(manifest: Manifest | None, session: Session, rows: int) -> None:
    inputs, outputs = session.inputs, session.outputs
    if manifest is not None:
        proving.check_graph(manifest, session)
        proving.prove(manifest, session)
        inputs, outputs = proving.tensors(manifest.inputs), proving.tensors(manifest.outputs)
    _batch(session, inputs, [tensor.name for tensor in outputs], rows)


def _batch(session: Session, inputs: tuple[TensorInfo, ...], outputs: list[str], rows: int) -> None:
    """Zeros, as the server will run to measure. A graph may dislike them, but not take too much. Raises Exhausted."""
    if rows == 0 or not all(tensor.shape and min(tensor.shape[1:], default=1) > 0 for tensor in inputs):
        return
    feeds = {tensor.name: np.zeros((rows, *tensor.shape[1:]), HELD[tensor.datatype]) for tensor in inputs}
    with contextlib.suppress(BackendError, NotPossible):
        session.run(outputs, feeds)


def _nodes(name: str, graph: Session, session: Session, sources: int) -> int:
    """How long the vector is that feeds a layer: as its graph says, or the model's, or as many as it has sources."""
    known = (*graph.inputs, *session.outputs, *session.inputs)
    lengths = [tensor.shape[-1] for tensor in known if tensor.name == name and tensor.shape]
    return next((length for length in lengths if length > 0), sources)
