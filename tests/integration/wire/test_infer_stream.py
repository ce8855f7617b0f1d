"""ModelStreamInfer with the real client and raw messages: order, errors, limits, cancellation, shutdown."""

import json
import queue
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper

from kanserve.pb import grpc_service_pb2 as pb
from tests.support import toy_model
from tests.support.bad_requests import INFER, Wrong, refused
from tests.support.http_client import ask, served, way
from tests.support.reload_tools import handled, shown
from tests.support.server_process import INFERENCE, SHARED, Server, request, serving
from tests.support.tiers import full
from tests.support.wait import until

Code = grpc.StatusCode
STREAM = f"{INFERENCE}ModelStreamInfer"
WIDE = 100_000  # numbers that `wide` gives for one
MOST = 8  # requests of a stream at once
BOTH = pytest.mark.parametrize("own", ["asgi", "grpcio"], indirect=True)  # also for `make test`
Messages = queue.SimpleQueue[pb.ModelInferRequest | None]


def write(repository: Path) -> None:
    toy_model.write(repository)
    toy_model.write_slow(repository, steps=4)
    write_wide(repository)


def write_wide(repository: Path) -> None:
    """x [B, 1] -> y [B, WIDE]."""
    shape = numpy_helper.from_array(np.array([1, WIDE], np.int64), "shape")
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"])]
    graph = toy_model.model(nodes, [("x", ["B", 1])], [("y", ["B", WIDE])], [shape], TensorProto.FLOAT)
    toy_model.write_graphs(repository, {"wide": graph})


# hypercorn is asked once, at the end: it takes what a caller does not read without end, and a call that is served
# before its request was whole costs it the connection.
own = served(SHARED, write=write, plain_onnx=True, max_stream_requests=MOST, access_log="all")


def rows(at: int) -> np.ndarray:
    return np.full((1 + at % 5, 3), at / 100, np.float32)


def slow(**fields: str) -> pb.ModelInferRequest:
    return request(np.zeros((1, 1), np.float32), "slow", **fields)


def wide(**fields: str) -> pb.ModelInferRequest:
    return request(np.ones((1, 1), np.float32), "wide", **fields)


def opened(server: Server, messages: Any, **options: Any) -> Any:
    """The responses of a stream, read on demand."""
    data = (message if isinstance(message, bytes) else message.SerializeToString() for message in messages)
    return server.channel.stream_stream(STREAM)(data, **{"timeout": 60, **options})


def waiting(*messages: pb.ModelInferRequest) -> Messages:
    """Messages of a caller who then waits: `iter(messages.get, None)` ends with None."""
    result = Messages()
    for message in messages:
        result.put(message)
    return result


def read(data: bytes) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse.FromString(data)


def inflight(server: Server) -> float:
    return shown(server, "kanserve_inflight_requests")


def test_tritonclient_gets_its_responses_in_order(own: Server) -> None:
    results: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(own.address) as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        for at in range(50):
            tensor = triton.InferInput("x", list(rows(at).shape), "FP32")
            tensor.set_data_from_numpy(rows(at))
            client.async_stream_infer("toy", [tensor], request_id=str(at), enable_empty_final_response=at % 2 == 0)
        for at in range(50):
            result, error = results.get(timeout=60)
            assert error is None
            response = result.get_response()
            assert (response.id, response.model_name, response.model_version) == (str(at), "toy", "1")
            assert response.parameters["triton_final_response"].bool_param
            np.testing.assert_allclose(result.as_numpy("y"), toy_model.outputs(rows(at)), rtol=1e-5)
        assert results.empty()


def test_a_quick_request_waits_for_a_slow_one_before_it(own: Server) -> None:
    sent = [slow(id="slow"), *(request(rows(1), id=str(at)) for at in range(4))]
    assert [read(data).infer_response.id for data in opened(own, sent)] == ["slow", "0", "1", "2", "3"]


@BOTH
def test_what_is_wrong_is_said_in_its_place_and_the_stream_goes_on(own: Server) -> None:
    cases: list[Wrong] = [case for case in INFER if len(case.message.model_name) < 1000]
    sent: list[Any] = []
    for case in cases:
        sent += [case.message, request(rows(2), id=case.name)]
    responses = [read(data) for data in opened(own, [*sent, b"\xff" * 20, request(rows(3), id="last")])]
    assert len(responses) == 2 * len(cases) + 2
    for case, wrong, good in zip(cases, responses[::2], responses[1::2], strict=False):
        assert case.said(wrong.error_message), wrong.error_message
        assert (wrong.infer_response.id, good.infer_response.id) == (case.message.id, case.name)
        assert not wrong.infer_response.outputs
        assert not good.error_message
        assert len(good.infer_response.raw_output_contents[0]) == toy_model.outputs(rows(2)).nbytes
    assert responses[-2].error_message == "malformed ModelInferRequest"
    assert responses[-1].infer_response.id == "last"


def test_the_first_error_ends_the_stream_of_a_caller_who_wants_that(own: Server) -> None:
    sent = [request(rows(1), id="a"), request(rows(1), "nope", id="b"), request(rows(1), id="c")]
    responses = opened(own, sent, metadata=(("triton_grpc_error", "true"), ("x-request-id", "s1")))
    assert read(next(responses)).infer_response.id == "a"
    with refused(Code.NOT_FOUND) as caught:
        next(responses)
    assert caught.value.details() == "Request for unknown model: 'nope' is not found"
    assert ("x-request-id", "s1") in tuple(caught.value.trailing_metadata())


def test_a_stream_may_be_longer_than_any_message_or_empty(own: Server) -> None:
    assert list(opened(own, [])) == []
    padded = request(rows(1), id="x" * 2**20).SerializeToString()
    responses = list(opened(own, [padded] * 12))
    assert [len(read(data).infer_response.id) for data in responses] == [2**20] * 12


def settled(server: Server, line: str) -> float:
    """A count that does not change while the server responds to other clients."""
    last, now = -1.0, shown(server, line)
    while now != last:
        for _ in range(30):
            ask(server, "/v2/health/live")
        last, now = now, shown(server, line)
    return now


def test_who_does_not_read_is_not_worked_for(own: Server) -> None:
    line = 'nv_inference_request_success{model="wide",version="1"}'
    before, many = shown(own, line), 300
    responses = opened(own, [wide(id=str(at)) for at in range(many)])
    assert read(next(responses)).infer_response.id == "0"
    # The server handles at most MOST requests, and those that the transport prefetches, until the client reads.
    assert settled(own, line) - before < many / 2
    assert 1 <= inflight(own) <= MOST + 2
    assert [read(data).infer_response.id for data in responses] == [str(at) for at in range(1, many)]
    until(lambda: shown(own, line) - before == many)


@BOTH
def test_who_goes_away_is_not_worked_for(own: Server) -> None:
    responses = opened(own, [slow(id=str(at)) for at in range(4 * MOST)])
    until(lambda: inflight(own) >= MOST)
    responses.cancel()
    until(lambda: inflight(own) == 0)
    until(lambda: shown(own, 'nv_inference_pending_request_count{model="slow",version="1"}') == 0)
    np.testing.assert_allclose(own.infer(rows(1)), toy_model.outputs(rows(1)), rtol=1e-5)


@full("load")
def test_callers_who_leave_at_any_moment_are_cancelled_without_a_traceback(own: Server) -> None:
    """60 clients leave after 0 to 4 responses: each call ends CANCELLED, or OK if the server was faster."""
    message = request(np.zeros((1, 3), np.float32))

    def finished() -> tuple[float, float]:
        """All streams, and those that ended neither cancelled nor well."""
        every, *known = (handled(own, "ModelStreamInfer", *code) for code in ((), ("CANCELLED",), ("OK",)))
        return every, every - sum(known)

    (before, other), seen = finished(), len(own.lines())
    for number in range(60):
        sent = waiting(*[message] * (1 + number % 7))
        call = opened(own, iter(sent.get, None))
        for _ in range(min(number % 5, 1 + number % 7)):
            next(call)
        call.cancel()
        sent.put(None)
    # A client that reads nothing may leave before its call reaches a handler: that is 12 of the 60.
    until(lambda: finished()[0] >= before + 48 and inflight(own) == 0)
    assert finished()[1] == other
    assert not [line for line in own.lines()[seen:] if line.get("level") == "error" or "exception" in line]


SCREENED = """
import ctypes, json, os, sys
from kanserve.observability import logs
logs.configure("json", "debug")
from kanserve.transport import h2corn_server
lines, libc = json.loads(sys.argv[1]), ctypes.CDLL(None)
def write(text): libc.write(2, text.encode(), len(text.encode()))  # as h2corn does, without our log
with logs.screened(h2corn_server._takes):
    for line in lines:
        write(line + "\\n")
    write("without an end")
logs.release()
write("direct\\n")
"""


def screened(lines: list[str], program: str = SCREENED) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("h2corn")
    command = [sys.executable, "-c", program, json.dumps(lines)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def h2corn_line(**facts: object) -> str:
    return json.dumps({"level": "error", "event": "failed", "pid": 7, "subject": "request", **facts})


def test_only_the_banner_and_lines_about_a_client_that_left_are_left_out() -> None:
    """Two details become debug lines, as JSON and as text. Every other line is written unchanged and in order."""
    left = ["stream channel was closed", "connection writer was closed"]
    kept = [
        h2corn_line(detail="the application returned without a response"),
        h2corn_line(detail=f"Traceback: {left[0]}"), h2corn_line(detail=left),
        h2corn_line(detail=left[0], subject="connection"), h2corn_line(detail=left[1], event="connection_panicked"),
        f"connection failed: {left[0]}", f"request failed: {left[0]} twice", f"{{ {left[0]}", f'["{left[1]}"]',
        left[0], "free(): invalid pointer",
    ]  # fmt: skip
    shown = [h2corn_line(detail=detail) for detail in left] + [f"request failed: {detail}" for detail in left]
    banner = ["h2corn v2.0.0 - HTTP/2 ASGI", "Listening on http://127.0.0.1:1", ""]
    banner += [
        h2corn_line(level="info", event="listening"),
        "HTTP/1 compatibility is enabled; disable with http1=False",
    ]
    done = screened([*banner, *shown[:2], *kept, *shown[2:]])
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    own = [json.loads(line) for line in lines if '"component"' in line]
    assert [(line["level"], line["reason"]) for line in own] == [("debug", detail) for detail in left * 2]
    assert [line for line in lines if '"component"' not in line] == [*kept, "without an end", "direct"]


@full("combination")
def test_a_crash_has_last_words_while_lines_are_screened() -> None:
    done = screened([], SCREENED.replace("    for line in lines:", "    os.abort()\n    for line in lines:"))
    assert done.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in done.stderr


def test_a_deadline_is_the_streams(own: Server) -> None:
    for seconds in (0.5, 10, 40):  # until the first response comes before the deadline
        sent = waiting(request(rows(1)))
        seen: list[pb.ModelStreamInferResponse] = []
        with refused(Code.DEADLINE_EXCEEDED):
            seen.extend(map(read, opened(own, iter(sent.get, None), timeout=seconds)))
        sent.put(None)
        if seen:
            break
    (only,) = seen
    assert only.infer_response.outputs
    until(lambda: inflight(own) == 0)


def test_the_line_of_a_stream_tells_how_many_requests_it_had(own: Server) -> None:
    sent = [request(rows(1)), request(rows(1), "nope"), request(rows(2))]
    list(opened(own, sent, metadata=(("x-request-id", "three"),)))
    (line,) = own.logged("request_completed", request_id="three")
    assert line["method"].endswith("ModelStreamInfer")
    assert (line["code"], line["requests"], line["rejected"]) == ("OK", 3, 1)


@pytest.mark.parametrize("transport", SHARED)
def test_messages_and_responses_count_among_the_bytes_of_all_calls(tmp_path: Path, transport: str) -> None:
    write_wide(tmp_path)
    settings = {"max_inflight_bytes": 2**21, "max_stream_requests": 64, **way(transport)[1]}
    with serving(tmp_path, plain_onnx=True, **settings) as server:
        responses = opened(server, [wide() for _ in range(200)])
        next(responses)
        settled(server, 'nv_inference_request_success{model="wide",version="1"}')
        said = [read(data).error_message for data in responses]
        assert set(said) == {"", "the messages of all calls take more than 2097152 bytes, the server's limit"}
        assert shown(server, 'kanserve_stream_requests_total{grpc_code="OK"}') == 1 + said.count("")
        refusals = len(said) - said.count("")
        assert shown(server, 'kanserve_stream_requests_total{grpc_code="RESOURCE_EXHAUSTED"}') == refusals
        assert shown(server, f'kanserve_requests_limited_total{{method="{STREAM.strip("/")}"}}') == refusals
        assert len(list(opened(server, [wide()]))) == 1


@pytest.mark.parametrize("transport", SHARED)
def test_a_server_that_leaves_serves_what_it_has_read(tmp_path: Path, transport: str) -> None:
    toy_model.write_slow(tmp_path, steps=4)
    with serving(tmp_path, plain_onnx=True, drain_grace_seconds=60, **way(transport)[1]) as server:
        sent = [waiting(slow(id="a")) for _ in range(3)]
        responses, idle = (opened(server, iter(messages.get, None)) for messages in sent[:2])
        assert read(next(idle)).infer_response.id == "a"
        assert read(next(responses)).infer_response.id == "a"
        third = opened(server, iter(sent[2].get, None))
        labels = '{model="slow",version="1"}'
        until(  # the server has read the message of the third
            lambda: (
                shown(server, f"nv_inference_pending_request_count{labels}")
                + shown(server, f"nv_inference_request_success{labels}")
                == 3
            )
        )
        server.process.send_signal(signal.SIGTERM)
        assert read(next(third)).infer_response.id == "a"
        for stream in (responses, idle, third):
            with refused(Code.UNAVAILABLE) as caught:
                next(stream)
            assert caught.value.details().startswith("GRPC server is shutting down")
        for messages in sent:
            messages.put(None)
        assert server.process.wait(60) == 0
