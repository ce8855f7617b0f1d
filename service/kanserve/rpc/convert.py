"""Messages to plain data and back, both directions side by side.

What is checked here is what can be said without knowing the model: the form of
the message. The rest is `handlers/inference.py`'s.
"""

from __future__ import annotations

import functools
from collections.abc import Sized
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from kanexport.shared.nearest import advice
from kanserve import threads
from kanserve.errors import BadRequest, Exhausted, Unsupported
from kanserve.handlers import tensors
from kanserve.nouns import (
    BYTES,
    HELD,
    InferRequest,
    InferResponse,
    InputTensor,
    Insight,
    Word,
)
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.rpc import packed, prescan
from kanserve.rpc.prescan import Bound

# A few megabytes can name a million tensors; reading them would hold the event loop for seconds.
COUNT_LIMITS = {"inputs": 64, "outputs": 64, "parameters": 64, "raw_input_contents": 64}
DIMENSION_LIMIT = 16
INDEX_LIMIT = 2**16

# Looked at before a large message is built. Packed numbers are one field; strings and layer names are one each.
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
CLASSES = "classification"  # of an output
OURS, COVERAGE, TOP_K = "kan.", "kan.coverage", "kan.explain_top_k"
MOST_TOP_K = 20
# Triton's own request parameters, and ours -> accepted members of InferParameter, and their names in errors.
PARAMETERS = {
    "sequence_id": (("int64_param", "string_param"), "int64_param or string_param"),
    "sequence_start": (("bool_param",), "bool_param"),
    "sequence_end": (("bool_param",), "bool_param"),
    "priority": (("int64_param", "uint64_param"), "int64_param or uint64_param"),
    "timeout": (("int64_param",), "int64_param"),
    "triton_enable_empty_final_response": (("bool_param",), "bool_param"),
    COVERAGE: (("bool_param",), "bool_param"),
    TOP_K: (("int64_param", "uint64_param"), "int64_param or uint64_param"),
}

M = TypeVar("M", bound=Message)


@functools.cache
def bound(message: Descriptor) -> Bound:
    """The number of fields that such a message may have."""
    return prescan.bound(message, WIDE)


async def parsed(kind: type[M], data: bytes) -> M:
    """The result of `parse`. A message of many fields is parsed on a thread, because other calls would wait for
    milliseconds."""
    if prescan.fits(data, bound(kind.DESCRIPTOR), prescan.QUICK):
        return _built(kind, data)
    return await threads.alone(functools.partial(parse, kind, data))


def parse(kind: type[M], data: bytes) -> M:
    """A message from its bytes. Raises BadRequest for bytes that are none, or have more fields than `bound`."""
    most = bound(kind.DESCRIPTOR)
    if not prescan.fits(data, most):
        raise BadRequest(
            f"{kind.DESCRIPTOR.name} has too many fields: one of its messages has more than {most.most}, or all of "
            f"them have more than {prescan.TOTAL}"
        )
    return _built(kind, data)


def _built(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadRequest(f"malformed {kind.DESCRIPTOR.name}") from error


def request_from_pb(message: pb.ModelInferRequest, *, deadline: float | None, max_typed_bytes: int) -> InferRequest:
    """ModelInferRequest -> InferRequest. Raises BadRequest, Exhausted, Unsupported."""
    for name, limit in COUNT_LIMITS.items():
        at_most(name, getattr(message, name), limit)
    timeout, priority = _parameters(message)
    insight = _insight(message)
    for tensor in message.inputs:
        at_most("shape", tensor.shape, DIMENSION_LIMIT)
        _tensor_parameters(tensor.name, tensor.parameters)
    classes = []
    for output in message.outputs:
        if output.parameters:
            classes += _classes(output)
    # Each access to a bytes field copies it: once, here.
    raw = list(message.raw_input_contents)
    inputs = _raw_inputs(message, raw) if raw else _typed_inputs(message, max_typed_bytes)
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=inputs,
        outputs=tuple(output.name for output in message.outputs),
        classes=tuple(classes),
        queue_timeout=timeout,
        deadline=deadline,
        priority=priority,
        insight=insight,
    )


def response_to_pb(response: InferResponse) -> pb.ModelInferResponse:
    """InferResponse -> ModelInferResponse, always raw: the form every client reads."""
    message = pb.ModelInferResponse(model_name=response.model, model_version=str(response.version), id=response.id)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(tensor.data)
    for key, value in response.parameters:
        _say(message.parameters[key], value)
    return message


def _say(parameter: pb.InferParameter, value: Word) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    else:
        parameter.string_param = value


def both(message: Message, first: str, second: str) -> tuple[Any, Any] | None:
    """Two optional fields that go together; None where neither is given. Raises BadRequest for one alone."""
    given = [message.HasField(name) for name in (first, second)]
    if any(given) and not all(given):
        raise BadRequest(f"{first} and {second} go together: give both, or none")
    return (getattr(message, first), getattr(message, second)) if all(given) else None


def at_most(name: str, values: Sized, limit: int) -> None:
    """Raises BadRequest for a longer list."""
    if len(values) > limit:
        raise BadRequest(f"{name} has {len(values)} entries, at most {limit} are allowed")


def _parameters(message: pb.ModelInferRequest) -> tuple[float | None, int]:
    """Check the request's parameters; the queue timeout in seconds, if there is one, and the priority."""
    timeout, priority = None, 0
    for key, parameter in message.parameters.items():
        _parameter(key, parameter.WhichOneof("parameter_choice"))
        if key == "timeout":
            timeout = _timeout(parameter.int64_param)
        if key == "priority":
            priority = parameter.uint64_param or parameter.int64_param
            if priority < 0:
                raise BadRequest("invalid value for 'priority', expected value >= 0.")
    return timeout, priority


def _parameter(key: str, kind: str | None) -> None:
    """Whether there may be a parameter called that, with a value of this kind. Raises BadRequest."""
    if key in PARAMETERS:
        allowed, words = PARAMETERS[key]
        if kind not in allowed:
            raise BadRequest(f"invalid value type for '{key}' parameter, expected {words}.")
    elif key.startswith(OURS):
        known = advice(key, (COVERAGE, TOP_K), what="parameters", prefix=OURS)
        raise BadRequest(f"parameter '{key[:80]}' is not known: {known}")
    elif key.startswith("triton_"):
        raise BadRequest(
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
            "starting with 'triton_' are allowed: triton_enable_empty_final_response"
        )
    elif kind is None:
        raise BadRequest(
            f"invalid value type for '{key}' parameter, expected int64_param, bool_param, or string_param."
        )


def _insight(message: pb.ModelInferRequest) -> Insight | None:
    """What is to be told beside the answer, of parameters that were checked. Raises BadRequest."""
    asked = message.parameters
    if not (COVERAGE in asked or TOP_K in asked):
        return None
    top_k = (asked[TOP_K].int64_param or asked[TOP_K].uint64_param) if TOP_K in asked else 0
    if not 0 <= top_k <= MOST_TOP_K:
        raise BadRequest(f"invalid value for '{TOP_K}', expected 0 to {MOST_TOP_K}, got {top_k}")
    found = Insight(COVERAGE in asked and asked[COVERAGE].bool_param, top_k)
    return found if found.coverage or found.top_k else None


def _timeout(microseconds: int) -> float | None:
    if microseconds < 0:
        raise BadRequest("invalid value for 'timeout' parameter, expected microseconds >= 0.")
    return microseconds / 1e6 or None  # 0 is Triton's "no timeout"


def _tensor_parameters(name: str, parameters: Any) -> None:
    for key in parameters:
        if key.startswith("shared_memory"):
            raise Unsupported(f"tensor '{name}': shared memory is not supported; send the tensor in the request")


def _classes(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> list[tuple[str, int]]:
    """How many classes of an output are wanted, if any. Raises BadRequest in Triton's words, Unsupported."""
    if CLASSES not in output.parameters:
        _tensor_parameters(output.name, output.parameters)
        return []
    if "shared_memory_region" in output.parameters:
        raise BadRequest(f"output can't set both 'shared_memory_region' and '{CLASSES}'")
    wanted = output.parameters[CLASSES]
    if wanted.WhichOneof("parameter_choice") != "int64_param":
        raise BadRequest(f"invalid value type for '{CLASSES}' parameter, expected int64_param")
    if wanted.int64_param <= 0:
        raise BadRequest(f"invalid value for '{CLASSES}' parameter, expected >= 0")
    return [(output.name, wanted.int64_param)]


def _raw_inputs(message: pb.ModelInferRequest, raw: list[bytes]) -> tuple[InputTensor, ...]:
    for tensor in message.inputs:
        if tensor.HasField("contents"):
            raise BadRequest(
                "contents field must not be specified when using raw_input_contents for "
                f"'{tensor.name}' for model '{message.model_name}'"
            )
    if len(raw) < len(message.inputs):
        raise _no_data(message, message.inputs[len(raw)].name)
    if len(raw) > len(message.inputs):
        raise BadRequest(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs "
            f"of model '{message.model_name}'; send one for each input"
        )
    return tuple(
        InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data)
        for tensor, data in zip(message.inputs, raw, strict=True)
    )


def _typed_inputs(message: pb.ModelInferRequest, max_typed_bytes: int) -> tuple[InputTensor, ...]:
    return tuple(
        InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), _typed(message, tensor, max_typed_bytes))
        for tensor in message.inputs
    )


def _typed(message: pb.ModelInferRequest, tensor: Any, max_typed_bytes: int) -> bytes:
    """Typed contents as the bytes that raw contents would have been. Bounded, since strings and whole numbers
    cost a Python object each."""
    if not tensor.HasField("contents"):
        if 0 in tensor.shape:  # nothing to send, so there is nothing to miss
            return b""
        raise _no_data(message, tensor.name)
    filled = tensor.contents.ListFields()
    for descriptor, _ in filled:
        allowed = CONTENTS[descriptor.name]
        if tensor.datatype not in allowed:
            raise BadRequest(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model "
                f"'{message.model_name}' of type '{allowed[0]}', expected datatype '{tensor.datatype}'"
            )
    if not filled:
        return b""
    dtype, values = HELD[tensor.datatype], filled[0][1]
    size = sum(map(len, values)) if tensor.datatype == BYTES else 0
    size += len(values) * dtype.itemsize
    if size > max_typed_bytes:
        raise Exhausted(
            f"typed contents of input '{tensor.name}' take {size} bytes, the limit is "
            f"{max_typed_bytes}; send larger tensors in raw_input_contents"
        )
    try:
        return tensors.joined(values) if tensor.datatype == BYTES else packed.numbers(tensor.contents, values, dtype)
    except OverflowError as error:
        raise BadRequest(f"input '{tensor.name}': a value does not fit {tensor.datatype}") from error


def _no_data(message: pb.ModelInferRequest, name: str) -> BadRequest:
    return BadRequest(f"unable to find data for input tensor '{name}' for model '{message.model_name}' in request.")
