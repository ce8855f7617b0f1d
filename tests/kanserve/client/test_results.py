"""Tests of `client/results.py`."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kanserve import AsyncClient, Client
from kanserve.client.errors import ServerFailed
from kanserve.client.results import InferenceResult
from kanserve.pb import grpc_service_pb2 as oip
from tests.kanserve.client.test_chunking import MODEL, echo
from tests.support import chunked
from tests.support.http_client import responding

# Change of a response with a row of three numbers -> the text of the error.
LIES: dict[str, Any] = {
    "has shape [0, 3], expected 1 rows": lambda a: a.outputs[0].shape.__setitem__(0, 0),
    "has shape [2, 3], expected 1 rows": lambda a: a.outputs[0].shape.__setitem__(0, 2),
    "has shape [1, 2], expected [-1, 3]": lambda a: a.outputs[0].shape.__setitem__(1, 2),
    "has shape [-1, 3], expected 1 rows": lambda a: a.outputs[0].shape.__setitem__(0, -1),
    "has shape [1], expected [-1, 3]": lambda a: a.outputs[0].shape.pop(),
    "is FP64, expected FP32": lambda a: setattr(a.outputs[0], "datatype", "FP64"),
    "has 11 bytes, expected 12": lambda a: a.raw_output_contents.__setitem__(0, bytes(11)),
    "output 'y' is missing": lambda a: setattr(a.outputs[0], "name", "z"),
    "output 'y' occurs twice": lambda a: (a.outputs.append(a.outputs[0]), a.raw_output_contents.append(bytes(12))),
    "1 outputs, but the contents of 0": lambda a: a.raw_output_contents.pop(),
    "it is of version '2', expected version '1'": lambda a: setattr(a, "model_version", "2"),
}


@pytest.mark.parametrize("text", LIES)
def test_a_response_that_does_not_fit_the_request_is_an_error(text: str) -> None:
    def lie(data: bytes, context: Any) -> bytes:
        response = oip.ModelInferResponse.FromString(echo(data, context))
        LIES[text](response)
        return response.SerializeToString()

    model, row = replace(MODEL, max_batch_size=8), np.zeros((1, 3), np.float32)

    async def awaited() -> None:
        async with AsyncClient(url) as other:
            await other.infer(model, row, version="1")

    with responding(lie) as url, Client(url) as client:
        for ask in (
            lambda: client.infer(model, row, version="1"),
            lambda: chunked.infer(client, model, row, version="1"),
            lambda: asyncio.run(awaited()),
        ):
            with pytest.raises(ServerFailed, match=f"ModelInfer is malformed: .*{re.escape(text)}") as caught:
                ask()
            assert (caught.value.error_code, bool(caught.value.hint)) == ("response-malformed", True)


def test_a_response_that_is_no_table_is_no_frame() -> None:
    response = InferenceResult("1", {"a": np.zeros((2, 3)), "b": np.zeros((2, 3, 1))})
    assert list(response.to_frame("a").columns) == ["a0", "a1", "a2"]
    for output, text in (("b", "b has 3 axes"), ("", "unknown output '', expected one of 'a', 'b'")):
        with pytest.raises(ValueError, match=text):
            response.to_frame(output)
