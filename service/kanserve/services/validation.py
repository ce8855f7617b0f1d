"""Parameters of an inference request, and its limits, for every protocol: gRPC and REST apply the same rules.

The order of the checks and their texts are Triton's, so that a client that was written for Triton gets the same errors.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kanexport.shared.cli.suggest import advice
from kanexport.shared.error_bars import NAME as ERROR_BAR
from kanserve.analysis.intervals import NAME as INTERVAL
from kanserve.errors import BadRequest, ResourceExhausted, Unsupported
from kanserve.insight.coverage import OutOfRangeInput
from kanserve.types import BYTES, NUMPY_DTYPES, Array, InferRequest, InputTensor, Insight, ModelInfo, TensorInfo

# A few megabytes can name a million tensors; reading them would block the event loop for seconds.
COUNT_LIMITS = {"inputs": 64, "outputs": 64, "parameters": 64, "raw_input_contents": 64}
DIMENSION_LIMIT = 16
CLASSES, SHARED_MEMORY = "classification", "shared_memory_region"  # parameters of an output
PREFIX, COVERAGE, TOP_K = "kan.", "kan.coverage", "kan.explain_top_k"
MOST_TOP_K = 20
# Parameters of Triton and kanserve -> accepted members of InferParameter.
PARAMETERS = {
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    "triton_enable_empty_final_response": ("bool_param",),
    COVERAGE: ("bool_param",),
    TOP_K: ("int64_param", "uint64_param"),
}


class Parameter(NamedTuple):
    """Value with its member of InferParameter, such as ("int64_param", 5); ("", None) without a value."""

    kind: str
    value: str | int | float | bool | None


class Options(NamedTuple):
    """Checked parameters of a request."""

    queue_timeout: float | None = None  # seconds
    priority: int = 0  # 1 is the highest, 0 the default
    insight: Insight | None = None


def options(parameters: Mapping[str, Parameter]) -> Options:
    """Check the parameters of a request. Raises BadRequest."""
    if not parameters:
        return Options()
    timeout, priority = None, 0
    for key, (kind, value) in parameters.items():
        if key in PARAMETERS:
            words = " or ".join(PARAMETERS[key])
            if kind not in PARAMETERS[key]:
                raise BadRequest(
                    f"invalid value type for '{key}' parameter, expected {words}.",
                    code="parameter-type-wrong",
                    hint=f"send the parameter as {words}",
                )
        elif key.startswith(PREFIX):
            raise BadRequest(
                f"unknown parameter '{key[:80]}'",
                code="parameter-unknown",
                hint=advice(key, (COVERAGE, TOP_K), what="parameters", prefix=PREFIX),
            )
        elif key.startswith("triton_"):
            raise BadRequest(
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
                "starting with 'triton_' are allowed: triton_enable_empty_final_response",
                code="parameter-unknown",
                hint="remove the parameter, or give it another name",
            )
        elif not kind:
            raise BadRequest(
                f"invalid value type for '{key}' parameter, expected int64_param, bool_param, or string_param.",
                code="parameter-type-wrong",
                hint="send a value with the parameter",
            )
        if key == "timeout":
            if _integer(value) < 0:
                raise BadRequest(
                    "invalid value for 'timeout' parameter, expected microseconds >= 0.",
                    code="parameter-value-invalid",
                    hint="send 0 for no timeout, or a number of microseconds",
                )
            timeout = _integer(value) / 1e6 or None  # 0 is Triton's "no timeout"
        if key == "priority":
            priority = _integer(value)
            if priority < 0:
                raise BadRequest(
                    "invalid value for 'priority', expected value >= 0.",
                    code="parameter-value-invalid",
                    hint="send 0 for the default priority, or 1 for the highest one",
                )
    return Options(timeout, priority, _insight(parameters))


def check_tensor(name: str, keys: Iterable[str]) -> None:
    """Check the parameter names of an input or output. Raises Unsupported for shared memory."""
    for key in keys:
        if key.startswith("shared_memory"):
            raise Unsupported(
                f"tensor '{name}': shared memory is not supported",
                code="shared-memory-not-supported",
                hint="send the tensor in the request",
            )


def classes(name: str, keys: Collection[str], read: Callable[[str], Parameter]) -> list[tuple[str, int]]:
    """The number of classes that a request sets for an output, if any. Raises BadRequest, Unsupported.

    keys  names of the output's parameters
    read  returns the value of one; it is called only for parameters that decide, because an output may have many
    """
    if CLASSES not in keys:
        check_tensor(name, keys)
        return []
    if SHARED_MEMORY in keys:
        raise BadRequest(
            f"output can't set both '{SHARED_MEMORY}' and '{CLASSES}'",
            code="parameters-conflict",
            hint=f"send only the parameter {CLASSES}",
        )
    kind, value = read(CLASSES)
    if kind != "int64_param":
        raise BadRequest(
            f"invalid value type for '{CLASSES}' parameter, expected int64_param",
            code="parameter-type-wrong",
            hint="send the parameter as int64_param",
        )
    if _integer(value) <= 0:
        raise BadRequest(
            f"invalid value for '{CLASSES}' parameter, expected >= 0",
            code="parameter-value-invalid",
            hint="send the number of classes, 1 or more",
        )
    return [(name, _integer(value))]


def no_data(model: str, name: str) -> BadRequest:
    """The error for an input without data."""
    return BadRequest(
        f"unable to find data for input tensor '{name}' for model '{model}' in request.",
        code="input-data-missing",
        hint="send raw_input_contents for each input, or contents in each input",
    )


def _insight(parameters: Mapping[str, Parameter]) -> Insight | None:
    if not (COVERAGE in parameters or TOP_K in parameters):
        return None
    top_k = _integer(parameters[TOP_K].value) if TOP_K in parameters else 0
    if not 0 <= top_k <= MOST_TOP_K:
        raise BadRequest(
            f"invalid value for '{TOP_K}', expected 0 to {MOST_TOP_K}, got {top_k}",
            code="parameter-value-invalid",
            hint="send a smaller number, or send an Explain request for all contributions",
        )
    coverage = COVERAGE in parameters and parameters[COVERAGE].value is True
    return Insight(coverage, top_k) if coverage or top_k else None


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0


BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended "
    "to each input shape. If you want to specify the full shape including the batch dim in your input dims "
    "config, try setting max_batch_size to zero. See the model configuration docs for more info on "
    "max_batch_size."
)
SHOWN, LONGEST = 8, 64  # tensors in an error, characters of the name of one


def validate(info: ModelInfo, request: InferRequest) -> int:
    """The number of rows of a request. Raises BadRequest for the first fault."""
    prefix = prefix_of(request)
    _names(info, request, prefix)
    expected = {tensor.name: tensor for tensor in info.inputs}
    for tensor in request.inputs:
        if any(extent < 0 for extent in tensor.shape):
            raise BadRequest(
                f"{prefix}All input dimensions should be specified for input '{tensor.name}' "
                f"for model '{info.name}', got {_list(tensor.shape)}",
                code="input-shape-wrong",
                hint="send a shape without negative numbers",
            )
    rows = _rows(info, request, prefix)
    for tensor in request.inputs:
        known = expected[tensor.name]
        if tensor.datatype != known.datatype:
            raise BadRequest(
                f"{prefix}inference input '{tensor.name}' data-type is '{tensor.datatype}', "
                f"but model '{info.name}' expects '{known.datatype}'",
                code="input-datatype-wrong",
                hint=f"convert the input to {known.datatype}",
            )
        fits = len(tensor.shape) == len(known.shape) and all(
            want in (-1, have) for want, have in zip(known.shape, tensor.shape, strict=True)
        )
        if not fits:
            note = f" {BATCH_NOTE}" if info.max_batch_size else ""
            raise BadRequest(
                f"{prefix}unexpected shape for input '{tensor.name}' for model '{info.name}'. "
                f"Expected {_list(known.shape)}, got {_list(tensor.shape)}.{note}",
                code="input-shape-wrong",
                hint="send the shape that the model expects; -1 is any number",
            )
        # Strings are counted later. Python integers do not overflow.
        size = math.prod(tensor.shape) * NUMPY_DTYPES[tensor.datatype].itemsize
        if size != len(tensor.data) and tensor.datatype != BYTES:
            raise BadRequest(
                f"{prefix}input byte size mismatch for input '{tensor.name}' for model '{info.name}'. "
                f"Expected {size}, got {len(tensor.data)}",
                code="input-size-wrong",
                hint="send as many values as the shape has",
            )
    return rows


def _names(info: ModelInfo, request: InferRequest, prefix: str) -> None:
    expected = [tensor.name for tensor in info.inputs]
    names = [tensor.name for tensor in request.inputs]
    _once("input", names, prefix)
    if len(names) < len(expected):
        missing = [name for name in expected if name not in names]
        raise BadRequest(
            f"{prefix}expected {len(expected)} inputs but got {len(names)} inputs for model '{info.name}'. "
            f"Got input(s) [{_quoted(names)}], but missing required input(s) [{_quoted(missing)}]. "
            f"Please provide all required input(s).{_there_are('input', info.inputs)}",
            code="input-missing",
            hint="send all inputs of the model",
        )
    for name in names:
        if name not in expected:
            there = _there_are("input", info.inputs)
            raise BadRequest(
                f"unexpected inference input '{name}' for model '{info.name}'{there}",
                code="input-unknown",
                hint=advice(name[:LONGEST], expected[:SHOWN], what="inputs"),
            )


def _once(what: str, names: Sequence[str], prefix: str) -> None:
    unique: set[str] = set()
    for name in names:
        if name in unique:
            raise BadRequest(
                f"{prefix}{what} '{name}' already exists in request",
                code="tensor-duplicate",
                hint=f"send each {what} once",
            )
        unique.add(name)


def _rows(info: ModelInfo, request: InferRequest, prefix: str) -> int:
    if info.max_batch_size == 0:
        return 1
    rows = -1
    for tensor in request.inputs:
        if not tensor.shape:
            raise BadRequest(
                f"{prefix}input '{tensor.name}' has no shape but model requires batch dimension for '{info.name}'",
                code="input-shape-wrong",
                hint="send the number of rows as the first dimension",
            )
        if rows not in (-1, tensor.shape[0]):
            raise BadRequest(
                f"{prefix}input '{tensor.name}' batch size does not match other inputs for '{info.name}'",
                code="batch-sizes-differ",
                hint="send the same number of rows in all inputs",
            )
        rows = tensor.shape[0]
    if rows > info.max_batch_size:
        raise BadRequest(
            f"{prefix}inference request batch-size must be <= {info.max_batch_size} for '{info.name}'",
            code="batch-too-large",
            hint="send fewer rows in one request",
        )
    return rows


def requested_outputs(info: ModelInfo, request: InferRequest) -> tuple[TensorInfo, ...]:
    """The requested outputs of the graph, in the order of the request; all outputs if the request names none."""
    if not request.outputs:
        return info.outputs
    known = {tensor.name: tensor for tensor in info.outputs}
    _once("output", request.outputs, prefix_of(request))
    for name in request.outputs:
        if name not in known and name not in (INTERVAL, ERROR_BAR):
            there = _there_are("output", info.outputs)
            raise BadRequest(
                f"unexpected inference output '{name}' for model '{info.name}'{there}",
                code="output-unknown",
                hint=advice(name[:LONGEST], list(known)[:SHOWN], what="outputs"),
            )
    return tuple(known[name] for name in request.outputs if name in known)


def beyond(info: ModelInfo, place: OutOfRangeInput, count: int, rows: int) -> BadRequest:
    """The error of a request with `count` rows out of range; the first one is at this place."""
    named = info.manifest.names.feature(place.feature) if info.manifest is not None else str(place.feature)
    return BadRequest(
        f"row {place.row}: '{named}' is {place.value:.6g} for model '{info.name}', outside its range "
        f"{place.first:.6g} to {place.last:.6g} (rows outside: {count} of {rows})",
        code="row-out-of-range",
        hint="remove these rows, or export the model with another --out-of-range",
    )


def prefix_of(request: InferRequest) -> str:
    """The prefix of most of Triton's error texts about a request."""
    return f"[request id: {request.id or '<id_unknown>'}] "


def _there_are(what: str, tensors: Sequence[TensorInfo]) -> str:
    """Text such as `; the model has input "x" [-1, 4] FP32`; if there are many tensors, only the first ones."""
    shown = ", ".join(f'"{tensor.name[:LONGEST]}" {list(tensor.shape)} {tensor.datatype}' for tensor in tensors[:SHOWN])
    more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
    return f"; the model has {what}{'s' if len(tensors) > 1 else ''} {shown}{more}"


def _list(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


LENGTH = struct.Struct("<I")
STRING_HINT = "send each string as its length in 4 bytes, little-endian, and its bytes"


def numbers(tensor: InputTensor) -> Array:
    """A read-only view of the bytes, if their number fits the shape. The runtime accepts read-only arrays."""
    return np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.datatype]).reshape(tensor.shape)


def strings(tensor: InputTensor, model: str, *, most: int, prefix: str = "") -> Array:
    """An array of str. Raises ResourceExhausted for more than `most` strings. Raises BadRequest, with Triton's text
    after `prefix`, for bytes that do not fit the shape or are not UTF-8."""
    count = math.prod(tensor.shape)
    if count > most:
        raise ResourceExhausted(
            f"{prefix}input '{tensor.name}' of model '{model}' has {count} strings, expected at most {most}",
            code="too-many-strings",
            hint="send fewer rows in one request",
        )
    where = f"for inference input '{tensor.name}' for model '{model}'"
    try:
        texts = list(_texts(tensor.data, count, where))
    except BadRequest as error:
        raise BadRequest(f"{prefix}{error}", code=error.code, hint=error.hint) from error
    array = np.empty(count, object)
    array[:] = texts
    return array.reshape(tensor.shape)


def packed(datatype: str, values: Array) -> bytes:
    """The bytes of an array on the wire."""
    if datatype == BYTES:
        return joined(text.encode() for text in values.ravel().tolist())
    return np.ascontiguousarray(values, NUMPY_DTYPES[datatype]).tobytes()


def joined(parts: Iterable[bytes]) -> bytes:
    """The bytes of strings on the wire."""
    return b"".join(itertools.chain.from_iterable((LENGTH.pack(len(part)), part) for part in parts))


def parted(data: bytes) -> Iterator[bytes]:
    """The inverse of `joined`."""
    at = 0
    while at < len(data):
        (length,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size + length
        yield data[at - length : at]


def _texts(data: bytes, count: int, where: str) -> Iterator[str]:
    """The `count` strings of an input. Raises BadRequest."""
    at = number = 0
    while at < len(data):
        begin = at + LENGTH.size
        if begin > len(data):
            raise BadRequest(
                f"incomplete string length indicator {where}, expecting {LENGTH.size} bytes but only "
                f"{len(data) - at} bytes available.",
                code="string-data-invalid",
                hint=STRING_HINT,
            )
        (length,) = LENGTH.unpack_from(data, at)
        at = begin + length
        number += 1
        if number > count:
            raise BadRequest(
                f"unexpected number of string elements {number} {where}, expecting {count}",
                code="string-data-invalid",
                hint=STRING_HINT,
            )
        if at > len(data):
            raise BadRequest(
                f"incomplete string data {where}, expecting string of length {length} but only "
                f"{len(data) - begin} bytes available",
                code="string-data-invalid",
                hint=STRING_HINT,
            )
        try:
            yield data[begin:at].decode()
        except UnicodeDecodeError as error:
            raise BadRequest(
                f"string {number - 1} {where} is not UTF-8",
                code="string-not-utf8",
                hint="encode strings as UTF-8",
            ) from error
    if number != count:
        raise BadRequest(
            f"expected {count} string elements {where}, got {number}",
            code="string-data-invalid",
            hint=STRING_HINT,
        )
