"""Every datatype of a plain ONNX model, with identity graphs, Triton's client and both tensor encodings."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper

from kanserve.pb import grpc_service_pb2 as pb
from kanserve.services import validation
from tests.support import toy_model
from tests.support.http_client import served
from tests.support.server_process import INFERENCE, SHARED, Server

Code = grpc.StatusCode
TINY = 1e-40  # not a normal number
# Datatype -> ONNX's, the field of typed contents, and rows [2, 3] with what is at its ends.
KINDS: dict[str, tuple[int, str, np.ndarray]] = {
    "BOOL": (TensorProto.BOOL, "bool_contents", np.array([[True, False, True], [False, False, True]])),
    **{
        f"{sign}{bits}": (
            getattr(TensorProto, f"{sign}{bits}"),
            f"{sign.lower()}{'64' if bits == 64 else ''}_contents",
            np.array([[low, high, 0], [1, 2, 3]], f"{sign.lower()}{bits}"),
        )
        for sign in ("INT", "UINT")
        for bits in (8, 16, 32, 64)
        for low, high in [(np.iinfo(f"{sign.lower()}{bits}").min, np.iinfo(f"{sign.lower()}{bits}").max)]
    },
    "FP16": (TensorProto.FLOAT16, "", np.array([[1.5, -np.inf, 65504], [6e-8, -0.0, np.nan]], np.float16)),
    "BF16": (TensorProto.BFLOAT16, "", np.array([[1.5, -np.inf, 3e38], [TINY, -0.0, np.nan]], ml_dtypes.bfloat16)),
    "FP32": (TensorProto.FLOAT, "fp32_contents", np.array([[1.5, -np.inf, 3e38], [TINY, -0.0, np.nan]], np.float32)),
    "FP64": (TensorProto.DOUBLE, "fp64_contents", np.array([[1.5, -np.inf, 1e308], [5e-324, -0.0, np.nan]])),
    "BYTES": (
        TensorProto.STRING,
        "bytes_contents",
        np.array([[b"", b"a\0b", b"0"], ["ü".encode(), b" ", b"x" * 300]], object),
    ),
}


def identity(kind: int, shape: list[object]) -> bytes:
    given, wanted = (helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y0"))
    return packed(helper.make_graph([helper.make_node("Identity", ["x"], ["y0"])], "g", [given], [wanted]))


def packed(graph: object) -> bytes:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def mixed() -> bytes:
    """BF16 and FP32 in, both and strings out."""
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "w"], ["z"]),
        helper.make_node("Cast", ["z"], ["s"], to=TensorProto.STRING),
    ]
    ports = {"x": TensorProto.BFLOAT16, "w": TensorProto.FLOAT, "y": TensorProto.BFLOAT16, "s": TensorProto.STRING}
    info = {name: helper.make_tensor_value_info(name, kind, ["B", 3]) for name, kind in ports.items()}
    return packed(helper.make_graph(nodes, "g", [info["x"], info["w"]], [info["y"], info["s"]]))


def told(kind: int) -> bytes:
    """Responds with a string that is not UTF-8."""
    text = helper.make_tensor("c", TensorProto.STRING, [1], [b"\xff"])
    given = helper.make_tensor_value_info("x", kind, ["B", 1])
    wanted = helper.make_tensor_value_info("y", TensorProto.STRING, [1])
    return packed(helper.make_graph([helper.make_node("Identity", ["c"], ["y"])], "g", [given], [wanted], [text]))


def write(root: Path) -> None:
    models = {name.lower(): identity(kind, ["B", 3]) for name, (kind, _, _) in KINDS.items()}
    models |= {f"{name.lower()}_scalar": identity(kind, []) for name, (kind, _, _) in KINDS.items()}
    models |= {"mixed": mixed(), "told": told(TensorProto.FLOAT)}
    toy_model.write_graphs(root, models)


plain = served(SHARED, write=write, plain_onnx=True, max_input_strings=600, max_response_bytes=8192)


@pytest.fixture
def client(plain: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(plain.address) as created:
        yield created


def given(name: str, datatype: str, rows: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput(name, list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows)
    return tensor


def bits(array: np.ndarray) -> object:
    return array.tolist() if array.dtype.hasobject else (array.shape, array.tobytes())


@pytest.mark.parametrize("datatype", KINDS)
def test_raw_contents_come_back_to_the_bit_and_have_the_type_that_the_server_names(
    client: triton.InferenceServerClient, datatype: str
) -> None:
    rows = KINDS[datatype][2]
    for array in (rows, rows[:1], np.concatenate([rows] * 20), rows[:0]):
        response = client.infer(datatype.lower(), [given("x", datatype, array)])
        (output,) = response.get_response().outputs
        assert (output.datatype, tuple(output.shape)) == (datatype, array.shape)
        if len(array):  # the client reads an empty response as no array
            assert bits(response.as_numpy("y0")) == bits(array)
    metadata = client.get_model_metadata(datatype.lower())
    assert [tensor.datatype for tensor in (*metadata.inputs, *metadata.outputs)] == [datatype] * 2
    config = client.get_model_config(datatype.lower(), as_json=True)["config"]
    assert config["input"][0]["data_type"] == ("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")


@pytest.mark.parametrize("datatype", KINDS)
def test_a_graph_of_one_number(plain: Server, datatype: str) -> None:
    rows = KINDS[datatype][2]
    value = validation.joined([rows[1, 2]]) if datatype == "BYTES" else rows[1, 2].tobytes()
    message = pb.ModelInferRequest(model_name=f"{datatype.lower()}_scalar", raw_input_contents=[value])
    message.inputs.add(name="x", datatype=datatype)
    response = pb.ModelInferResponse.FromString(plain.call(f"{INFERENCE}ModelInfer", message.SerializeToString()))
    assert (list(response.outputs[0].shape), list(response.raw_output_contents)) == ([], [value])


@pytest.mark.parametrize("datatype", [name for name, (_, field, _) in KINDS.items() if field])
def test_typed_contents_mean_the_same(plain: Server, datatype: str) -> None:
    _, field, rows = KINDS[datatype]
    message = pb.ModelInferRequest(model_name=datatype.lower())
    entry = message.inputs.add(name="x", datatype=datatype, shape=rows.shape)
    getattr(entry.contents, field).extend(rows.ravel().tolist())
    response = pb.ModelInferResponse.FromString(plain.call(f"{INFERENCE}ModelInfer", message.SerializeToString()))
    expected = validation.joined(rows.ravel()) if datatype == "BYTES" else rows.tobytes()
    assert list(response.raw_output_contents) == [expected]


def test_types_beside_each_other(client: triton.InferenceServerClient) -> None:
    rows = KINDS["BF16"][2]
    sent = [given("x", "BF16", rows), given("w", "FP32", np.ones((2, 3), np.float32))]
    response = client.infer("mixed", sent)
    assert bits(response.as_numpy("y")) == bits(rows)
    assert response.as_numpy("s")[0].tolist() == [b"2.5", b"-INF", b"3.0040553e+38"]


def sent(data: bytes, *shape: int, datatype: str = "BYTES", model: str = "bytes") -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model, raw_input_contents=[data], id="A")
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    return message


WHERE = "for inference input 'x' for model 'bytes'"
WRONG = {
    b"\1\0": f"incomplete string length indicator {WHERE}, expecting 4 bytes but only 2 bytes available.",
    b"\5\0\0\0ab": f"incomplete string data {WHERE}, expecting string of length 5 but only 2 bytes available",
    b"\0\0\0\0": f"expected 3 string elements {WHERE}, got 1",
    b"\0\0\0\0" * 4: f"unexpected number of string elements 4 {WHERE}, expecting 3",
    b"\1\0\0\0\xff" * 3: f"string 0 {WHERE} is not UTF-8",
}


def refused(server: Server, message: pb.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        server.call(f"{INFERENCE}ModelInfer", message.SerializeToString())
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(("data", "text"), WRONG.items())
def test_strings_that_do_not_fit_their_bytes(plain: Server, data: bytes, text: str) -> None:
    assert refused(plain, sent(data, 1, 3)) == (Code.INVALID_ARGUMENT, f"[request id: A] {text}")


def test_strings_are_bounded_in_number_and_in_bytes(plain: Server) -> None:
    code, text = refused(plain, sent(b"\0\0\0\0" * 603, 201, 3))
    assert code is Code.RESOURCE_EXHAUSTED
    assert text.startswith("[request id: A] input 'x' of model 'bytes' has 603 strings, expected at most 600")
    code, text = refused(plain, sent(validation.joined([b"x" * 3000] * 3), 1, 3))
    assert (code, text) == (Code.RESOURCE_EXHAUSTED, "output 'y0' takes 9012 bytes, the limit is 8192")
    message = pb.ModelInferRequest(model_name="bytes")
    message.inputs.add(name="x", datatype="BYTES", shape=[30000, 3]).contents.bytes_contents.extend([b""] * 90000)
    assert refused(plain, message)[1].startswith("ModelInferRequest has too many fields")
    message.inputs[0].contents.bytes_contents[:] = [b"x" * 2**20]
    assert refused(plain, message)[0] is Code.RESOURCE_EXHAUSTED


def test_a_response_that_is_no_text_is_the_models_fault(plain: Server) -> None:
    code, text = refused(plain, sent(b"1234", 1, 1, datatype="FP32", model="told"))
    assert code is Code.FAILED_PRECONDITION
    assert "not UTF-8" in text
