"""Failed requests have a request id, which the log also has. No log line contains tensor values."""

import contextlib
import gzip
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.support import bad_requests, toy_model
from tests.support.http_client import Peer, Reply, ask, infer, served, tensor
from tests.support.reload_tools import handled, shown
from tests.support.server_process import INFERENCE, KAN, SHARED, Server, request, serving
from tests.support.wait import until

INFER = f"{INFERENCE}ModelInfer"
ROWS = np.zeros((1, 3), np.float32)
GOOD = request(ROWS).SerializeToString()
FRAME = struct.pack(">BI", 0, len(GOOD)) + GOOD
ID = "x-request-id"
MARKER, WORD, INDEX = 271.828125, "MARKERWORD", 314159265
TRACES = ("271.82", "2718281", WORD.encode().hex(), WORD, str(INDEX), np.float32(MARKER).tobytes().hex())


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, and plain graphs that fail for some values: a lookup, and words that are to be numbers."""
    folder = tmp_path_factory.mktemp("repository")
    toy_model.write(folder)
    table, lookup = np.arange(3, dtype=np.float32), helper.make_node("Gather", ["table", "x"], ["y"])
    toy_model.write_plain(folder, "lookup", lookup, kind=TensorProto.INT64, table=table)
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    toy_model.write_plain(folder, "numbers", cast, kind=TensorProto.STRING)
    return folder


LIMITS = {"max_request_bytes": 65536, "max_response_bytes": 2048, "max_typed_contents_bytes": 4096}
REPORTED = {"access_log": "all", "log_level": "debug", "plain_onnx": True}  # the log has a line for everything
busy = served(SHARED, "repository", request_read_timeout=60.0, **LIMITS, **REPORTED)
# gRPC core rejects incomplete requests itself, and sends only its status.
hasty = served(["asgi"], "repository", request_read_timeout=0.5, **LIMITS, **REPORTED)


def message(change: Callable[[pb.ModelInferRequest], object], rows: np.ndarray = ROWS, **fields: Any) -> bytes:
    created = request(rows, **fields)
    change(created)
    return created.SerializeToString()


def layers(**fields: Any) -> bytes:
    return kan_pb2.QueryEdgesRequest(model_name="toy", rows=bytes(12), row_count=1, **fields).SerializeToString()


CALLS: dict[str, tuple[str, bytes, str]] = {
    "no such model": (INFER, request(ROWS, model="nobody").SerializeToString(), "model-unknown"),
    "a wrong shape": (INFER, request(np.zeros((1, 7), np.float32)).SerializeToString(), "input-shape-wrong"),
    "no message": (INFER, b"\xff\xff\xff", "message-malformed"),
    "no such method": (f"{INFERENCE}Nothing", b"", "method-unknown"),
    "no shared memory": (f"{INFERENCE}SystemSharedMemoryStatus", b"", "method-not-supported"),
    "no such service": ("/grpc.health.v1.Health/Check", b"\n\x06nobody", "service-unknown"),
    "a layer twice": (f"{KAN}StreamEdges", layers(layers=[0, 0]), "selection-duplicate"),
    "no such layer": (f"{KAN}QueryEdges", layers(layer_names=["none"]), "layer-unknown"),
}
SUPPLIED = ("", "mine", "two words", "x" * 129)  # by the caller; the server takes only a proper one


def is_told(server: Server, reported: str, mine: str) -> None:
    """The id is the caller's if that is a proper one, and the log has it."""
    assert reported == mine if mine.startswith("mine") else re.fullmatch(r"[0-9a-f]{16}", reported)
    until(lambda: any(line.get("request_id") == reported for line in server.lines()))


@pytest.mark.parametrize("name", CALLS)
def test_every_refusal_of_a_call_tells_its_id_and_its_code(busy: Server, name: str) -> None:
    path, data, code = CALLS[name]
    call = busy.channel.unary_stream(path)
    for supplied in SUPPLIED:
        mine = f"{supplied}/{name.replace(' ', '-')}" if supplied == "mine" else supplied
        with pytest.raises(grpc.RpcError) as caught:
            list(call(data, timeout=60, metadata=((ID, mine),) if mine else ()))
        assert (bad_requests.code(caught.value), bool(bad_requests.hint(caught.value))) == (code, True)
        is_told(busy, dict(caught.value.trailing_metadata())[ID], mine)


def whole(peer: Peer, stream: int, data: bytes = b"", *, end: bool = True) -> dict[str, str]:
    if data:
        peer.send(stream, data, end=end)
    return peer.headers(stream)


# What a peer does, to which it adds headers.
ATTEMPTS: dict[str, Callable[..., dict[str, str]]] = {
    "too large": lambda peer, *more: whole(peer, peer.open(*more), struct.pack(">BI", 0, 10**6), end=False),
    "half": lambda peer, *more: whole(peer, peer.open(*more), FRAME[:-1]),
    "unknown packing": lambda peer, *more: whole(peer, peer.open(("grpc-encoding", "snappy"), *more), FRAME),
    "no timeout": lambda peer, *more: whole(peer, peer.open(("grpc-timeout", "soon"), *more, end=True)),
    "too slow": lambda peer, *more: whole(peer, peer.open(*more)),
    "too late": lambda peer, *more: whole(peer, peer.open(("grpc-timeout", "100m"), *more)),
}
# The status of each, and its words where it has its own.
ENDS = {
    "too large": ("RESOURCE_EXHAUSTED", ""),
    "half": ("INTERNAL", "the call ends inside a message"),
    "unknown packing": ("UNIMPLEMENTED", ""),
    "no timeout": ("INTERNAL", ""),
    "too slow": ("DEADLINE_EXCEEDED", "the request did not arrive completely within 0.5 s"),
    "too late": ("DEADLINE_EXCEEDED", ""),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_what_ends_in_the_transport_has_a_status_and_an_id(hasty: Server, name: str) -> None:
    status, words = ENDS[name]
    before = handled(hasty, status, "ModelInfer")
    for mine in ("", f"mine-{name.replace(' ', '-')}"):
        peer = Peer(hasty.port)
        with peer.socket:
            result = ATTEMPTS[name](peer, *([(ID, mine)] if mine else ()))
        assert result["grpc-status"] == str(grpc.StatusCode[status].value[0])
        assert words in result["grpc-message"]
        assert name != "unknown packing" or "gzip" in result["grpc-accept-encoding"]
        is_told(hasty, result[ID], mine)
    until(lambda: handled(hasty, status, "ModelInfer") == before + 2)


def lookup(index: int, **fields: str) -> bytes:
    built = pb.ModelInferRequest(model_name="lookup", **fields)
    built.inputs.add(name="x", datatype="INT64", shape=[1, 1])
    built.raw_input_contents.append(np.array([[index]], "<i8").tobytes())
    return built.SerializeToString()


def test_what_the_runtime_says_stays_in_the_log(busy: Server) -> None:
    """A plain graph that fails for some values: not foreseeable, so INTERNAL, with only an id."""
    words = "internal error; the server's log explains it under request id find-me"
    with bad_requests.refused(grpc.StatusCode.INTERNAL, words):
        busy.call(INFER, lookup(99, id="find-me"))
    busy.call(INFER, lookup(2))
    failed = 'nv_inference_request_failure{model="lookup",version="1",reason="BACKEND"}'
    until(lambda: shown(busy, failed) == 1)
    (line,) = busy.logged("request_completed", code="INTERNAL", request_id="find-me")
    assert "BackendError" in line["exception"]


REQUESTS: dict[str, tuple[int, Callable[..., Reply]]] = {
    "no such path": (404, lambda server, **h: ask(server, "/nowhere", **h)),
    "another verb": (405, lambda server, **h: ask(server, "/v2/models/toy/infer", method="GET", **h)),
    "a method of gRPC": (415, lambda server, **h: ask(server, INFER, b"", **h)),
    "no such model": (404, lambda server, **h: infer(server, {"inputs": [tensor()]}, "nobody", **h)),
    "not ready": (400, lambda server, **h: ask(server, "/v2/models/nobody/ready", **h)),
    "no JSON": (400, lambda server, **h: infer(server, b"{", **h)),
    "no shared memory": (501, lambda server, **h: ask(server, "/v2/systemsharedmemory/status", **h)),
    "too large": (413, lambda server, **h: infer(server, b" " * 10**5, **h)),
    "unknown packing": (501, lambda server, **h: infer(server, b"{}", content_encoding="br", **h)),
    "broken packing": (400, lambda server, **h: infer(server, b"{}", content_encoding="gzip", **h)),
    "a bomb": (413, lambda server, **h: infer(server, gzip.compress(bytes(10**6)), content_encoding="gzip", **h)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_refusal_over_http_tells_its_id(busy: Server, name: str) -> None:
    status, attempt = REQUESTS[name]
    for supplied in SUPPLIED[:3]:
        mine = f"{supplied}-{status}-{name.replace(' ', '-')}" if supplied == "mine" else supplied
        reply = attempt(busy, **({"x_request_id": mine} if mine else {}))
        assert (reply.status, reply.json["request_id"]) == (status, reply.headers[ID])
        if "ready" not in name:  # a response, and no failure
            is_told(busy, reply.headers[ID], mine)


@pytest.mark.parametrize("transport", SHARED)
def test_no_line_has_what_is_in_a_tensor(repository: Path, transport: str) -> None:
    """A marker in every place that a tensor can be in, and everything that can go wrong with it."""
    rows = np.full((2, 3), MARKER, np.float32)
    wide = np.full((2, 7), MARKER, np.float32)
    limits = {"max_request_bytes": 65536, "max_response_bytes": 65536, "max_typed_contents_bytes": 4096, "http_port": 0}
    with serving(
        repository, transport=transport, plain_onnx=True, access_log="all", log_level="debug", **limits
    ) as server:
        for path, data in marked(rows, wide):
            with contextlib.suppress(grpc.RpcError):
                server.call(path, data)
        for body in marked_json(rows, wide):
            infer(server, body)
        infer(server, {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [INDEX]}]}, "lookup")
        infer(server, {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 1], "data": [WORD]}]}, "numbers")
        until(lambda: sum(line.get("code") == "INTERNAL" for line in server.lines()) >= 4)
        assert server.stop() == 0
        text = server.log.read_text()
    codes = set(re.findall(r'"code": "(\w+)"', text))
    assert {"OK", "INVALID_ARGUMENT", "INTERNAL", "RESOURCE_EXHAUSTED"} <= codes
    assert [trace for trace in TRACES if trace in text] == []
    assert rows.tobytes()[:4].decode("latin-1") not in text
    assert "Gather" in text  # what failed is told


def marked(rows: np.ndarray, wide: np.ndarray) -> Iterator[tuple[str, bytes]]:
    yield INFER, request(rows).SerializeToString()
    yield INFER, request(wide).SerializeToString()
    yield INFER, request(np.full((9000, 3), MARKER, np.float32)).SerializeToString()
    yield INFER, request(rows).SerializeToString()[:-3]
    yield INFER, message(lambda built: built.raw_input_contents.append(rows.tobytes()), rows)
    yield INFER, message(lambda built: built.inputs[0].ClearField("shape"), rows)
    typed = pb.ModelInferRequest(model_name="toy")
    typed.inputs.add(name="x", datatype="FP32", shape=[2, 3]).contents.fp32_contents.extend([MARKER] * 5)
    yield INFER, typed.SerializeToString()
    typed.inputs[0].contents.fp32_contents.extend([MARKER] * 5000)
    yield INFER, typed.SerializeToString()
    yield INFER, lookup(INDEX)
    words = pb.ModelInferRequest(model_name="numbers")
    words.inputs.add(name="x", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(WORD.encode())
    yield INFER, words.SerializeToString()
    words.inputs[0].contents.bytes_contents[0] = b"\xff" + WORD.encode()
    yield INFER, words.SerializeToString()
    query = kan_pb2.QueryEdgesRequest(model_name="toy", rows=wide.tobytes(), row_count=2)
    yield f"{KAN}QueryEdges", query.SerializeToString()


def marked_json(rows: np.ndarray, wide: np.ndarray) -> Iterator[Any]:
    yield {"inputs": [tensor(rows)]}
    yield {"inputs": [tensor(wide)]}
    yield {"inputs": [{**tensor(rows), "data": [MARKER, WORD, MARKER]}]}
    yield {"inputs": [{**tensor(rows), "data": [[MARKER], MARKER]}]}
    yield b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [271.828125, 271.828125e400, 1]}]}'
    yield b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [271.828125, MARKERWORD'
    yield b'{"inputs": [{"name": "x", "datatype": "INT8", "shape": [1, 3], "data": [2718281, 2718281, 2718281]}]}'
