"""onnxruntime as the exporter uses it: to run a graph that is to be proved."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, VerificationFailed
from kanexport.shared.quiet_runtime import onnxruntime

Array = npt.NDArray[np.float64]


def session(model: bytes) -> Any:
    """A session on one thread. Raises InvalidKan if the runtime cannot run the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # a model of many layers has as many sessions
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        text = str(error)
        kernel = text.rpartition("implementation for")[2].strip()[:40]
        raise InvalidKan(
            f"onnxruntime {onnxruntime.__version__} cannot run the graph"
            + (f": it has no kernel for {kernel}" if "NOT_IMPLEMENTED" in text else ""),
            hint="export in float32; not every function has a float64 kernel",
        ) from error


def run(prepared: Any, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, Array]:
    """All outputs by name, as float64. Raises VerificationFailed."""
    names = [output.name for output in prepared.get_outputs()]
    try:
        values = prepared.run(names, feeds)
    except Exception as error:  # as above
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        raise VerificationFailed(f"the graph does not run on {shapes}: {str(error)[:200]}") from error
    return {name: np.asarray(value, dtype=np.float64) for name, value in zip(names, values, strict=True)}


def name() -> str:
    """The runtime and its version, as the manifest's verification names it."""
    return f"onnxruntime {onnxruntime.__version__} on CPU"
