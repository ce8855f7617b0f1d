"""Everything a client can get wrong, over the wire: the code, the words, and a server that goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.kanserve import toy
from tests.kanserve.running import INFERENCE, KAN, Server, request

Code = grpc.StatusCode
ROWS = np.zeros((2, 3), np.float32)
UNKNOWN_ID = "[request id: <id_unknown>] "


def typed(**contents: list) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="toy")
    entry = message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    entry.contents.SetInParent()
    for name, values in contents.items():
        getattr(entry.contents, name).extend(values)
    return message


def edited(change: Callable[[pb.ModelInferRequest], object], **fields: str) -> pb.ModelInferRequest:
    message = request(ROWS, **fields)
    change(message)
    return message


def both() -> pb.ModelInferRequest:
    message = typed(fp32_contents=[1, 2, 3])
    message.raw_input_contents.append(b"123412341234")
    return message


def twice(message: pb.ModelInferRequest) -> None:
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])


def extra(message: pb.ModelInferRequest) -> None:
    message.inputs.add(name="q", datatype="FP32", shape=[2, 3])
    message.raw_input_contents.append(message.raw_input_contents[0])


def nothing(message: pb.ModelInferRequest) -> None:
    del message.inputs[:]
    del message.raw_input_contents[:]


def reshape(*shape: int) -> Callable[[pb.ModelInferRequest], None]:
    def change(message: pb.ModelInferRequest) -> None:
        message.inputs[0].shape[:] = shape

    return change


def outputs(*names: str) -> Callable[[pb.ModelInferRequest], None]:
    def change(message: pb.ModelInferRequest) -> None:
        for name in names:
            message.outputs.add(name=name)

    return change


def shared(message: pb.ModelInferRequest) -> None:
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"


def classified(message: pb.ModelInferRequest) -> None:
    message.outputs.add(name="y").parameters["classification"].int64_param = 1


def set_name(name: str) -> Callable[[pb.ModelInferRequest], None]:
    return lambda message: setattr(message.inputs[0], "name", name)


def set_type(name: str) -> Callable[[pb.ModelInferRequest], None]:
    return lambda message: setattr(message.inputs[0], "datatype", name)


def set_raw(*raw: bytes) -> Callable[[pb.ModelInferRequest], None]:
    return lambda message: message.raw_input_contents.__setitem__(slice(None), raw)


INFER: list[tuple[str, pb.ModelInferRequest, Code, str]] = [
    (
        "model",
        request(ROWS, "nope"),
        Code.NOT_FOUND,
        "Request for unknown model: 'nope' is not found",
    ),
    (
        "version",
        request(ROWS, model_version="9"),
        Code.NOT_FOUND,
        "Request for unknown model: 'toy' version 9 is not found",
    ),
    (
        "version text",
        request(ROWS, model_version="x"),
        Code.INVALID_ARGUMENT,
        "failed to get model version from specified version string 'x' (details: stol), "
        "version should be an integral value > 0",
    ),
    ("version sign", request(ROWS, model_version="-1"), Code.INVALID_ARGUMENT, "version string '-1'"),
    ("version zero", request(ROWS, model_version="0"), Code.INVALID_ARGUMENT, "integral value > 0"),
    ("version huge", request(ROWS, model_version="9" * 30), Code.INVALID_ARGUMENT, "integral value > 0"),
    (
        "dtype",
        edited(set_type("INT32"), id="A"),
        Code.INVALID_ARGUMENT,
        "[request id: A] inference input 'x' data-type is 'INT32', but model 'toy' expects 'FP32'",
    ),
    ("dtype unknown", edited(set_type("FOO")), Code.INVALID_ARGUMENT, "data-type is 'FOO'"),
    (
        "shape",
        edited(reshape(2, 5)),
        Code.INVALID_ARGUMENT,
        f"{UNKNOWN_ID}unexpected shape for input 'x' for model 'toy'. Expected [-1,3], got [2,5]. NOTE: ",
    ),
    ("rank", edited(reshape(6)), Code.INVALID_ARGUMENT, "Expected [-1,3], got [6]."),
    ("rank 0", edited(reshape()), Code.INVALID_ARGUMENT, "Expected [-1,3], got []."),
    ("dim free", edited(reshape(-1, 3)), Code.INVALID_ARGUMENT, "All input dimensions should be specified"),
    ("dim huge", edited(reshape(2**62, 3)), Code.INVALID_ARGUMENT, "batch-size must be <= 64"),
    ("dim product", edited(reshape(1, 2**62)), Code.INVALID_ARGUMENT, "unexpected shape"),
    (
        "bytes",
        edited(set_raw(b"x" * 12)),
        Code.INVALID_ARGUMENT,
        f"{UNKNOWN_ID}input byte size mismatch for input 'x' for model 'toy'. Expected 24, got 12",
    ),
    (
        "both contents",
        both(),
        Code.INVALID_ARGUMENT,
        "contents field must not be specified when using raw_input_contents for 'x' for model 'toy'",
    ),
    (
        "no contents",
        edited(lambda m: m.raw_input_contents.__delitem__(slice(None))),
        Code.INVALID_ARGUMENT,
        "unable to find data for input tensor 'x' for model 'toy' in request.",
    ),
    ("more raw", edited(set_raw(b"", b"")), Code.INVALID_ARGUMENT, "raw_input_contents has 2 entries for 1"),
    (
        "typed kind",
        typed(int_contents=[1, 2, 3]),
        Code.INVALID_ARGUMENT,
        "unexpected explicit tensor data for input tensor 'x' for model 'toy' of type 'INT32', "
        "expected datatype 'FP32'",
    ),
    ("typed count", typed(fp32_contents=[1, 2]), Code.INVALID_ARGUMENT, "Expected 12, got 8"),
    (
        "missing",
        edited(nothing),
        Code.INVALID_ARGUMENT,
        f"{UNKNOWN_ID}expected 1 inputs but got 0 inputs for model 'toy'. Got input(s) [], but missing "
        "required input(s) ['x']. Please provide all required input(s).",
    ),
    ("duplicate", edited(twice), Code.INVALID_ARGUMENT, "input 'x' already exists in request"),
    (
        "unknown input",
        edited(set_name("q")),
        Code.INVALID_ARGUMENT,
        f"{UNKNOWN_ID}unexpected inference input 'q' for model 'toy'",
    ),
    ("extra input", edited(extra), Code.INVALID_ARGUMENT, "unexpected inference input 'q' for model 'toy'"),
    (
        "unknown output",
        edited(outputs("z")),
        Code.INVALID_ARGUMENT,
        f"{UNKNOWN_ID}unexpected inference output 'z' for model 'toy'",
    ),
    ("node as output", edited(outputs("layer1_in")), Code.INVALID_ARGUMENT, "unexpected inference output"),
    ("output twice", edited(outputs("y", "y")), Code.INVALID_ARGUMENT, "output 'y' already exists in request"),
    (
        "too many rows",
        request(np.zeros((65, 3), np.float32)),
        Code.INVALID_ARGUMENT,
        f"{UNKNOWN_ID}inference request batch-size must be <= 64 for 'toy'",
    ),
    ("shared memory", edited(shared), Code.UNIMPLEMENTED, "shared memory is not supported"),
    ("classification", edited(classified), Code.UNIMPLEMENTED, "classification is not supported"),
    ("long name", request(ROWS, "n" * 100_000), Code.NOT_FOUND, "Request for unknown model: 'nnn"),
    ("odd name", request(ROWS, "ü\n\0/../etc"), Code.NOT_FOUND, "ü"),
]


def edges(**fields: object) -> kan_pb2.QueryEdgesRequest:
    given = {"model_name": "toy", "rows": ROWS.tobytes(), "row_count": 2, **fields}
    return kan_pb2.QueryEdgesRequest(**given)


EDGES: list[tuple[str, kan_pb2.QueryEdgesRequest, Code, str]] = [
    ("model", edges(model_name="nope"), Code.NOT_FOUND, "Request for unknown model: 'nope' is not found"),
    ("version", edges(model_version="9"), Code.NOT_FOUND, "version 9 is not found"),
    ("bytes", edges(row_count=3), Code.INVALID_ARGUMENT, "rows holds 24 bytes, but 3 rows"),
    ("layer", edges(layers=[2]), Code.INVALID_ARGUMENT, "layer 2 does not exist: the model has 2 layers"),
    ("name", edges(layer_names=["h"]), Code.INVALID_ARGUMENT, "layer 'h' does not exist: the model's 2 layers have no"),
    ("source", edges(layers=[0], sources=[3]), Code.INVALID_ARGUMENT, "layer 0 has 3 sources"),
    ("destination", edges(destinations=[2]), Code.INVALID_ARGUMENT, "layer 1 has 2 destinations"),
    ("twice", edges(layers=[1, 1]), Code.INVALID_ARGUMENT, "layer 1 is named twice"),
    (
        "rows",
        edges(row_count=5000, rows=b"\0" * 60000),
        Code.RESOURCE_EXHAUSTED,
        "one query may have 4096; send fewer rows",
    ),
    (
        "size",
        edges(row_count=1000, rows=b"\0" * 12000),
        Code.RESOURCE_EXHAUSTED,
        "the limit is 65536; ask for fewer layers, sources or destinations, set top_k, or send fewer rows",
    ),
]


@pytest.fixture(autouse=True)
def _still_serving(server: Server) -> Iterator[None]:
    yield
    np.testing.assert_allclose(server.infer(ROWS), toy.outputs(ROWS))


def refused(server: Server, path: str, data: bytes) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        server.call(path, data)
    details = caught.value.details()
    assert details
    assert not any(word in details for word in ("Traceback", "Error", "/work", "/tmp", "site-packages"))
    return caught.value


@pytest.mark.parametrize(("message", "code", "text"), [c[1:] for c in INFER], ids=[c[0] for c in INFER])
def test_inference(server: Server, message: pb.ModelInferRequest, code: Code, text: str) -> None:
    error = refused(server, f"{INFERENCE}ModelInfer", message.SerializeToString())
    assert error.code() is code
    assert text in error.details()


@pytest.mark.parametrize(("message", "code", "text"), [c[1:] for c in EDGES], ids=[c[0] for c in EDGES])
def test_edge_queries(server: Server, message: kan_pb2.QueryEdgesRequest, code: Code, text: str) -> None:
    error = refused(server, f"{KAN}QueryEdges", message.SerializeToString())
    assert error.code() is code
    assert text in error.details()


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("ModelInfer", b"\xff" * 20),
        ("ModelInfer", b"\x0b" * 1000),  # groups without end
        ("ModelInfer", b"\x0a\x05ab"),  # shorter than it says
        ("ModelInfer", b"\x0a\x02\xff\xfe"),  # not UTF-8
        ("ModelConfig", b"\x0a\x02\xff\xfe"),
        ("ModelStatistics", b"\x0a\x05ab"),
        ("RepositoryIndex", b"\x0a\x05ab"),
        ("ServerReady", b"\xff" * 20),
        ("ServerLive", b"\x07"),  # an illegal tag
    ],
)
def test_garbage(server: Server, method: str, data: bytes) -> None:
    error = refused(server, INFERENCE + method, data)
    assert error.code() is Code.INVALID_ARGUMENT
    assert error.details() == f"malformed {method}Request"


def test_more_bytes_than_the_limit(server: Server) -> None:
    error = refused(server, f"{INFERENCE}ModelInfer", b"\0" * (5 * 2**20))
    assert error.code() is Code.RESOURCE_EXHAUSTED


def test_statistics_of_an_unknown_model(server: Server) -> None:
    for fields, text in (
        ({"name": "nope"}, "requested model 'nope' is not available"),
        ({"name": "toy", "version": "9"}, "requested model version is not available for model 'toy'"),
    ):
        data = pb.ModelStatisticsRequest(**fields).SerializeToString()
        error = refused(server, f"{INFERENCE}ModelStatistics", data)
        assert (error.code(), error.details()) == (Code.INVALID_ARGUMENT, text)


def test_zero_rows_are_a_valid_empty_answer(server: Server) -> None:
    for message in (request(np.zeros((0, 3), np.float32)), typed()):
        message.inputs[0].shape[:] = [0, 3]
        answer = pb.ModelInferResponse.FromString(server.call(f"{INFERENCE}ModelInfer", message.SerializeToString()))
        assert list(answer.outputs[0].shape) == [0, 2]
        assert list(answer.raw_output_contents) == [b""]


def test_numbers_that_are_none_are_computed_as_the_model_would(server: Server) -> None:
    rows = np.array([[np.nan, 0, 1], [np.inf, -np.inf, 0.5], [1, 2, 3]], np.float32)
    np.testing.assert_allclose(server.infer(rows), toy.outputs(rows), rtol=1e-5, equal_nan=True)


def test_typed_contents_are_answered_raw(server: Server) -> None:
    message = typed(fp32_contents=[1, 2, 3])
    answer = pb.ModelInferResponse.FromString(server.call(f"{INFERENCE}ModelInfer", message.SerializeToString()))
    expected = toy.outputs(np.array([[1, 2, 3]], np.float32))
    np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0], "<f4"), expected[0], rtol=1e-5)
    assert not answer.outputs[0].HasField("contents")
