"""Sessions of ONNX Runtime: from bytes, on the requested device or with an error."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanexport.shared.manifest import ANY, BASIC
from kanexport.shared.ort import onnxruntime
from kanserve.errors import BackendError, ConfigError, FailedPrecondition, LoadError, LoadReason, ResourceExhausted
from kanserve.runtime.base import NOTHING, SessionOptions
from kanserve.types import BF16, BYTES, NUMPY_DTYPES, Array, TensorInfo

state = onnxruntime.capi.onnxruntime_pybind11_state
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# That provider multiplies matrices with ten bits of mantissa by default, which would exceed the verified errors.
EXACT = {"cpu": {}, "cuda": {"use_tf32": "0"}}
DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": BF16,
    "tensor(string)": BYTES,
}
BFLOAT16 = 16  # ONNX's number of the type
ERRORS = (
    state.EPFail,
    state.EngineError,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.ModelLoaded,
    state.NoModel,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
)
# Every error also comes as an exception; a second copy on stderr would break JSON logs.
SILENT = 4
# No other device, because the runtime would print lines on stdout, and no options from a graph.
PLAIN = {"enable_fallback": 0, "read_config_from_model": 0}
STATUS = "Status Message: "  # the text after it is about the run, the text before it about the graph
VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|-?\d[\d.]*(?:[eE][+-]?\d+)?")
MEMORY_WORDS = ("failed to allocate", "bad_alloc", "out of memory", "allocate memory")


def version() -> str:
    """Name and version of the runtime."""
    return f"onnxruntime {onnxruntime.__version__}"


def check(device: str) -> None:
    """Raises ConfigError if `device` has no provider here."""
    available = onnxruntime.get_available_providers()
    if PROVIDERS.get(device) not in available:
        usable = ", ".join(name for name, offered in PROVIDERS.items() if offered in available)
        raise ConfigError(
            f"device {device!r} is not available, expected one of {usable}",
            code="device-not-available",
            hint="install onnxruntime-gpu in place of onnxruntime (the extra `gpu`)"
            if device == "cuda"
            else f"set device to one of {usable}",
        )


def create(
    graph: bytes,
    options: SessionOptions,
    *,
    beside: Mapping[str, bytes] = NOTHING,
    optimization: str = ANY,
) -> OrtSession:
    """Prepare a graph from its bytes. Raises ConfigError if the device has no provider here, LoadError if the runtime
    rejects the graph.

    beside        the files, by name, that hold its weights
    optimization  optimization level of the runtime, as in the manifest
    """
    check(options.device)
    provider = (PROVIDERS[options.device], EXACT[options.device])
    onnxruntime.set_default_logger_severity(SILENT)
    native = _options(options.device, options.threads, beside)
    if optimization == BASIC:
        native.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        if options.library:
            native.register_custom_ops_library(options.library)
        session = onnxruntime.InferenceSession(graph, native, [provider], **PLAIN)
    except ERRORS as error:
        raise _refusal(str(error)) from error
    except MemoryError as error:
        raise _refusal("bad_alloc") from error
    except UnicodeDecodeError as error:  # its text quotes a name in the graph
        raise _refusal("") from error
    return _wrapped(session, options.device)


def _wrapped(session: Any, device: str) -> OrtSession:
    # ORT falls back without an exception when a provider cannot start.
    if session.get_providers()[0] != PROVIDERS[device]:
        raise ConfigError(
            f"device {device!r} could not be started",
            code="device-not-started",
            hint="check the driver of the device with `kanserve doctor`, or set device to cpu",
        )
    tensors = (*session.get_inputs(), *session.get_outputs())
    kind = Bfloat16Session if any(DATATYPES.get(tensor.type) == BF16 for tensor in tensors) else OrtSession
    try:
        return kind(session)
    except UnicodeDecodeError as error:  # the name of a tensor, or of one of its extents
        raise _refusal("") from error


class OrtSession:
    """Session with one InferenceSession of ONNX Runtime. Implements `base.Session`."""

    def __init__(self, session: Any) -> None:
        """Raises LoadError for a tensor type that has no protocol datatype."""
        self._session = session
        self.inputs = tuple(_info(node) for node in session.get_inputs())
        self.outputs = tuple(_info(node) for node in session.get_outputs())

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """See `base.Session.run`."""
        try:
            return self._run(outputs, feeds)
        except ERRORS as error:
            if _memory(str(error)):
                raise ResourceExhausted(
                    "there is not enough memory for this request",
                    code="request-out-of-memory",
                    hint="send fewer rows in one request",
                ) from error
            # Numbers and quoted words may come from a client's tensor. The node's name and the kind of error stay. The
            # original text would be in the traceback.
            before, mark, after = str(error).partition(STATUS)
            text = before + mark + VALUES.sub("#", after) if mark else VALUES.sub("#", before)
            raise BackendError(text, code="execution-failed") from None
        except UnicodeDecodeError as error:
            raise FailedPrecondition(
                "the model returns a string that is not UTF-8, which the runtime cannot return",
                code="output-not-utf8",
                hint="correct the strings in the model, and export it again",
            ) from error
        except ValueError as error:  # the graph does not have the inputs that it declares
            raise BackendError(str(error), code="execution-failed") from error

    def _run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        result: list[Array] = self._session.run(outputs, feeds)
        return result


class Bfloat16Session(OrtSession):
    """Session with bfloat16 tensors. numpy has no such type, so the runtime reads and writes their bit patterns in
    place."""

    def __init__(self, session: Any) -> None:
        """Raises LoadError for inputs that this runtime does not take."""
        super().__init__(session)
        if any(tensor.datatype == BYTES for tensor in self.inputs):
            raise LoadError(
                LoadReason.RUNTIME,
                "the graph has both string inputs and BF16 tensors, which the runtime does not take together",
                code="tensor-types-conflict",
                hint="use FP32 in place of BF16, and export the model again",
            )
        self._short = {tensor.name for tensor in (*self.inputs, *self.outputs) if tensor.datatype == BF16}

    def _run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        values = {name: self._value(name, array) for name, array in feeds.items()}
        results = self._session.run_with_ort_values(outputs, values)
        return [
            _bits(value) if name in self._short else value.numpy() for name, value in zip(outputs, results, strict=True)
        ]

    def _value(self, name: str, array: Array) -> Any:
        array = np.asarray(array, order="C")
        if name in self._short:
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _bits(value: Any) -> Array:
    """A copy of the bit patterns in a bfloat16 tensor. Raises BackendError for memory of a device."""
    if value.device_name() != "cpu":
        raise BackendError(f"a bfloat16 output is in memory of {value.device_name()}", code="execution-failed")
    dtype, shape = NUMPY_DTYPES[BF16], tuple(value.shape())
    data = ctypes.string_at(value.data_ptr(), math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


def _options(device: str, threads: int, beside: Mapping[str, bytes]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = SILENT
    # Spinning burns the quota of a container while nothing is to be done.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The arena keeps the memory of the largest batch, and is not faster than malloc
    # while large requests run in chunks (`models.tuning`).
    options.enable_cpu_mem_arena = False
    # Otherwise the bytes decide whether they are ONNX or the runtime's format, which the load check does not screen.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # A graph made from bytes would find its external data in the working directory, unchecked.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    if beside:  # in memory; the runtime copies them while it makes the session
        if not hasattr(options, "add_external_initializers_from_files_in_memory"):
            raise LoadError(
                LoadReason.RUNTIME,
                f"{version()} cannot read weights from memory, which {', '.join(beside)} requires",
                code="runtime-too-old",
                hint="install onnxruntime 1.24 or later",
            )
        data = list(beside.values())
        options.add_external_initializers_from_files_in_memory(list(beside), data, [len(part) for part in data])
    if device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _info(node: Any) -> TensorInfo:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise LoadError(
            LoadReason.RUNTIME,
            f"tensor {node.name!r} has type {node.type}, which kanserve does not support",
            code="tensor-type-not-supported",
            hint="export the model with another datatype",
        )
    return TensorInfo(node.name, datatype, tuple(extent if isinstance(extent, int) else -1 for extent in node.shape))


def _refusal(text: str) -> LoadError:
    """Error with a text that the user can act on. The text of the runtime may contain paths."""
    if "external" in text.lower():
        return LoadError(
            LoadReason.RUNTIME,
            "the graph has weights in files that are not files of this version (external data)",
            code="graph-external-data",
            hint="export the model again",
        )
    if _memory(text):
        return LoadError(
            LoadReason.MEMORY,
            "there is not enough memory to load the graph",
            code="load-out-of-memory",
            hint="give the server more memory, or raise load_memory_bytes for the load check",
        )
    return LoadError(
        LoadReason.RUNTIME,
        "the runtime cannot load the graph: it is damaged, or has operators that this runtime does not know",
        code="graph-not-loadable",
        hint="export the model again, or install a newer onnxruntime",
    )


def _memory(text: str) -> bool:
    return any(word in text.lower() for word in MEMORY_WORDS)
