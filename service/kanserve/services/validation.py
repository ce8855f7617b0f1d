"""Checks of an inference request against its model, before it runs.

The order of the checks and their texts are Triton's, so that a client that was written for Triton gets the same errors.
If a name is wrong, the text continues with the inputs or outputs of the model.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from kanserve.errors import BadRequest, ResourceExhausted
from kanserve.insight.coverage import OutOfRangeInput
from kanserve.types import BYTES, NUMPY_DTYPES, Array, InferRequest, InputTensor, ModelInfo, TensorInfo

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
                f"for model '{info.name}', got {_list(tensor.shape)}"
            )
    rows = _rows(info, request, prefix)
    for tensor in request.inputs:
        _check(info, tensor, expected[tensor.name], prefix)
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
            f"Please provide all required input(s).{_there_are('input', info.inputs)}"
        )
    for name in names:
        if name not in expected:
            there = _there_are("input", info.inputs)
            raise BadRequest(f"unexpected inference input '{name}' for model '{info.name}'{there}")


def _once(what: str, names: Sequence[str], prefix: str) -> None:
    unique: set[str] = set()
    for name in names:
        if name in unique:
            raise BadRequest(f"{prefix}{what} '{name}' already exists in request")
        unique.add(name)


def _rows(info: ModelInfo, request: InferRequest, prefix: str) -> int:
    if info.max_batch_size == 0:
        return 1
    rows = -1
    for tensor in request.inputs:
        if not tensor.shape:
            raise BadRequest(
                f"{prefix}input '{tensor.name}' has no shape but model requires batch dimension for '{info.name}'"
            )
        if rows not in (-1, tensor.shape[0]):
            raise BadRequest(f"{prefix}input '{tensor.name}' batch size does not match other inputs for '{info.name}'")
        rows = tensor.shape[0]
    if rows > info.max_batch_size:
        raise BadRequest(f"{prefix}inference request batch-size must be <= {info.max_batch_size} for '{info.name}'")
    return rows


def _check(info: ModelInfo, tensor: InputTensor, expected: TensorInfo, prefix: str) -> None:
    """Datatype, then shape, then byte count (of strings later); in Python integers, so nothing overflows."""
    if tensor.datatype != expected.datatype:
        raise BadRequest(
            f"{prefix}inference input '{tensor.name}' data-type is '{tensor.datatype}', "
            f"but model '{info.name}' expects '{expected.datatype}'"
        )
    fits = len(tensor.shape) == len(expected.shape) and all(
        want in (-1, have) for want, have in zip(expected.shape, tensor.shape, strict=True)
    )
    if not fits:
        note = f" {BATCH_NOTE}" if info.max_batch_size else ""
        raise BadRequest(
            f"{prefix}unexpected shape for input '{tensor.name}' for model '{info.name}'. "
            f"Expected {_list(expected.shape)}, got {_list(tensor.shape)}.{note}"
        )
    size = math.prod(tensor.shape) * NUMPY_DTYPES[tensor.datatype].itemsize
    if size != len(tensor.data) and tensor.datatype != BYTES:
        raise BadRequest(
            f"{prefix}input byte size mismatch for input '{tensor.name}' for model '{info.name}'. "
            f"Expected {size}, got {len(tensor.data)}"
        )


def requested_outputs(info: ModelInfo, request: InferRequest) -> tuple[TensorInfo, ...]:
    """The outputs asked for, in this order; all of them if none is named."""
    if not request.outputs:
        return info.outputs
    known = {tensor.name: tensor for tensor in info.outputs}
    _once("output", request.outputs, prefix_of(request))
    for name in request.outputs:
        if name not in known:
            there = _there_are("output", info.outputs)
            raise BadRequest(f"unexpected inference output '{name}' for model '{info.name}'{there}")
    return tuple(known[name] for name in request.outputs)


def beyond(info: ModelInfo, place: OutOfRangeInput, count: int, rows: int) -> BadRequest:
    """The refusal of a request of which `count` of the rows are outside, the first of them at this place."""
    named = info.manifest.names.feature(place.feature) if info.manifest is not None else str(place.feature)
    return BadRequest(
        f"row {place.row}: '{named}' is {place.value:.6g} where model '{info.name}' reads it, outside its range "
        f"{place.first:.6g} to {place.last:.6g} (rows outside: {count} of {rows}); its export refuses such rows "
        "(--out-of-range reject)"
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


def numbers(tensor: InputTensor) -> Array:
    """A view of the bytes, whose count fits the shape; read-only, which the runtime does not mind."""
    return np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.datatype]).reshape(tensor.shape)


def strings(tensor: InputTensor, model: str, *, most: int, prefix: str = "") -> Array:
    """An array of str. Raises ResourceExhausted for more than `most`; BadRequest, in Triton's words behind `prefix`,
    for bytes that do not fit the shape, or are not UTF-8."""
    count = math.prod(tensor.shape)
    if count > most:
        raise ResourceExhausted(
            f"{prefix}input '{tensor.name}' of model '{model}' has {count} strings, one input may have {most}; "
            "send fewer rows in one request"
        )
    where = f"for inference input '{tensor.name}' for model '{model}'"
    try:
        texts = list(_texts(tensor.data, count, where))
    except BadRequest as error:
        raise BadRequest(f"{prefix}{error}") from error
    array = np.empty(count, object)
    array[:] = texts
    return array.reshape(tensor.shape)


def packed(datatype: str, values: Array) -> bytes:
    """An array's bytes on the wire."""
    if datatype == BYTES:
        return joined(text.encode() for text in values.ravel().tolist())
    return np.ascontiguousarray(values, NUMPY_DTYPES[datatype]).tobytes()


def joined(parts: Iterable[bytes]) -> bytes:
    """Strings as they lie on the wire."""
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
                f"{len(data) - at} bytes available."
            )
        (length,) = LENGTH.unpack_from(data, at)
        at = begin + length
        number += 1
        if number > count:
            raise BadRequest(f"unexpected number of string elements {number} {where}, expecting {count}")
        if at > len(data):
            raise BadRequest(
                f"incomplete string data {where}, expecting string of length {length} but only "
                f"{len(data) - begin} bytes available"
            )
        try:
            yield data[begin:at].decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"string {number - 1} {where} is not UTF-8, which the runtime's strings are") from error
    if number != count:
        raise BadRequest(f"expected {count} string elements {where}, got {number}")
