"""Encoding and decoding of inference messages, as properties: round trips, and only typed errors."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kanserve.errors import BadRequest, ResourceExhausted, Unsupported
from kanserve.grpc_api import infer_codec, kan_codec
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.types import DTYPES, InferRequest, InferResponse, OutputTensor

TYPED = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def decoded(message: pb.ModelInferRequest) -> InferRequest:
    return infer_codec.request_from_pb(message, deadline=None, max_typed_contents_bytes=2**20)


@st.composite
def tensors(draw: st.DrawFn, datatypes: tuple[str, ...] = tuple(DTYPES)) -> tuple[str, np.ndarray]:
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    return datatype, draw(hnp.arrays(DTYPES[datatype], shape))


@settings(max_examples=settings.default.max_examples // 5)
@given(tensors(tuple(TYPED)))
def test_typed_contents_mean_the_same_bytes_as_raw(tensor: tuple[str, np.ndarray]) -> None:
    datatype, array = tensor
    message = pb.ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="x", datatype=datatype, shape=array.shape)
    entry.contents.SetInParent()
    getattr(entry.contents, TYPED[datatype]).extend(array.ravel().tolist())
    (result,) = decoded(message).inputs
    expected = np.frombuffer(array.tobytes(), DTYPES[datatype])
    actual = np.frombuffer(result.data, DTYPES[datatype])
    np.testing.assert_array_equal(actual, expected)  # NaN equals NaN; its payload may change


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.tuples(names, tensors()), max_size=3), names)
def test_responses_are_read_back_as_they_were(outputs: list, request_id: str) -> None:
    unique = dict(outputs)
    response = InferResponse(
        "m", 7, request_id, tuple(OutputTensor(n, d, a.shape, a.tobytes()) for n, (d, a) in unique.items())
    )
    message = pb.ModelInferResponse.FromString(infer_codec.response_to_pb(response).SerializeToString())
    assert (message.model_name, message.model_version, message.id) == ("m", "7", request_id)
    assert [tensor.name for tensor in message.outputs] == list(unique)
    for tensor, raw, (datatype, array) in zip(
        message.outputs, message.raw_output_contents, unique.values(), strict=True
    ):
        assert (tensor.datatype, tuple(tensor.shape), raw) == (datatype, array.shape, array.tobytes())
        assert not tensor.HasField("contents")


@given(st.binary(max_size=200))
def test_garbage_is_a_bad_request_or_a_message(data: bytes) -> None:
    with contextlib.suppress(BadRequest, ResourceExhausted, Unsupported):
        decoded(infer_codec.parse(pb.ModelInferRequest, data))
    with contextlib.suppress(BadRequest):
        kan_codec.from_pb(infer_codec.parse(kan_pb2.QueryEdgesRequest, data), deadline=None)


@pytest.mark.parametrize(("depth", "text"), [(1000, "malformed"), (10**6, "too many fields")])
def test_deep_nesting_is_a_bad_request(depth: int, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        infer_codec.parse(pb.ModelInferRequest, b"\x0b" * depth)


def test_wrong_parameters_are_named() -> None:
    for key, member, value, text in (
        ("timeout", "int64_param", -1, "'timeout'"),
        ("sequence_start", "int64_param", 1, "expected bool_param"),
        ("sequence_id", "bool_param", True, "'sequence_id'"),
        ("triton_enable_empty_final_response", "string_param", "x", "expected bool_param"),
    ):
        message = pb.ModelInferRequest(model_name="m")
        setattr(message.parameters[key], member, value)
        with pytest.raises(BadRequest, match=text):
            decoded(message)


def test_triton_clients_parameters_are_accepted() -> None:
    message = pb.ModelInferRequest(model_name="m")
    message.parameters["priority"].uint64_param = 1
    message.parameters["timeout"].int64_param = 1500
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    message.parameters["sequence_id"].string_param = "s"
    message.parameters["own"].double_param = 0.5
    entry = message.inputs.add(name="x", datatype="FP32", shape=[1])
    entry.parameters["binary_data_size"].int64_param = 4
    message.raw_input_contents.append(b"1234")
    assert decoded(message).queue_timeout == pytest.approx(0.0015)


def test_large_typed_contents_are_refused_with_the_way_out() -> None:
    message = pb.ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="x", datatype="FP64", shape=[200_000])
    entry.contents.fp64_contents.extend([0.0] * 200_000)
    with pytest.raises(ResourceExhausted, match="typed contents of input 'x' take 1600000 bytes") as caught:
        decoded(message)
    assert "raw_input_contents" in caught.value.hint


def test_values_that_do_not_fit_are_refused() -> None:
    message = pb.ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="x", datatype="INT8", shape=[1])
    entry.contents.int_contents.append(300)
    with pytest.raises(BadRequest, match="does not fit INT8"):
        decoded(message)


@pytest.mark.parametrize("field", ["inputs", "outputs", "parameters", "raw_input_contents"])
def test_a_request_cannot_name_a_million_things(field: str) -> None:
    item = {"parameters": {}, "raw_input_contents": [b""] * 65}.get(field, [{}] * 65)
    message = pb.ModelInferRequest(model_name="m", **{field: item})
    for number in range(65 if field == "parameters" else 0):
        message.parameters[str(number)].bool_param = True
    with pytest.raises(BadRequest, match=f"{field} has 65 entries, expected at most 64"):
        decoded(message)


def test_a_selection_cannot_be_endless() -> None:
    for query, name in (
        (kan_pb2.QueryEdgesRequest(sources=[1] * 70000), "sources"),
        (kan_pb2.QueryEdgesRequest(layer_names=["a"] * 70000), "layer_names"),
    ):
        with pytest.raises(BadRequest, match=f"{name} has 70000 entries"):
            kan_codec.from_pb(query, deadline=None)
