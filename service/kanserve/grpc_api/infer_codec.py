"""Codec of ModelInfer messages: protobuf to `InferRequest`, and `InferResponse` to protobuf.

This module checks only the form of a message. `services/validation.py` checks parameters, and the request against its
model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from kanserve.errors import BadRequest, ResourceExhausted
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb.wire import read_varint
from kanserve.services import validation
from kanserve.services.validation import Parameter
from kanserve.system import resources
from kanserve.types import BYTES, NUMPY_DTYPES, InferRequest, InferResponse, InputTensor

INDEX_LIMIT = 2**16

# Checked before a large message is built. Packed numbers are one field; strings and layer names are one each.
WIDE = {"InferTensorContents": INDEX_LIMIT}

# Field of InferTensorContents -> datatypes it may carry; the first names it in errors.
CONTENTS = {
    "bool_contents": ("BOOL",),
    "int_contents": ("INT32", "INT8", "INT16"),
    "int64_contents": ("INT64",),
    "uint_contents": ("UINT32", "UINT8", "UINT16"),
    "uint64_contents": ("UINT64",),
    "fp32_contents": ("FP32",),
    "fp64_contents": ("FP64",),
    "bytes_contents": ("BYTES",),
}
M = TypeVar("M", bound=Message)


async def parsed(kind: type[M], data: bytes) -> M:
    """The result of `parse`. A message of many fields is parsed on a thread, because other calls would wait for
    milliseconds."""
    if fits(data, bound(kind.DESCRIPTOR), QUICK):
        return _built(kind, data)
    return await resources.alone(functools.partial(parse, kind, data))


def parse(kind: type[M], data: bytes) -> M:
    """A message from its bytes. Raises BadRequest for invalid bytes, and for more fields than `bound`."""
    most = bound(kind.DESCRIPTOR)
    if not fits(data, most):
        raise BadRequest(
            f"{kind.DESCRIPTOR.name} has too many fields, expected at most {most.most} in a message and {TOTAL} in all",
            code="message-too-many-fields",
            hint="send tensors in raw_input_contents, and fewer layers or indices in one request",
        )
    return _built(kind, data)


def _built(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadRequest(
            f"malformed {kind.DESCRIPTOR.name}",
            code="message-malformed",
            hint="send a message that protobuf has encoded",
        ) from error


def at_most(name: str, values: Sized, limit: int) -> None:
    """Raises BadRequest for a longer list."""
    if len(values) > limit:
        raise BadRequest(
            f"{name} has {len(values)} entries, expected at most {limit}",
            code="too-many-entries",
            hint="send fewer entries in one request",
        )


def request_from_pb(
    message: pb.ModelInferRequest, *, deadline: float | None, max_typed_contents_bytes: int
) -> InferRequest:
    """ModelInferRequest -> InferRequest. Raises BadRequest, ResourceExhausted, Unsupported."""
    for name, limit in validation.COUNT_LIMITS.items():
        at_most(name, getattr(message, name), limit)
    options = validation.options({key: _parameter(each) for key, each in message.parameters.items()})
    for tensor in message.inputs:
        at_most("shape", tensor.shape, validation.DIMENSION_LIMIT)
        validation.check_tensor(tensor.name, tensor.parameters)
    classes = []
    for output in message.outputs:
        if output.parameters:
            read = functools.partial(_named, output.parameters)
            classes += validation.classes(output.name, output.parameters, read)
    # Each access to a bytes field copies it: once, here.
    raw = list(message.raw_input_contents)
    if raw:
        for tensor in message.inputs:
            if tensor.HasField("contents"):
                raise BadRequest(
                    "contents field must not be specified when using raw_input_contents for "
                    f"'{tensor.name}' for model '{message.model_name}'",
                    code="input-data-twice",
                    hint="send either raw_input_contents or contents",
                )
        if len(raw) < len(message.inputs):
            raise validation.no_data(message.model_name, message.inputs[len(raw)].name)
        if len(raw) > len(message.inputs):
            raise BadRequest(
                f"raw_input_contents has {len(raw)} entries, expected {len(message.inputs)} for model "
                f"'{message.model_name}'",
                code="input-data-count-wrong",
                hint="send one entry per input",
            )
    else:
        raw = [_typed(message, tensor, max_typed_contents_bytes) for tensor in message.inputs]
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=tuple(
            InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data)
            for tensor, data in zip(message.inputs, raw, strict=True)
        ),
        outputs=tuple(output.name for output in message.outputs),
        classes=tuple(classes),
        queue_timeout=options.queue_timeout,
        deadline=deadline,
        priority=options.priority,
        insight=options.insight,
    )


def response_to_pb(response: InferResponse) -> pb.ModelInferResponse:
    """InferResponse -> ModelInferResponse, with raw contents, which all clients read."""
    message = pb.ModelInferResponse(model_name=response.model, model_version=str(response.version), id=response.id)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(tensor.data)
    for key, value in response.parameters:
        parameter = message.parameters[key]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        else:
            parameter.string_param = value
    return message


def both(message: Message, first: str, second: str) -> tuple[Any, Any] | None:
    """Two optional fields that belong together; None if neither is set. Raises BadRequest if only one is set."""
    present = [message.HasField(name) for name in (first, second)]
    if any(present) and not all(present):
        raise BadRequest(
            f"only one of {first} and {second} is set, expected both or none",
            code="field-pair-incomplete",
            hint=f"set both {first} and {second}",
        )
    return (getattr(message, first), getattr(message, second)) if all(present) else None


def _named(parameters: Mapping[str, pb.InferParameter], key: str) -> Parameter:
    return _parameter(parameters[key])


def _parameter(parameter: pb.InferParameter) -> Parameter:
    kind = parameter.WhichOneof("parameter_choice")
    return Parameter(kind, getattr(parameter, kind)) if kind else Parameter("", None)


def _typed(message: pb.ModelInferRequest, tensor: Any, max_typed_contents_bytes: int) -> bytes:
    """The bytes of typed contents, in the form of raw contents. The size is limited, because strings and integers take
    a Python object each."""
    if not tensor.HasField("contents"):
        if 0 in tensor.shape:  # nothing to send, so there is nothing to miss
            return b""
        raise validation.no_data(message.model_name, tensor.name)
    filled = tensor.contents.ListFields()
    for descriptor, _ in filled:
        allowed = CONTENTS[descriptor.name]
        if tensor.datatype not in allowed:
            raise BadRequest(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model "
                f"'{message.model_name}' of type '{allowed[0]}', expected datatype '{tensor.datatype}'",
                code="input-datatype-wrong",
                hint="send the contents in the field of the datatype, or in raw_input_contents",
            )
    if not filled:
        return b""
    dtype, values = NUMPY_DTYPES[tensor.datatype], filled[0][1]
    size = sum(map(len, values)) if tensor.datatype == BYTES else 0
    size += len(values) * dtype.itemsize
    if size > max_typed_contents_bytes:
        raise ResourceExhausted(
            f"typed contents of input '{tensor.name}' take {size} bytes, the limit is {max_typed_contents_bytes}",
            code="typed-contents-too-large",
            hint="send the tensor in raw_input_contents",
        )
    try:
        return validation.joined(values) if tensor.datatype == BYTES else numbers(tensor.contents, values, dtype)
    except OverflowError as error:
        raise BadRequest(
            f"input '{tensor.name}' has a value that does not fit {tensor.datatype}",
            code="value-out-of-datatype",
            hint=f"send values in the range of {tensor.datatype}",
        ) from error


MORE = 0x80  # this byte is not the last of its number
AS_SENT = "fb"  # kinds of numpy's dtypes whose bytes are those of the message
PIECE = 4096  # numbers


def numbers(contents: Message, values: Sequence[Any], dtype: np.dtype[Any]) -> bytes:
    """The bytes of `values`, the only field that is set in `contents`. Raises OverflowError for a value that does not
    fit."""
    if dtype.kind not in AS_SENT:
        return b"".join(np.array(values[at : at + PIECE], dtype).tobytes() for at in range(0, len(values), PIECE))
    contents.DiscardUnknownFields()
    data = contents.SerializeToString()
    begin = 1  # behind the field's number
    while data[begin] & MORE:  # its length
        begin += 1
    return data[begin + 1 :]


VARINT, FIXED64, LENGTH_DELIMITED, BEGIN, END, FIXED32 = 0, 1, 2, 3, 4, 5  # BEGIN and END: of a group
WIDTHS = {FIXED64: 8, FIXED32: 4, BEGIN: 0, END: 0}  # fields in a group count as fields of the message
WORTH = 2**16  # bytes; a smaller message has few fields
MOST = 1024  # fields of one message; packed numbers are one
QUICK = 2**12  # fields that the event loop scans: some milliseconds
TOTAL = 2**17  # fields of a message and of all within it
PACKED = 16  # bytes of packed numbers that count as one field: 2 MiB reach TOTAL
FIXED = frozenset((FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE))
TEXT = frozenset((FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE))


@dataclass(frozen=True, slots=True)
class Bound:
    """Limits of the fields of a message type.

    most    fields of the message itself
    within  limits of its inner messages, by field number
    packed  numbers of the fields that may hold many integers
    """

    most: int = MOST
    within: Mapping[int, Bound] = field(default_factory=dict)
    packed: frozenset[int] = frozenset()


@functools.cache
def bound(message: Descriptor) -> Bound:
    """The limits of a message type and of all messages within it."""
    fields = message.fields
    within = {
        descriptor.number: bound(descriptor.message_type)
        for descriptor in fields
        if descriptor.message_type is not None
    }
    packed = frozenset(
        descriptor.number for descriptor in fields if descriptor.is_repeated and descriptor.cpp_type not in FIXED | TEXT
    )
    return Bound(WIDE.get(message.name, MOST), within, packed)


def fits(data: bytes, bound: Bound, total: int = TOTAL) -> bool:
    """Whether the fields are within the bound, and at most `total` in all. The function stops at the first excess
    field."""
    return len(data) < WORTH or _fits(data, 0, len(data), bound, total) >= 0


def _fits(data: bytes, start: int, end: int, bound: Bound, left: int) -> int:
    """The number of the `left` fields that remain; below 0 if there are too many."""
    for count, (number, begin, stop) in enumerate(_fields(data, start, end), 1):
        left -= 1 + ((stop - begin) // PACKED if number in bound.packed else 0)
        if count > bound.most or left < 0:
            return -1
        inner = bound.within.get(number)
        if inner is not None:
            left = _fits(data, begin, stop, inner, left)
            if left < 0:
                return -1
    return left


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field's value, until the first invalid field."""
    while at < end:
        tag, at = read_varint(data, at, end)
        kind = tag & 7
        if kind == VARINT:
            _, stop = read_varint(data, at, end)
        elif kind == LENGTH_DELIMITED:
            length, at = read_varint(data, at, end)
            stop = at + length
        elif kind in WIDTHS:
            stop = at + WIDTHS[kind]
        else:
            return
        if stop > end:
            return
        yield tag >> 3, at, stop
        at = stop
