"""Messages between the server and a sandbox process: a job in shared memory, and replies as lines of JSON.

The memory begins with the length of a JSON document in 8 bytes, then the document, then the files one after the
other. The files are the same bytes that the server has hashed and will load.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from kanexport.shared.manifest import Manifest
from kanserve.runtime.base import SessionOptions

HEAD = 8  # bytes of the document's length
PIECE = 2**26  # bytes of one write
FACTOR = 4  # of the files: their bytes, the copy of the runtime, packed weights, and temporary memory
OWN_OPERATORS, OF_A_THREAD = 2**28, 2**24  # bytes of the interpreter and its libraries; of a thread's stack and buffers


@dataclass(frozen=True, slots=True)
class Job:
    """Load check of one version."""

    # Options of the sessions; the library is only for the graph that needs it, "" if it is not loaded.
    options: SessionOptions
    strict: bool  # the setting `graph_allowlist`
    rows: int  # check a batch of rows
    seconds: float  # time limit
    memory: int  # limit of memory in bytes, in addition to the files
    files: Mapping[str, int]  # sizes of the files, by name
    manifest: str | None
    texts: bool = False  # the files are those of `layout.Texts`, and the process only parses them
    parsed: bool = False  # the process has parsed the manifest in an earlier part of the same check
    size: int = 0  # bytes of all files of the version, if later parts have more of them than this one

    @property
    def most(self) -> int:
        """Bytes that the process may have."""
        size = max(self.size, sum(self.files.values()))
        return self.memory + FACTOR * size + OWN_OPERATORS + OF_A_THREAD * self.options.threads


def stripped(manifest: Manifest) -> Manifest:
    """The manifest without parts that the load check does not read, such as knots."""
    layers = tuple(
        dataclasses.replace(layer, bases=(), pre_steps=(), post_steps=(), mask=(), bias=(), symbolic=())
        for layer in manifest.layers
    )
    return dataclasses.replace(manifest, layers=layers, notes=())


def put(job: Job, files: Mapping[str, bytes]) -> int:
    """A descriptor of memory with the job and its files. Blocks. Raises OSError."""
    document = json.dumps(dataclasses.asdict(job)).encode()
    memory = os.memfd_create("kanserve-load-check", os.MFD_CLOEXEC)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, memory)
        for data in (len(document).to_bytes(HEAD, "little"), document, *files.values()):
            left = memoryview(data)
            while left:
                left = left[os.write(memory, left[:PIECE]) :]
        undo.pop_all()
    return memory


def take(memory: int) -> tuple[Job, dict[str, bytes]]:
    """The job and its files. The function frees the memory that it has read, so that no bytes are kept twice."""
    length = int.from_bytes(os.pread(memory, HEAD, 0), "little")
    at = HEAD + length
    facts = json.loads(_read(memory, HEAD, length))
    job = Job(**{**facts, "options": SessionOptions(**facts["options"])})
    files = {}
    for name, size in job.files.items():
        files[name] = _read(memory, at, size)
        at += size
    os.ftruncate(memory, 0)
    return job, files


def _read(memory: int, at: int, size: int) -> bytes:
    """Bytes of the memory, in one piece if the system permits."""
    data = os.pread(memory, size, at)
    while len(data) < size:
        data += os.pread(memory, size - len(data), at + len(data))
    return data
