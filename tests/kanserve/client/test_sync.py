"""The client against a faulty gRPC server: retries, halved chunks, error translation."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from kanserve.client import chunking
from kanserve.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NotAllowed,
    NotFound,
    NotSupported,
    RateLimited,
    ServerFailed,
    TooLarge,
    Unavailable,
    Unreachable,
)
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.services import validation
from tests.kanserve.client.test_chunking import MODEL
from tests.support.http_client import answering, refusing


@pytest.mark.parametrize(("failures", "succeeds"), [(0, True), (3, True), (4, False)])
def test_unavailable_is_tried_again_three_times(failures: int, succeeds: bool) -> None:
    calls: list[bytes] = []

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        if len(calls) <= failures:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Server not ready")
        return oip.ServerReadyResponse(ready=True).SerializeToString()

    with answering(answer) as url, Client(url) as client:
        if succeeds:
            assert client.ready()
        else:
            with pytest.raises(Unavailable, match="not available: Server not ready"):
                client.ready()
    assert len(calls) == min(failures, 3) + 1


@pytest.mark.parametrize(
    ("code", "kind", "input_is_wrong", "says"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput, True, "^the text$"),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidInput, True, "^the text$"),
        (grpc.StatusCode.NOT_FOUND, NotFound, True, "^the text$"),
        (grpc.StatusCode.FAILED_PRECONDITION, NotSupported, True, "^the text$"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TooLarge, False, "^the text$"),
        (grpc.StatusCode.INTERNAL, ServerFailed, False, "failed .INTERNAL.: the text"),
        (grpc.StatusCode.UNAUTHENTICATED, NotAllowed, False, "^the text$"),
        (grpc.StatusCode.UNIMPLEMENTED, NotSupported, False, "does not offer RepositoryIndex: the text"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded, False, "within 30 s"),
    ],
)
def test_other_codes_are_final_and_translated(
    code: grpc.StatusCode, kind: type[ClientError], input_is_wrong: bool, says: str
) -> None:
    with refusing(code, "the text") as (url, calls), Client(url) as client, pytest.raises(kind, match=says) as caught:
        client.index()
    assert (type(caught.value), caught.value.code, caught.value.input_is_wrong) == (kind, code.name, input_is_wrong)
    assert (caught.value.error_code, caught.value.hint) == ("", "")  # as this server sends none
    assert len(calls) == 1


def test_texts_of_triton_and_of_grpc_that_do_not_help_are_left_out() -> None:
    sent = f"[request id: <id_unknown>] unexpected shape. {validation.BATCH_NOTE}"
    short = pytest.raises(InvalidInput, match=r"^unexpected shape\.$")
    with refusing(grpc.StatusCode.INVALID_ARGUMENT, sent) as (url, _), Client(url) as client, short:
        client.index()
    refused = "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:1: Connection refused"
    details = [f"{refused} CERTIFICATE_VERIFY_FAILED: self-signed certificate: OK", refused]

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAVAILABLE, details.pop(0))
        raise AssertionError

    untrusted = pytest.raises(Unreachable, match=r"certificate is not trusted \(self-signed certificate\)")
    with answering(answer) as url, Client(url, retries=1) as client, untrusted as caught:
        client.index()
    assert "ca (--ca)" in caught.value.hint


def test_an_error_has_the_code_and_the_hint_of_the_server() -> None:
    sent = (("kan-error-code", "rows-missing"), ("kan-error-help", "gr%C3%B6%C3%9Fe: 50%25"))
    wrong = pytest.raises(InvalidInput, match=r"^the text$")
    with (
        refusing(grpc.StatusCode.INVALID_ARGUMENT, "the text", *sent) as (url, _),
        Client(url) as client,
        wrong as caught,
    ):
        client.index()
    assert (caught.value.code, caught.value.error_code) == ("INVALID_ARGUMENT", "rows-missing")
    assert caught.value.hint == "größe: 50%"


@pytest.mark.parametrize(("wait", "seconds"), [("-1", None), ("60000", 60)])
def test_a_server_that_pushes_back_for_good_or_for_too_long_is_asked_once(wait: str, seconds: float | None) -> None:
    sent = ("grpc-retry-pushback-ms", wait)
    with refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", sent) as (url, calls), Client(url) as client:
        for ask in (client.ready, lambda: chunking.infer(client, MODEL, np.zeros((4, 3), np.float32))):
            with pytest.raises(RateLimited, match="too many") as caught:
                ask()
            assert (caught.value.code, caught.value.retry_after) == ("RESOURCE_EXHAUSTED", seconds)
    assert len(calls) == 2
