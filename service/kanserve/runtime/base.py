"""Interface of runtimes that execute graphs. One file per runtime, found by its name.

A session is made from bytes that were already read and checked, not from a path. A runtime that maps files would
depend on everyone who can write them.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from kanexport.shared.manifest import ANY, WEIGHTS_FILE, Manifest
from kanserve import runtime
from kanserve.errors import ConfigError
from kanserve.types import Array, TensorInfo

NOTHING: Mapping[str, bytes] = types.MappingProxyType({})

__all__ = ["NOTHING", "Backend", "Session", "SessionOptions", "create_session", "load", "names"]


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


class Backend(Protocol):
    """Interface of a module of this package."""

    def version(self) -> str:
        """Name and version of the runtime."""

    def check(self, device: str) -> None:
        """Raises ConfigError for an unavailable device."""

    def create(
        self,
        graph: bytes,
        options: SessionOptions,
        *,
        beside: Mapping[str, bytes] = NOTHING,
        optimization: str = ANY,
    ) -> Session:
        """Prepare a graph. Raises LoadError, and ConfigError for a missing device.

        beside        the files, by name, that may hold its weights; the graph reads no other file
        optimization  optimization level of the runtime, as in the manifest
        """


def names() -> list[str]:
    """The names of all backends."""
    return sorted(module.name for module in pkgutil.iter_modules(runtime.__path__) if module.name != "base")


def load(name: str) -> Backend:
    """The backend of this name. Raises ConfigError for an unknown name."""
    if name not in names():
        raise ConfigError(
            f"unknown backend {name!r}", code="backend-unknown", hint=f"set backend to one of {', '.join(names())}"
        )
    return cast("Backend", importlib.import_module(f"{runtime.__name__}.{name}"))


def create_session(
    backend: Backend,
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
    return backend.create(
        files[file],
        options,
        beside={name: data for name, data in files.items() if name == WEIGHTS_FILE},
        optimization=ANY if manifest is None else manifest.optimization,
    )
