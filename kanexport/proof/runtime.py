"""onnxruntime as the exporter uses it: to run a graph that is to be proved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import ExportError, InvalidKan, VerificationFailed
from kanexport.manifest import ANY, BASIC, WEIGHTS_FILE
from kanexport.operators.weights import Weights
from kanexport.shared.quiet_runtime import onnxruntime

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Session:
    """A graph that is ready to run. `given`: constants of the model's file, by name, which every run is
    given: a runtime would copy them for each graph."""

    runs: Any
    outputs: tuple[str, ...]
    given: dict[str, npt.NDArray[Any]]


def session(model: bytes, weights: Weights | None = None, library: str = "", optimization: str = ANY) -> Session:
    """A session on one thread. `weights`: the file that the graph takes constants from; `library`: a file with
    operators of the graph; `optimization`: how far the runtime may change the graph. Raises InvalidKan if the
    runtime cannot run the graph."""
    given: dict[str, npt.NDArray[Any]] = {}
    options = onnxruntime.SessionOptions()
    if weights is not None and library:  # whose operators take constants alone
        data = b"".join(weights.content())
        options.add_external_initializers_from_files_in_memory([WEIGHTS_FILE], [data], [len(data)])
    elif weights is not None:
        model, given = weights.beside(model)
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # a model of many layers has as many sessions
    options.log_severity_level = 4
    if optimization == BASIC:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with _refusing(_not_loaded):
        if library:
            options.register_custom_ops_library(library)
        made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Session(made, tuple(output.name for output in made.get_outputs()), given)


def run(session: Session, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, Array]:
    """All outputs of a session by name, as float64. Raises VerificationFailed where the graph does not run."""

    def failed(text: str) -> ExportError:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        return VerificationFailed(f"the graph does not run on {shapes}: {text[:200]}")

    with _refusing(failed):
        values = session.runs.run(session.outputs, {**feeds, **session.given})
    return {name: np.asarray(value, dtype=np.float64) for name, value in zip(session.outputs, values, strict=True)}


def _not_loaded(text: str) -> ExportError:
    kernel = text.rpartition("implementation for")[2].strip()[:40]
    return InvalidKan(
        f"onnxruntime {onnxruntime.__version__} cannot run the graph"
        + (f": it has no kernel for {kernel}" if "NOT_IMPLEMENTED" in text else ""),
        hint="export in float32; not every function has a float64 kernel",
    )


@contextlib.contextmanager
def _refusing(refusal: Callable[[str], ExportError]) -> Iterator[None]:
    """onnxruntime's errors as ours, made from their text."""
    try:
        yield
    except Exception as error:  # onnxruntime's errors share no public base class
        raise refusal(str(error)) from error


def name() -> str:
    """The runtime and its version, as the manifest's verification names it."""
    return f"onnxruntime {onnxruntime.__version__} on CPU"
