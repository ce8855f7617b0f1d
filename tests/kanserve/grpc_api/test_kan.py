"""DescribeModel pages: small pages that contain every item once."""

from collections.abc import Iterable

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.errors import BadRequest, FailedPrecondition
from kanserve.grpc_api import kan
from kanserve.pb import kan_pb2
from tests.support.bad_requests import refused
from tests.support.server_process import KAN, Server


@st.composite
def descriptions(draw: st.DrawFn) -> kan_pb2.DescribeModelResponse:
    whole = kan_pb2.DescribeModelResponse(model_name="m", model_version="3", digest="a1" * 32, notes=["one", "two"])
    for at in range(draw(st.integers(0, 4))):
        sources, destinations = draw(st.integers(1, 150)), draw(st.integers(1, 150))
        layer = whole.layers.add(index=at, sources=sources, destinations=destinations, name=f"layer {at}")
        if draw(st.booleans()):
            layer.mask = np.arange(sources * destinations, dtype="<f4").tobytes()
        for edge in range(draw(st.sampled_from([0, 3, 900]))):
            layer.symbolic.add(source=edge, destination=1, function="sin", a=edge, c=1, mask=1)
    return whole


def pages(whole: kan_pb2.DescribeModelResponse, size: int) -> list[kan_pb2.DescribeModelResponse]:
    result, token = [], ""
    while not result or token:
        item = kan.page(whole, size, token)
        token = item.next_page_token
        result.append(kan_pb2.DescribeModelResponse.FromString(item.SerializeToString()))
    return result


def joined(pages: Iterable[kan_pb2.DescribeModelResponse]) -> kan_pb2.DescribeModelResponse:
    """The description whose pages these are, in their order."""
    whole = kan_pb2.DescribeModelResponse()
    for item in pages:
        layers = list(item.layers)
        del item.layers[:]
        whole.MergeFrom(item)
        for part in layers:
            if whole.layers and whole.layers[-1].index == part.index:
                whole.layers[-1].mask += part.mask
                whole.layers[-1].symbolic.extend(part.symbolic)
            else:
                whole.layers.append(part)
    whole.ClearField("next_page_token")
    return whole


@settings(max_examples=settings.default.max_examples // 10)
@given(descriptions(), st.integers(kan.LEAST, 200_000))
def test_pages_hold_everything_once_and_are_small(whole: kan_pb2.DescribeModelResponse, size: int) -> None:
    result = pages(whole, size)
    assert joined(result) == whole
    assert all(item.ByteSize() <= size + 200 for item in result)
    assert {(item.model_name, item.model_version, item.digest) for item in result} == {("m", "3", "a1" * 32)}


def test_tokens_that_are_none() -> None:
    for token, kind, words in (
        ("x", BadRequest, "invalid page_token 'x'"),
        (f"{'a1' * 8}.9", BadRequest, "does not fit 1 pages of this size"),
        (f"{'a1' * 8}.0", BadRequest, "does not fit 1 pages of this size"),
        (f"{'b2' * 8}.1", FailedPrecondition, "has changed since the first page"),
    ):
        whole = kan_pb2.DescribeModelResponse(model_name="m", digest="a1" * 32)
        with pytest.raises(kind, match=words):
            kan.page(whole, 2**20, token)
        with pytest.raises(BadRequest, match="page_bytes is 5, expected 16384 or more"):
            kan.page(whole, 5, "")


def test_over_the_wire(server: Server) -> None:
    def ask(**fields: object) -> kan_pb2.DescribeModelResponse:
        data = kan_pb2.DescribeModelRequest(model_name="toy", **fields).SerializeToString()
        return kan_pb2.DescribeModelResponse.FromString(server.call(f"{KAN}DescribeModel", data))

    assert ask(page_bytes=2**20) == ask()
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        ask(page_token="x.1", page_bytes=2**20)
