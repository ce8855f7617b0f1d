"""Inference as JSON, with Triton's binary data behind it: to the message of ModelInfer, and from its answer.

What the message may hold is `grpc_api/infer_codec.py`'s to say, so that a request means the same in either form.
Source: Triton's "binary tensor data extension" and the Open Inference Protocol's REST part.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from kanserve.errors import BadRequest, ResourceExhausted
from kanserve.grpc_api import infer_codec
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.rest import json_document
from kanserve.rest.exchange import JSON, Answer, Asked
from kanserve.rest.json_document import word
from kanserve.types import BYTES, NUMPY_DTYPES, InferResponse, ModelInfo, OutputTensor

HEADER_LENGTH = "inference-header-content-length"
DIGITS = re.compile(r"\d{1,10}")
DIGITS_PER_BYTE = 4  # digits of a number per byte, about
LIMITS = (-(2**63), 2**63, 2**64)
BEYOND = 2**1024  # any double that is one

T = TypeVar("T")


@dataclass(slots=True)
class Wanted:
    """Which outputs go back as bytes: those named, or all where none is."""

    everything: bool = False
    named: dict[str, bool] = field(default_factory=dict)

    def raw(self, name: str) -> bool:
        """Whether this one does."""
        return self.named.get(name, self.everything)


async def request(asked: Asked, typed: int) -> tuple[pb.ModelInferRequest, Wanted]:
    """The message that a request stands for. `typed`: bytes of one tensor as numbers. Raises BadRequest,
    ResourceExhausted."""
    text, rest = _parted(asked)
    return await json_document.reading(len(text), functools.partial(_request, asked, text, rest, typed))


def _request(asked: Asked, text: bytes, rest: memoryview, typed: int) -> tuple[pb.ModelInferRequest, Wanted]:
    body = _is(json_document.read(text, typed), dict, "the request")
    message = _message(asked)
    message.id = _member(body, "id", str, "the request", "")
    wanted = Wanted()
    for key, value in _parameters(body, "the request").items():
        if key == "binary_data_output":
            wanted.everything = _is(value, bool, "'binary_data_output'")
        else:
            _set(message.parameters[key], key, value)
    for at, tensor in enumerate(_list(body, "inputs", required=True)):
        rest = _input(message, _is(tensor, dict, f"inputs[{at}]"), rest, typed)
    if rest:
        raise BadRequest(f"unexpected additional input data for model '{message.model_name}': {len(rest)} bytes")
    for at, output in enumerate(_list(body, "outputs")):
        _output(message, _is(output, dict, f"outputs[{at}]"), wanted)
    return message, wanted


def bare(asked: Asked, info: ModelInfo) -> tuple[pb.ModelInferRequest, Wanted]:
    """The same for a body that is nothing but the bytes of a model's one input: one row, where rows are a dimension.
    Raises BadRequest for a model whose input's shape that does not tell."""
    tensor = info.inputs[0]
    shape = [1, *tensor.shape[1:]] if info.max_batch_size else list(tensor.shape)
    if len(info.inputs) > 1 or shape.count(-1) > 1 or tensor.datatype == BYTES:
        raise BadRequest(
            f"a request without JSON needs a model with one input of numbers and at most one open dimension; model "
            f"'{info.name}' has {', '.join(f'{one.name} {one.datatype} {list(one.shape)}' for one in info.inputs)}"
        )
    row = math.prod(extent for extent in shape if extent >= 0) * NUMPY_DTYPES[tensor.datatype].itemsize
    shape = [len(asked.body) // max(row, 1) if extent < 0 else extent for extent in shape]
    message = _message(asked)
    message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
    message.raw_input_contents.append(asked.body)
    return message, Wanted(everything=True)


async def answer(response: InferResponse, wanted: Wanted, typed: int) -> Answer:
    """JSON, and behind it the tensors that go as bytes. Raises ResourceExhausted, BadRequest for what JSON cannot
    hold."""
    size = sum(len(tensor.data) for tensor in response.outputs if not wanted.raw(tensor.name))
    return await json_document.reading(DIGITS_PER_BYTE * size, functools.partial(_answer, response, wanted, typed))


def _answer(response: InferResponse, wanted: Wanted, typed: int) -> Answer:
    outputs, behind = [], []
    for tensor in response.outputs:
        one: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if wanted.raw(tensor.name):
            one["parameters"] = {"binary_data_size": len(tensor.data)}
            behind.append(tensor.data)
        else:
            one["data"] = _data(tensor, typed)
        outputs.append(one)
    head: dict[str, Any] = {"id": response.id} if response.id else {}
    head |= {"model_name": response.model, "model_version": str(response.version)}
    if response.parameters:
        head["parameters"] = dict(response.parameters)
    head["outputs"] = outputs
    text = orjson.dumps(head)
    if not behind:
        return Answer(text, JSON)
    return Answer(b"".join((text, *behind)), "application/octet-stream", headers={HEADER_LENGTH: str(len(text))})


def _message(asked: Asked) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=asked.path["name"], model_version=asked.path.get("version", ""))


def _parted(asked: Asked) -> tuple[bytes, memoryview]:
    """The JSON, and what lies behind it."""
    given = asked.headers.get(HEADER_LENGTH)
    if given is None:
        return asked.body, memoryview(b"")
    if DIGITS.fullmatch(given) is None:
        raise BadRequest(f"Unable to parse Inference-Header-Content-Length, got: {given[:40]}")
    length = int(given)
    if not 0 < length <= len(asked.body):
        raise BadRequest(f"inference header size should be in range (0, {len(asked.body)}), got: {length}")
    return asked.body[:length], memoryview(asked.body)[length:]


def _input(message: pb.ModelInferRequest, tensor: Mapping[str, Any], rest: memoryview, typed: int) -> memoryview:
    """Add one, and give what then is left of the bytes behind the JSON."""
    name = _member(tensor, "name", str, "an input")
    shape = [_extent(extent, name) for extent in _list(tensor, "shape", required=True)]
    parameters = _parameters(tensor, f"input '{name}'")
    size = parameters.pop("binary_data_size", None)
    target = message.inputs.add(name=name, datatype=_member(tensor, "datatype", str, f"input '{name}'"), shape=shape)
    for key, value in parameters.items():
        _set(target.parameters[key], key, value)
    if size is None:
        message.raw_input_contents.append(_numbers(target, tensor, typed))
        return rest
    if "data" in tensor:
        raise BadRequest(f"input '{name}' has both 'data' and 'binary_data_size'; send one of them")
    size = _is(size, int, "'binary_data_size'")
    if not 0 <= size <= len(rest):
        raise BadRequest(
            f"unexpected size for input '{name}', expecting {size - len(rest)} additional bytes for model "
            f"'{message.model_name}'; binary data follows the JSON, whose length is in Inference-Header-Content-Length"
        )
    message.raw_input_contents.append(bytes(rest[:size]))
    return rest[size:]


def _numbers(target: pb.ModelInferRequest.InferInputTensor, tensor: Mapping[str, Any], typed: int) -> bytes:
    if "data" not in tensor and 0 in target.shape:  # nothing to send, so there is nothing to miss
        return b""
    data = json_document.to_bytes(target.name, target.datatype, _member(tensor, "data", list, f"input '{target.name}'"))
    if len(data) > typed:
        raise ResourceExhausted(_beyond(f"input '{target.name}'", len(data), typed))
    return data


def _output(message: pb.ModelInferRequest, output: Mapping[str, Any], wanted: Wanted) -> None:
    target = message.outputs.add(name=_member(output, "name", str, "an output"))
    parameters = _parameters(output, f"output '{target.name}'")
    # Triton's rule: an output that is named asks for itself, whatever `binary_data_output` says.
    wanted.named[target.name] = _is(parameters.pop("binary_data", False), bool, "'binary_data'")
    for key, value in parameters.items():
        _set(target.parameters[key], key, value)


def _data(tensor: OutputTensor, typed: int) -> orjson.Fragment:
    if len(tensor.data) > typed:
        raise ResourceExhausted(_beyond(f"output '{tensor.name}'", len(tensor.data), typed))
    return json_document.fragment(tensor)


def _beyond(what: str, size: int, typed: int) -> str:
    return f"{what} takes {size} bytes, as numbers in JSON the limit is {typed}; use the binary data format"


def _set(parameter: pb.InferParameter, key: str, value: Any) -> None:
    least, most, unsigned = LIMITS
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    elif isinstance(value, int) and least <= value < most:
        parameter.int64_param = value
    elif isinstance(value, int) and 0 <= value < unsigned:
        parameter.uint64_param = value
    elif (
        isinstance(value, int | float) and not abs(value) >= BEYOND
    ):  # an integer of more than 64 bits is a double, as for Triton
        parameter.double_param = value
    else:
        raise BadRequest(
            f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string', got {word(value)}"
        )


def _extent(value: Any, name: str) -> int:
    extent = _is(value, int, f"'shape' of input '{name}'")
    if not LIMITS[0] <= extent < LIMITS[1]:
        raise BadRequest(f"Unable to parse 'shape' of input '{name}': {str(extent)[:40]} has more than 64 bits")
    return extent


def _parameters(holder: Mapping[str, Any], whose: str) -> dict[str, Any]:
    found = dict(_is(holder.get("parameters", {}), dict, f"'parameters' of {whose}"))
    infer_codec.at_most("parameters", found, infer_codec.COUNT_LIMITS["parameters"])
    return found


def _list(holder: Mapping[str, Any], key: str, *, required: bool = False) -> list[Any]:
    if key not in holder and not required:
        return []
    found = _member(holder, key, list, "the request")
    infer_codec.at_most(key, found, infer_codec.COUNT_LIMITS.get(key, infer_codec.DIMENSION_LIMIT))
    return found


def _member(holder: Mapping[str, Any], key: str, kind: type[T], whose: str, default: T | None = None) -> T:
    if key not in holder:
        if default is not None:
            return default
        raise BadRequest(f"Unable to parse '{key}': {whose} has none")
    return _is(holder[key], kind, f"'{key}' of {whose}")


def _is(value: Any, kind: type[T], what: str) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRequest(f"Unable to parse {what}: expected {word(kind)}, got {word(value)}")
    return value
