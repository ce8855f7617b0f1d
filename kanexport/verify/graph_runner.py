"""Runner of exported graphs in onnxruntime, for the verification."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import ExportError, InvalidKan, internal_check_failed, memory_limit_exceeded
from kanexport.graph.external_data import Weights
from kanexport.lowering.lower import Lowered
from kanexport.shared.cli import console
from kanexport.shared.manifest import ANY, BASIC, WEIGHTS_FILE
from kanexport.shared.ort import onnxruntime

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Session:
    """Graph that is ready to run. `constants`: those of the file of the model, by name. Every run passes them,
    because a runtime would copy them for each graph."""

    runs: Any
    outputs: tuple[str, ...]
    constants: dict[str, npt.NDArray[Any]]


def session(model: bytes, weights: Weights | None = None, library: str = "", optimization: str = ANY) -> Session:
    """A session on one thread. Raises InvalidKan if the runtime cannot run the graph, and LimitExceeded.

    weights       the file from which the graph takes constants
    library       a file with operators of the graph
    optimization  how far the runtime may change the graph
    """
    constants: dict[str, npt.NDArray[Any]] = {}
    options = onnxruntime.SessionOptions()
    if weights is not None and library:  # whose operators take constants alone
        data = b"".join(weights.content())
        options.add_external_initializers_from_files_in_memory([WEIGHTS_FILE], [data], [len(data)])
    elif weights is not None:
        model, constants = weights.as_inputs(model)
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # a model of many layers has as many sessions
    options.log_severity_level = 4
    if optimization == BASIC:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with _refusing(_not_loaded):
        if library:
            options.register_custom_ops_library(library)
        runs = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Session(runs, tuple(output.name for output in runs.get_outputs()), constants)


def run(session: Session, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, Array]:
    """All outputs of a session by name, as float64. Raises VerificationFailed if the graph does not run, and
    LimitExceeded."""

    def failed(text: str) -> ExportError:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        return internal_check_failed(f"the graph does not run on {shapes}: {text[:200]}")

    with _refusing(failed):
        values = session.runs.run(session.outputs, {**feeds, **session.constants})
    return {name: np.asarray(value, dtype=np.float64) for name, value in zip(session.outputs, values, strict=True)}


ROWS_AT_ONCE = 1024


def run_graph(lowered: Lowered, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, Array]:
    """All outputs of the graph for inference by name, as float64, computed in chunks of ROWS_AT_ONCE rows. Raises as
    `session` and `run`."""
    graph = session(lowered.model, lowered.weights, optimization=lowered.optimization)
    rows = len(next(iter(feeds.values())))
    parts = [
        run(graph, {name: values[at : at + ROWS_AT_ONCE] for name, values in feeds.items()})
        for at in range(0, rows, ROWS_AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in graph.outputs}


def _not_loaded(text: str) -> ExportError:
    kernel = text.rpartition("implementation for")[2].strip()[:40]
    return InvalidKan(
        f"onnxruntime {onnxruntime.__version__} cannot load the graph"
        + (f": it has no kernel for {kernel}" if "NOT_IMPLEMENTED" in text else ""),
        code="graph-not-supported",
        hint="export with --dtype float32: some functions have no float64 kernel",
    )


@contextlib.contextmanager
def _refusing(refusal: Callable[[str], ExportError]) -> Iterator[None]:
    """Converts errors of onnxruntime with a function of their text. Raises LimitExceeded for a failed allocation."""
    try:
        yield
    except Exception as error:  # onnxruntime's errors share no public base class
        if console.out_of_memory(error):
            raise memory_limit_exceeded(
                "the graph needs more memory than this process may have",
                hint="free memory, or raise the memory limit of the process",
            ) from error
        raise refusal(str(error)) from error


def name() -> str:
    """The runtime and its version, for the verification in the manifest."""
    return f"onnxruntime {onnxruntime.__version__} on CPU"


FLOAT = "float"  # of the graph's own type


@dataclass(frozen=True, slots=True)
class Port:
    """Input or output of a graph.

    shape  of a row
    kind   `FLOAT`, or the name of a numpy type that holds whole numbers or truth values
    """

    name: str
    shape: tuple[int, ...]
    kind: str = FLOAT

    @property
    def size(self) -> int:
        """The number of values per row."""
        return math.prod(self.shape)

    def cast(self, rows: Array, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Rows in the type that a graph takes. Whole numbers are rounded; a value that is not finite becomes 0."""
        if self.kind == FLOAT:
            return rows.astype(dtype)
        return np.rint(np.where(np.isfinite(rows), rows, 0)).astype(self.kind)


@dataclass(frozen=True, slots=True)
class Ports:
    """Inputs and outputs of a model, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def feeds(self, x: Array, dtype: npt.DTypeLike) -> dict[str, npt.NDArray[np.generic]]:
        """The inputs of the graph by name, from rows as one array."""
        return {
            port.name: port.cast(rows, dtype) for port, rows in zip(self.inputs, split(self.inputs, x), strict=True)
        }

    def float64_inputs(self, x: Array) -> dict[str, Array]:
        """The inputs by name, in float64."""
        return dict(zip((port.name for port in self.inputs), split(self.inputs, x), strict=True))

    def float64_outputs(self, y: Array) -> dict[str, Array]:
        """The outputs by name, in float64."""
        return dict(zip((port.name for port in self.outputs), split(self.outputs, y), strict=True))


def split(ports: Sequence[Port], rows: Array) -> list[Array]:
    """One array of rows as one array for each port, [B, *shape]."""
    if len(ports) == 1:
        return [rows]
    ends = np.cumsum([port.size for port in ports])[:-1]
    parts = np.split(rows, ends, axis=1)
    return [part.reshape(len(rows), *port.shape) for port, part in zip(ports, parts, strict=True)]


def join(parts: Sequence[Array]) -> Array:
    """The inverse: [B, ...] as it is, several arrays as [B, N]."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)
