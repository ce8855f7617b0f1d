"""The client against a faulty gRPC server: retries, halved chunks, error translation."""

import asyncio
import contextlib
import threading
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.client import errors
from kanserve.client.aio import AsyncClient
from kanserve.client.sync import Client
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.services import validation
from tests.kanserve.client.test_chunking import MODEL, echo
from tests.support import chunked
from tests.support.http_client import refusing, responding
from tests.support.tiers import full
from tests.support.wait import until


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
@pytest.mark.parametrize(("failures", "succeeds"), [(0, True), (3, True), (4, False)])
def test_what_is_temporary_is_tried_again_three_times(code: grpc.StatusCode, failures: int, succeeds: bool) -> None:
    calls: list[bytes] = []

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        if len(calls) <= failures:
            context.abort(code, "Server not ready")
        return oip.ServerReadyResponse(ready=True).SerializeToString()

    with responding(response) as url, Client(url) as client:
        if succeeds:
            assert client.ready()
            calls.clear()
            assert asyncio.run(ready(url))
        else:
            kind = errors.Unavailable if code is grpc.StatusCode.UNAVAILABLE else errors.ServerFailed
            with pytest.raises(kind, match="Server not ready"):
                client.ready()
    assert len(calls) == min(failures, 3) + 1


async def ready(url: str) -> bool:
    async with AsyncClient(url) as client:
        return await client.ready()


def test_a_call_that_its_client_closes_is_not_repeated() -> None:
    begun, ends, calls = threading.Event(), threading.Event(), list[bytes]()

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(data)
        begun.set()
        ends.wait(60)
        return b""

    with responding(response) as url, futures.ThreadPoolExecutor(1) as pool:
        client = Client(url)
        call = pool.submit(client.ready)
        assert begun.wait(60)
        client.close()
        with pytest.raises(errors.ServerFailed, match="CANCELLED"):
            call.result(60)
        ends.set()
    assert len(calls) == 1


@full("load")
def test_a_server_with_errors_gets_no_calls_for_a_time() -> None:
    """`counts` has the calls of each of three servers; the first one gives errors."""
    counts = [0, 0, 0]

    def server(at: int) -> Any:
        def response(data: bytes, context: grpc.ServicerContext) -> bytes:
            if not data:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "no health service: the client takes it as ready")
            counts[at] += 1
            if at == 0:
                context.abort(grpc.StatusCode.INTERNAL, "broken")
            return echo(data, context)

        return responding(response)

    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client([stack.enter_context(server(at)) for at in range(3)]))

        def ejected() -> bool:
            before = list(counts)
            for _ in range(30):
                with contextlib.suppress(errors.ServerFailed):
                    client.infer(MODEL, np.zeros((1, 3), np.float32))
            return counts[0] == before[0] and min(counts[1] - before[1], counts[2] - before[2]) > 9

        until(ejected, "the server with errors gets no calls")


@pytest.mark.parametrize(
    ("code", "kind", "input_is_wrong", "says"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidInput, True, "^the text$"),
        (grpc.StatusCode.OUT_OF_RANGE, errors.InvalidInput, True, "^the text$"),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound, True, "^the text$"),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.NotSupported, True, "^the text$"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.TooLarge, False, "^the text$"),
        (grpc.StatusCode.INTERNAL, errors.ServerFailed, False, "failed .INTERNAL.: the text"),
        (grpc.StatusCode.UNAUTHENTICATED, errors.NotAllowed, False, "^the text$"),
        (grpc.StatusCode.UNIMPLEMENTED, errors.NotSupported, False, "does not offer RepositoryIndex: the text"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded, False, "within 30 s"),
    ],
)
def test_other_codes_are_final(code: grpc.StatusCode, kind: type, input_is_wrong: bool, says: str) -> None:
    with refusing(code, "the text") as (url, calls), Client(url) as client, pytest.raises(kind, match=says) as caught:
        client.index()
    assert (type(caught.value), caught.value.code, caught.value.input_is_wrong) == (kind, code.name, input_is_wrong)
    assert (caught.value.error_code, caught.value.hint) == ("", "")  # as this server sends none
    assert len(calls) == 1


def test_texts_of_triton_and_of_grpc_that_do_not_help_are_left_out() -> None:
    sent = f"[request id: <id_unknown>] unexpected shape. {validation.BATCH_NOTE}"
    short = pytest.raises(errors.InvalidInput, match=r"^unexpected shape\.$")
    with refusing(grpc.StatusCode.INVALID_ARGUMENT, sent) as (url, _), Client(url) as client, short:
        client.index()
    refused = "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:1: Connection refused"
    details = [f"{refused} CERTIFICATE_VERIFY_FAILED: self-signed certificate: OK", refused]

    def response(data: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAVAILABLE, details.pop(0))
        raise AssertionError

    untrusted = pytest.raises(errors.Unreachable, match=r"certificate is not trusted \(self-signed certificate\)")
    with responding(response) as url, Client(url, retries=1) as client, untrusted as caught:
        client.index()
    assert "ca (--ca)" in caught.value.hint


def test_an_error_has_the_code_and_the_hint_of_the_server() -> None:
    sent = (("kan-error-code", "rows-missing"), ("kan-error-help", "gr%C3%B6%C3%9Fe: 50%25"))
    wrong = pytest.raises(errors.InvalidInput, match=r"^the text$")
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
        for ask in (client.ready, lambda: chunked.infer(client, MODEL, np.zeros((4, 3), np.float32))):
            with pytest.raises(errors.RateLimited, match="too many") as caught:
                ask()
            assert (caught.value.code, caught.value.retry_after) == ("RESOURCE_EXHAUSTED", seconds)
    assert len(calls) == 2
