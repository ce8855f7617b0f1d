"""Messages divided into a head, an id and inputs."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.grpc_api.hot_path import heads
from kanserve.pb import grpc_service_pb2 as pb
from tests.support.server_process import request

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
TENSORS = st.builds(
    lambda name, shape: pb.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=shape),
    st.sampled_from(["x", "y" * 200]),
    st.lists(st.integers(-1, 2**40), max_size=3),
)
MESSAGES = st.builds(
    pb.ModelInferRequest,
    model_name=st.text(max_size=3),
    model_version=st.sampled_from(["", "1"]),
    id=st.text(max_size=300),
    inputs=st.lists(TENSORS, max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=300), min_size=1, max_size=2),
)


@settings(max_examples=settings.default.max_examples // 5)
@given(MESSAGES, st.binary(max_size=60))
def test_parts_are_the_message(message: pb.ModelInferRequest, data: bytes) -> None:
    parts = heads.split(data)
    assert parts is None or parts.raw, "any bytes are parted or not"
    requested = message.SerializeToString()
    parts = heads.split(requested)
    assert parts is not None
    assert parts.id.decode() == message.id
    assert [requested[begin:stop] for begin, stop in parts.raw] == list(message.raw_input_contents)
    rest = pb.ModelInferRequest.FromString(parts.head)
    message.ClearField("id")
    message.ClearField("raw_input_contents")
    assert rest == message


def test_what_has_parameters_or_a_field_twice_is_not_remembered() -> None:
    """The last value of a field counts."""
    whole, other = request(ROWS).SerializeToString(), pb.ModelInferRequest(model_name="other").SerializeToString()
    late, text = request(ROWS), request(ROWS)
    late.parameters["timeout"].int64_param = 10**6
    text.parameters["triton_enable_empty_final_response"].string_param = "x"
    for message in (late.SerializeToString(), text.SerializeToString(), whole + other, other + whole):
        assert heads.split(message) is None


@pytest.mark.parametrize("fields", [b"\x2a\x00", b"\x3a\x00"], ids=["inputs", "bytes"])
def test_a_message_of_a_million_fields_is_given_up_early(fields: bytes) -> None:
    """Parting it whole took a second of the event loop."""
    few, many = (pb.ModelInferRequest(model_name="toy").SerializeToString() + fields * n for n in (10_000, 2_000_000))
    assert heads.split(few) is None
    begun = time.thread_time()
    assert heads.split(many) is None
    assert time.thread_time() - begun < 0.5
