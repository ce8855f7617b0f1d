"""Codec of inference over HTTP: JSON with Triton's binary data to `InferRequest`, and `InferResponse` back.

`services/validation.py` checks parameters for this codec and for gRPC, so that a request means the same in both.
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
from kanserve.grpc_api.call_context import Call
from kanserve.grpc_api.infer_codec import at_most
from kanserve.rest import json_document
from kanserve.rest.exchange import JSON, HttpRequest, HttpResponse
from kanserve.rest.json_document import word
from kanserve.services import validation
from kanserve.services.validation import Parameter
from kanserve.types import BYTES, NUMPY_DTYPES, InferRequest, InferResponse, InputTensor, ModelInfo

HEADER_LENGTH = "inference-header-content-length"
DIGITS = re.compile(r"\d{1,10}")
DIGITS_PER_BYTE = 4  # digits of a number per byte, about
LIMITS = (-(2**63), 2**63, 2**64)
BEYOND = 2**1024  # larger than any finite double
BINARY_HINT = "send binary_data_size bytes per input after the JSON"
LENGTH_HINT = "set Inference-Header-Content-Length to the number of bytes of the JSON"

T = TypeVar("T")


@dataclass(slots=True)
class BinaryOutputs:
    """Outputs that the response carries as bytes: the named ones, or all if the request names none."""

    everything: bool = False
    named: dict[str, bool] = field(default_factory=dict)

    def raw(self, name: str) -> bool:
        """Whether this output is sent as bytes."""
        return self.named.get(name, self.everything)


@dataclass(slots=True)
class _Draft:
    """Request as decoded from JSON, with unchecked parameters."""

    model: str
    version: str
    id: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    inputs: list[InputTensor] = field(default_factory=list)
    input_parameters: list[dict[str, Parameter]] = field(default_factory=list)
    outputs: list[tuple[str, dict[str, Parameter]]] = field(default_factory=list)
    binary: BinaryOutputs = field(default_factory=BinaryOutputs)


async def request(http_request: HttpRequest, call: Call, typed: int) -> tuple[InferRequest, BinaryOutputs]:
    """The inference request in an HTTP request. `typed`: limit in bytes of one tensor as numbers. Raises BadRequest,
    ResourceExhausted, Unsupported."""
    length_text = http_request.headers.get(HEADER_LENGTH)
    if length_text is None:
        text, rest = (http_request.body, memoryview(b""))
    else:
        if DIGITS.fullmatch(length_text) is None:
            raise BadRequest(
                f"Unable to parse Inference-Header-Content-Length, got: {length_text[:40]}",
                code="header-length-invalid",
                hint=LENGTH_HINT,
            )
        length = int(length_text)
        if not 0 < length <= len(http_request.body):
            raise BadRequest(
                f"inference header size should be in range (0, {len(http_request.body)}), got: {length}",
                code="header-length-invalid",
                hint=LENGTH_HINT,
            )
        text, rest = (http_request.body[:length], memoryview(http_request.body)[length:])
    draft = await json_document.reading(len(text), functools.partial(_draft, http_request, text, rest, typed))
    call.adopt(draft.id)
    call.facts["model"] = draft.model[:128]
    # The checks have the order of the gRPC codec.
    options = validation.options(draft.parameters)
    for tensor, parameters in zip(draft.inputs, draft.input_parameters, strict=True):
        validation.check_tensor(tensor.name, parameters)
    classes = [
        pair
        for name, parameters in draft.outputs
        for pair in validation.classes(name, parameters, parameters.__getitem__)
    ]
    checked = InferRequest(
        model=draft.model,
        version=draft.version,
        id=draft.id,
        inputs=tuple(draft.inputs),
        outputs=tuple(name for name, _ in draft.outputs),
        classes=tuple(classes),
        deadline=call.deadline,
        **options._asdict(),
    )
    return checked, draft.binary


def _draft(http_request: HttpRequest, text: bytes, rest: memoryview, typed: int) -> _Draft:
    body = _is(json_document.read(text, typed), dict, "the request")
    draft = _Draft(
        http_request.path["name"], http_request.path.get("version", ""), _member(body, "id", str, "the request", "")
    )
    for key, value in _parameters(body, "the request").items():
        if key == "binary_data_output":
            draft.binary.everything = _is(value, bool, "'binary_data_output'")
        else:
            draft.parameters[key] = _parameter(key, value)
    for at, tensor in enumerate(_list(body, "inputs", required=True)):
        rest = _input(draft, _is(tensor, dict, f"inputs[{at}]"), rest, typed)
    if rest:
        raise BadRequest(
            f"unexpected additional input data for model '{draft.model}': {len(rest)} bytes",
            code="binary-data-size-wrong",
            hint=BINARY_HINT,
        )
    for at, entry in enumerate(_list(body, "outputs")):
        output = _is(entry, dict, f"outputs[{at}]")
        name = _member(output, "name", str, "an output")
        parameters = _parameters(output, f"output '{name}'")
        # Triton's rule: the parameter of a named output overrides `binary_data_output`.
        draft.binary.named[name] = _is(parameters.pop("binary_data", False), bool, "'binary_data'")
        draft.outputs.append((name, {key: _parameter(key, value) for key, value in parameters.items()}))
    return draft


def bare(http_request: HttpRequest, call: Call, info: ModelInfo) -> tuple[InferRequest, BinaryOutputs]:
    """The inference request in a body that has only the bytes of a model's one input: one row, if rows are a
    dimension. Raises BadRequest for a model whose shape does not determine the rows."""
    tensor = info.inputs[0]
    shape = [1, *tensor.shape[1:]] if info.max_batch_size else list(tensor.shape)
    if len(info.inputs) > 1 or shape.count(-1) > 1 or tensor.datatype == BYTES:
        inputs = ", ".join(f"{part.name} {part.datatype} {list(part.shape)}" for part in info.inputs)
        raise BadRequest(
            f"model '{info.name}' has {inputs}, expected one input of numbers with at most one open dimension",
            code="request-without-json",
            hint="send a JSON header before the bytes",
        )
    row = math.prod(extent for extent in shape if extent >= 0) * NUMPY_DTYPES[tensor.datatype].itemsize
    shape = [len(http_request.body) // max(row, 1) if extent < 0 else extent for extent in shape]
    call.facts["model"] = http_request.path["name"][:128]
    request = InferRequest(
        model=http_request.path["name"],
        version=http_request.path.get("version", ""),
        id="",
        inputs=(InputTensor(tensor.name, tensor.datatype, tuple(shape), http_request.body),),
        deadline=call.deadline,
    )
    return request, BinaryOutputs(everything=True)


async def encoded(response: InferResponse, binary: BinaryOutputs, typed: int) -> HttpResponse:
    """The response as JSON, and after it the tensors as bytes. Raises ResourceExhausted, and BadRequest for values that
    JSON cannot represent."""
    size = sum(len(tensor.data) for tensor in response.outputs if not binary.raw(tensor.name))
    return await json_document.reading(DIGITS_PER_BYTE * size, functools.partial(_encoded, response, binary, typed))


def _encoded(response: InferResponse, binary: BinaryOutputs, typed: int) -> HttpResponse:
    outputs, behind = [], []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary.raw(tensor.name):
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            behind.append(tensor.data)
        else:
            if len(tensor.data) > typed:
                raise _too_large(f"output '{tensor.name}'", len(tensor.data), typed)
            entry["data"] = json_document.fragment(tensor)
        outputs.append(entry)
    head: dict[str, Any] = {"id": response.id} if response.id else {}
    head |= {"model_name": response.model, "model_version": str(response.version)}
    if response.parameters:
        head["parameters"] = dict(response.parameters)
    head["outputs"] = outputs
    text = orjson.dumps(head)
    if not behind:
        return HttpResponse(text, JSON)
    return HttpResponse(b"".join((text, *behind)), "application/octet-stream", headers={HEADER_LENGTH: str(len(text))})


def _input(draft: _Draft, tensor: Mapping[str, Any], rest: memoryview, typed: int) -> memoryview:
    """Add an input to the draft. Returns the remaining bytes after the JSON."""
    name = _member(tensor, "name", str, "an input")
    extents = []
    for value in _list(tensor, "shape", required=True):
        extent = _is(value, int, f"'shape' of input '{name}'")
        if not LIMITS[0] <= extent < LIMITS[1]:
            raise BadRequest(
                f"Unable to parse 'shape' of input '{name}': {str(extent)[:40]} has more than 64 bits",
                code="json-value-wrong",
                hint="send integers of at most 64 bits",
            )
        extents.append(extent)
    shape = tuple(extents)
    parameters = _parameters(tensor, f"input '{name}'")
    size = parameters.pop("binary_data_size", None)
    datatype = _member(tensor, "datatype", str, f"input '{name}'")
    draft.input_parameters.append({key: _parameter(key, value) for key, value in parameters.items()})
    if size is None:
        data = b""
        if "data" in tensor or 0 not in shape:  # an empty tensor needs no data
            data = json_document.to_bytes(name, datatype, _member(tensor, "data", list, f"input '{name}'"))
        if len(data) > typed:
            raise _too_large(f"input '{name}'", len(data), typed)
        draft.inputs.append(InputTensor(name, datatype, shape, data))
        return rest
    if "data" in tensor:
        raise BadRequest(
            f"input '{name}' has both 'data' and 'binary_data_size', expected one of them",
            code="input-data-twice",
            hint="remove one of the two keys",
        )
    size = _is(size, int, "'binary_data_size'")
    if not 0 <= size <= len(rest):
        raise BadRequest(
            f"unexpected size for input '{name}', expecting {size - len(rest)} additional bytes for model "
            f"'{draft.model}'",
            code="binary-data-size-wrong",
            hint=BINARY_HINT,
        )
    draft.inputs.append(InputTensor(name, datatype, shape, bytes(rest[:size])))
    return rest[size:]


def _too_large(what: str, size: int, typed: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"{what} takes {size} bytes, the limit of numbers in JSON is {typed}",
        code="json-tensor-too-large",
        hint="use the binary data format",
    )


def _parameter(key: str, value: Any) -> Parameter:
    least, most, unsigned = LIMITS
    if isinstance(value, bool):
        return Parameter("bool_param", value)
    if isinstance(value, str):
        return Parameter("string_param", value)
    if isinstance(value, int) and least <= value < most:
        return Parameter("int64_param", value)
    if isinstance(value, int) and 0 <= value < unsigned:
        return Parameter("uint64_param", value)
    # An integer of more than 64 bits is a double, as for Triton.
    if isinstance(value, int | float) and not abs(value) >= BEYOND:
        return Parameter("double_param", float(value))
    raise BadRequest(
        f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string', got {word(value)}",
        code="parameter-type-wrong",
        hint="send an integer, a boolean or a string",
    )


def _parameters(holder: Mapping[str, Any], whose: str) -> dict[str, Any]:
    parameters = dict(_is(holder.get("parameters", {}), dict, f"'parameters' of {whose}"))
    at_most("parameters", parameters, validation.COUNT_LIMITS["parameters"])
    return parameters


def _list(holder: Mapping[str, Any], key: str, *, required: bool = False) -> list[Any]:
    if key not in holder and not required:
        return []
    values = _member(holder, key, list, "the request")
    at_most(key, values, validation.COUNT_LIMITS.get(key, validation.DIMENSION_LIMIT))
    return values


def _member(holder: Mapping[str, Any], key: str, kind: type[T], whose: str, default: T | None = None) -> T:
    if key not in holder:
        if default is not None:
            return default
        raise BadRequest(
            f"Unable to parse '{key}': {whose} has none", code="json-key-missing", hint=f"add the key '{key}'"
        )
    return _is(holder[key], kind, f"'{key}' of {whose}")


def _is(value: Any, kind: type[T], what: str) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRequest(
            f"Unable to parse {what}: expected {word(kind)}, got {word(value)}",
            code="json-value-wrong",
            hint=f"send {word(kind)}",
        )
    return value
