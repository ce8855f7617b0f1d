"""Sessions that execute graphs, independent of the runtime.

A session is made from bytes that were already read and checked, not from a path. A runtime that maps files would
depend on everyone who can write them.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kanexport.shared.manifest import ANY, WEIGHTS_FILE, Manifest
from kanserve.types import Array, TensorInfo

NOTHING: Mapping[str, bytes] = types.MappingProxyType({})

__all__ = ["NOTHING", "Session", "SessionOptions", "create_session"]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Options of a session. `models/loader.py` makes them from the settings, for serving and for the load check.

    device   "cpu" or "cuda"
    threads  threads of one run
    library  path of a library with custom operators, "" without one
    """

    device: str
    threads: int
    library: str = ""


class Session(Protocol):
    """Prepared graph. Several threads may call `run` at once."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The graph's inputs."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The graph's outputs."""

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Compute the named outputs, in this order.

        Raises ResourceExhausted if memory ran out, FailedPrecondition for an output that the runtime cannot return,
        BackendError otherwise.
        """


def create_session(
    files: Mapping[str, bytes],
    manifest: Manifest | None,
    file: str,
    options: SessionOptions,
) -> Session:
    """A session of one graph of a version, the same for serving, load checks and benchmarks.

    files     by name, as read and checked: the graph, and the weights that graphs share
    manifest  None for plain ONNX; otherwise it limits the optimizations of the runtime
    file      name of the graph

    Raises LoadError, and ConfigError for an unavailable device.
    """
    from kanserve.runtime import ort  # at the first session: programs that run no graph import this module too

    return ort.create(
        files[file],
        options,
        beside={name: data for name, data in files.items() if name == WEIGHTS_FILE},
        optimization=ANY if manifest is None else manifest.optimization,
    )
