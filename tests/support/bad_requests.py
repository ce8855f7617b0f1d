"""Table of invalid requests, and the codes, hints and words of errors that a test expects."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc
import numpy as np
import pytest

from kanserve.errors import LoadError, LoadReason
from kanserve.pb import grpc_service_pb2 as pb
from tests.support.server_process import request

CODE, HELP = "kan-error-code", "kan-error-help"


def code(error: grpc.RpcError) -> str:
    """The error code of a failed gRPC call, or ""."""
    return dict(error.trailing_metadata() or ()).get(CODE, "")


def hint(error: grpc.RpcError) -> str:
    """The hint of a failed gRPC call, or ""."""
    return unquote(dict(error.trailing_metadata() or ()).get(HELP, ""))


def of_body(body: bytes) -> tuple[str, str]:
    """Code and hint of an HTTP response."""
    document = json.loads(body)
    return document["code"], document.get("help", "")


@contextlib.contextmanager
def refused(code: grpc.StatusCode, words: str = "") -> Iterator[pytest.ExceptionInfo[grpc.RpcError]]:
    """Context whose call a server ends with this code, and with these words in its details."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    assert (caught.value.code(), words in caught.value.details()) == (code, True), caught.value


@contextlib.contextmanager
def not_loaded(reason: LoadReason, words: str = "") -> Iterator[pytest.ExceptionInfo[LoadError]]:
    """Context that raises a LoadError with this reason and these words."""
    with pytest.raises(LoadError) as caught:
        yield caught
    assert (caught.value.reason, words in str(caught.value)) == (reason, True), str(caught.value)


Code = grpc.StatusCode
INVALID = Code.INVALID_ARGUMENT
ROWS = np.zeros((2, 3), np.float32)
NO_ID = "[request id: <id_unknown>] "
HAS_X, HAS_Y = '; the model has input "x" [-1, 3] FP32', '; the model has output "y" [-1, 2] FP32'
CUT = "..."  # a text that ends so is a beginning
# Triton's HttpCodeFromError, by the gRPC code of the same error; RESOURCE_EXHAUSTED, which it has not, as nearest.
STATUS = {
    INVALID: 400, Code.NOT_FOUND: 404, Code.UNAVAILABLE: 503, Code.UNIMPLEMENTED: 501, Code.RESOURCE_EXHAUSTED: 413,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wrong:
    """One mistake. `over_http`: whether a request over HTTP can have it."""

    name: str
    message: Any
    text: str
    code: grpc.StatusCode = INVALID
    method: str = "ModelInfer"
    over_http: bool = True

    @property
    def status(self) -> int | None:
        """Triton's HTTP status."""
        return STATUS[self.code] if self.over_http else None

    def said(self, text: str) -> bool:
        """Whether these are the words."""
        return text.startswith(self.text.removesuffix(CUT)) if self.text.endswith(CUT) else text == self.text


def edited(change: Callable[[pb.ModelInferRequest], object], **fields: str) -> pb.ModelInferRequest:
    message = request(ROWS, **fields)
    change(message)
    return message


def with_input(**changes: Any) -> pb.ModelInferRequest:
    """Other fields of the one input."""
    message = request(ROWS)
    for name, value in changes.items():
        if name == "shape":
            message.inputs[0].shape[:] = value
        else:
            setattr(message.inputs[0], name, value)
    return message


def with_raw(*raw: bytes) -> pb.ModelInferRequest:
    message = request(ROWS)
    message.raw_input_contents[:] = raw
    return message


def with_outputs(*names: str, **parameter: Any) -> pb.ModelInferRequest:
    """A request for some outputs. `parameter`: a member of InferParameter and its value, the number of classes of the
    first output."""
    message = request(ROWS)
    for name in names:
        message.outputs.add(name=name)
    for member, value in parameter.items():
        setattr(message.outputs[0].parameters["classification"], member, value)
    return message


def with_parameter(key: str, **member: Any) -> pb.ModelInferRequest:
    message = request(ROWS)
    for name, value in member.items():
        setattr(message.parameters[key], name, value)
    return message


def typed(**contents: list[Any]) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="toy")
    entry = message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    entry.contents.SetInParent()
    for name, values in contents.items():
        getattr(entry.contents, name).extend(values)
    return message


def no_input(message: pb.ModelInferRequest) -> None:
    del message.inputs[:]
    del message.raw_input_contents[:]


def another_input(name: str) -> pb.ModelInferRequest:
    message = request(ROWS)
    message.inputs.add(name=name, datatype="FP32", shape=[2, 3])
    message.raw_input_contents.append(message.raw_input_contents[0])
    return message


def shared(name: str, *, classes: int = 0) -> pb.ModelInferRequest:
    message = request(ROWS)
    message.outputs.add(name="y")
    tensor = message.inputs[0] if name == "x" else message.outputs[0]
    tensor.parameters["shared_memory_region"].string_param = "r"
    if classes:
        tensor.parameters["classification"].int64_param = classes
    return message


def grpc_only(name: str, message: pb.ModelInferRequest, text: str) -> Wrong:
    return Wrong(name, message, text, over_http=False)


STOL = "failed to get model version from specified version string '{}' (details: stol), {}"
ABOVE_ZERO = "version should be an integral value > 0"
UNKNOWN = "Request for unknown model: '{}' is not found"
WITHOUT_VERSION = "Request for unknown model: 'toy' version {} is not found"
SHAPE = f"{NO_ID}unexpected shape for input 'x' for model 'toy'. Expected [-1,3], got [{{}}]. NOTE: ..."
FREE = f"{NO_ID}All input dimensions should be specified for input 'x' for model 'toy', got [{{}}]"
ROWS_LIMIT = f"{NO_ID}inference request batch-size must be <= 64 for 'toy'"
SIZE = f"{NO_ID}input byte size mismatch for input 'x' for model 'toy'. Expected {{}}, got {{}}"

INFER = [
    Wrong("model", request(ROWS, "nope"), UNKNOWN.format("nope"), Code.NOT_FOUND),
    Wrong("no model", request(ROWS, ""), UNKNOWN.format(""), Code.NOT_FOUND, over_http=False),
    *(
        Wrong(f"version {text}", request(ROWS, model_version=text), WITHOUT_VERSION.format(text), Code.NOT_FOUND)
        for text in "90"
    ),
    # Triton reads the digits of 1.0 and forgets the rest.
    *(
        Wrong(f"version {text[:3]}", request(ROWS, model_version=text), STOL.format(text, ABOVE_ZERO))
        for text in ("x", "1.0", "9" * 30)
    ),
    Wrong("version sign", request(ROWS, model_version="-1"), f"invalid model version specified '-1' , {ABOVE_ZERO}"),
    Wrong(
        "datatype",
        edited(lambda m: setattr(m.inputs[0], "datatype", "INT32"), id="A"),
        "[request id: A] inference input 'x' data-type is 'INT32', but model 'toy' expects 'FP32'",
    ),
    Wrong(
        "datatype unknown",  # Triton: '<invalid>'
        with_input(datatype="FOO"),
        f"{NO_ID}inference input 'x' data-type is 'FOO', but model 'toy' expects 'FP32'",
    ),
    *(
        Wrong(f"shape {shape}", with_input(shape=shape), text.format(",".join(map(str, shape))))
        for text, shapes in ((SHAPE, ([2, 5], [6], [2, 3, 1], [1, 2**62])), (FREE, ([2, -1], [-1, 3])))
        for shape in shapes
    ),
    Wrong(
        "rank 0", with_input(shape=[]), f"{NO_ID}input 'x' has no shape but model requires batch dimension for 'toy'"
    ),
    Wrong("dimension huge", with_input(shape=[2**62, 3]), ROWS_LIMIT),
    Wrong("too many dimensions", with_input(shape=[1] * 17), "shape has 17 entries, expected at most 16"),
    Wrong("too many rows", request(np.zeros((65, 3), np.float32)), ROWS_LIMIT),
    Wrong("bytes", with_raw(b"x" * 12), SIZE.format(24, 12)),
    grpc_only(
        "both contents",
        edited(lambda m: m.inputs[0].contents.fp32_contents.append(1)),
        "contents field must not be specified when using raw_input_contents for 'x' for model 'toy'",
    ),
    grpc_only("no contents", with_raw(), "unable to find data for input tensor 'x' for model 'toy' in request."),
    grpc_only("more raw", with_raw(b"", b""), "raw_input_contents has 2 entries, expected 1 for model 'toy'"),
    grpc_only(
        "typed kind",
        typed(int_contents=[1, 2, 3]),
        "unexpected explicit tensor data for input tensor 'x' for model 'toy' of type 'INT32', "
        "expected datatype 'FP32'",
    ),
    grpc_only("typed count", typed(fp32_contents=[1, 2]), SIZE.format(12, 8)),
    Wrong(
        "input missing",
        edited(no_input),
        f"{NO_ID}expected 1 inputs but got 0 inputs for model 'toy'. Got input(s) [], but missing "
        f"required input(s) ['x']. Please provide all required input(s).{HAS_X}",
    ),
    Wrong("input twice", another_input("x"), f"{NO_ID}input 'x' already exists in request"),
    Wrong("input unknown", with_input(name="q"), f"unexpected inference input 'q' for model 'toy'{HAS_X}"),
    Wrong("input more", another_input("q"), f"unexpected inference input 'q' for model 'toy'{HAS_X}"),
    Wrong("output unknown", with_outputs("z"), f"unexpected inference output 'z' for model 'toy'{HAS_Y}"),
    Wrong("a node", with_outputs("layer1_in"), f"unexpected inference output 'layer1_in' for model 'toy'{HAS_Y}"),
    Wrong("output twice", with_outputs("y", "y"), f"{NO_ID}output 'y' already exists in request"),
    *(
        Wrong(
            f"shared memory of {name}",
            shared(name),
            f"tensor '{name}': shared memory is not supported",
            Code.UNIMPLEMENTED,
        )
        for name in "xy"
    ),
    Wrong(
        "classes of another kind",
        with_outputs("y", string_param="2"),
        "invalid value type for 'classification' parameter, expected int64_param",
    ),
    Wrong(
        "no classes", with_outputs("y", int64_param=0), "invalid value for 'classification' parameter, expected >= 0"
    ),
    Wrong(
        "classes in shared memory",
        shared("y", classes=1),
        "output can't set both 'shared_memory_region' and 'classification'",
    ),
    grpc_only(
        "priority kind",
        with_parameter("priority", string_param="1"),
        "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
    ),
    grpc_only(
        "priority below zero",
        with_parameter("priority", int64_param=-1),
        "invalid value for 'priority', expected value >= 0.",
    ),
    grpc_only(
        "timeout kind",
        with_parameter("timeout", bool_param=True),
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    grpc_only(
        "parameter reserved",
        with_parameter("triton_other", bool_param=True),
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting "
        "with 'triton_' are allowed: triton_enable_empty_final_response",
    ),
    grpc_only(
        "parameter without a value",
        edited(lambda m: m.parameters["own"].SetInParent()),
        "invalid value type for 'own' parameter, expected int64_param, bool_param, or string_param.",
    ),
    Wrong("long name", request(ROWS, "n" * 100_000), "Request for unknown model: 'nnn...", Code.NOT_FOUND),
    Wrong("odd name", request(ROWS, "ü\n\0/../etc"), "Request for unknown model: 'ü...", Code.NOT_FOUND),
]

NAMED = "'repository_name' specification is not supported"
EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"


def other(method: str, text: str, code: grpc.StatusCode = INVALID, **fields: str) -> Wrong:
    """A mistake in the only message of a method other than ModelInfer."""
    message = getattr(pb, f"{method}Request")(**fields)
    return Wrong(" ".join((method, *fields)), message, text, code, method)


OTHERS = [
    other("ModelMetadata", UNKNOWN.format("nope"), Code.NOT_FOUND, name="nope"),
    other("ModelConfig", UNKNOWN.format("nope"), Code.NOT_FOUND, name="nope"),
    other("ModelConfig", STOL.format("x", ABOVE_ZERO), name="toy", version="x"),
    other("ModelReady", STOL.format("x", ABOVE_ZERO), name="toy", version="x"),
    other("ModelStatistics", "requested model 'nope' is not available", name="nope"),
    other("ModelStatistics", "requested model version is not available for model 'toy'", name="toy", version="9"),
    other("RepositoryIndex", NAMED, Code.UNIMPLEMENTED, repository_name="r"),
    *(
        other(f"RepositoryModel{verb}", text, code, **fields)
        for verb in ("Load", "Unload")
        for text, code, fields in (
            (EXPLICIT, Code.UNAVAILABLE, {"model_name": "toy"}),
            (NAMED, Code.UNIMPLEMENTED, {"repository_name": "toy"}),
            (EXPLICIT, Code.UNAVAILABLE, {}),
        )
    ),
]
CASES = [*INFER, *OTHERS]
