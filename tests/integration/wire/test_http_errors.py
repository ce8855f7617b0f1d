"""Invalid HTTP requests: status and JSON message of each, and a server that keeps serving."""

import contextlib
import gzip
import http.client
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from kanserve.pb import grpc_service_pb2 as pb
from tests.support import bad_requests
from tests.support.bad_requests import Wrong
from tests.support.http_client import Peer, Reply, ask, infer, served, tensor
from tests.support.server_process import INFERENCE, SHARED, Server
from tests.support.wait import until

LIMIT = 2**20  # bytes of a request
TYPED = 2**18
HEADER = "inference_header_content_length"
GET, POST = "GET", "POST"
INFER_PATH = "/v2/models/toy/infer"


# hypercorn is asked in test_web.py: how a server of HTTP ends a request that it does not read is its own.
BOUNDS = {"max_request_bytes": LIMIT, "max_typed_contents_bytes": TYPED, "request_read_timeout": 60.0}
web = served(SHARED, "repository", **BOUNDS)
hasty = served(SHARED, "repository", request_read_timeout=0.5)


@pytest.fixture(autouse=True)
def _still_serving(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"web", "hasty"} & {*request.fixturenames}:
        assert infer(request.getfixturevalue(name), {"inputs": [tensor()]}).status == 200


def error(reply: Reply) -> str:
    assert reply.headers["content-type"] == "application/json"
    words, hint = reply.json["error"], reply.json.get("help", "")
    request_id = reply.headers["x-request-id"]
    expected = {"error": words, "code": reply.json["code"], "request_id": request_id}
    assert reply.json == {**expected, "help": hint} if hint else expected
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", reply.json["code"])
    assert words
    for word in ("Traceback", "Error", "/work", "/tmp", "site-packages", "kanserve/"):
        assert word not in f"{words} {hint}"
    return str(words)


def parameters(holder: Any) -> dict[str, Any]:
    return {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in holder.parameters.items()}


def said(message: pb.ModelInferRequest, *, binary: bool) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of the same request over HTTP."""
    inputs = []
    for one, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        data = {"parameters": {"binary_data_size": len(raw), **parameters(one)}}
        if not binary:
            data = {"data": np.frombuffer(raw, np.float32).tolist(), "parameters": parameters(one)}
        inputs.append({"name": one.name, "datatype": one.datatype, "shape": list(one.shape), **data})
    outputs = [{"name": one.name, "parameters": parameters(one)} for one in message.outputs]
    body = {"id": message.id, "inputs": inputs, "outputs": outputs, "parameters": parameters(message)}
    text = json.dumps(body).encode()
    version = f"/versions/{quote(message.model_version)}" if message.model_version else ""
    path = f"/v2/models/{quote(message.model_name, safe='')}{version}/infer"
    if not binary:
        return path, text, {}
    return path, text + b"".join(message.raw_input_contents), {HEADER: str(len(text))}


LONG = 8000  # of a path; servers of HTTP refuse longer ones themselves
INFER = [case for case in bad_requests.INFER if case.over_http and len(case.message.model_name) < LONG]
# As a number in JSON only what is one of the type that is named.
JSON = [case for case in INFER if {one.datatype for one in case.message.inputs} <= {"FP32"}]


@pytest.mark.parametrize(
    ("case", "binary"), [*((c, True) for c in INFER), *((c, False) for c in JSON)], ids=lambda v: getattr(v, "name", v)
)
def test_the_table_that_grpc_has_too(web: Server, case: Wrong, binary: bool) -> None:
    path, body, headers = said(case.message, binary=binary)
    reply = ask(web, path, body, **headers)
    assert reply.status == case.status
    words = error(reply)
    if "/" not in case.message.model_name:  # such a path is no route
        assert case.said(words), words


def test_a_path_without_end(web: Server) -> None:
    assert ask(web, f"/v2/models/{'n' * 100_000}").status in (400, 404, 414, 431)


def one_input(**changes: Any) -> dict[str, Any]:
    supplied = {**tensor(), **changes}
    return {"inputs": [{key: value for key, value in supplied.items() if value is not None}]}


def data(*values: Any, datatype: str = "FP32") -> dict[str, Any]:
    return one_input(data=list(values), shape=[1, len(values)], datatype=datatype)


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return {**one_input(), "parameters": parameters}


def binary(size: int, **changes: Any) -> dict[str, Any]:
    """An input that announces so many bytes after the JSON."""
    return one_input(parameters={"binary_data_size": size}, **changes)


GOOD = json.dumps(one_input()).encode()
WANTED = {"name": "y", "parameters": {"binary_data": 1}}
MALFORMED = "failed to parse the request JSON buffer"
BODIES: list[tuple[str, Any, int, str]] = [
    ("nothing", b"", 400, MALFORMED),
    ("no JSON", b"\x00\xff\xfe", 400, MALFORMED),
    ("cut", b'{"inputs": [', 400, MALFORMED),
    ("a list", b"[]", 400, "Unable to parse the request: expected an object, got a list"),
    ("null", b"null", 400, "expected an object, got null"),
    ("no inputs", {}, 400, "Unable to parse 'inputs'"),
    ("inputs no list", {"inputs": {}}, 400, "Unable to parse 'inputs' of the request: expected a list, got an object"),
    ("input no object", {"inputs": [1]}, 400, "inputs[0]: expected an object, got an integer"),
    ("many inputs", {"inputs": [tensor()] * 65}, 400, "inputs has 65 entries, expected at most 64"),
    ("no name", one_input(name=None), 400, "Unable to parse 'name'"),
    ("name a number", one_input(name=1), 400, "Unable to parse 'name' of an input: expected a string, got an integer"),
    ("no datatype", one_input(datatype=None), 400, "Unable to parse 'datatype'"),
    ("datatype none", one_input(datatype="FOO"), 400, "invalid datatype for input x: 'FOO', expected one of BOOL"),
    ("half precision", one_input(datatype="FP16"), 400, "receiving FP16 data via JSON is not supported"),
    ("no shape", one_input(shape=None), 400, "Unable to parse 'shape'"),
    ("shape a word", one_input(shape="4,3"), 400, "Unable to parse 'shape'"),
    ("shape of words", one_input(shape=["4", 3]), 400, "expected an integer, got a string"),
    ("shape true", one_input(shape=[True, 3]), 400, "expected an integer, got a boolean"),
    ("shape huge", one_input(shape=[2**64, 3]), 400, "'shape' of input 'x'"),
    ("no data", one_input(data=None), 400, "Unable to parse 'data'"),
    ("data a number", one_input(data=1.5), 400, "'data' of input 'x': expected a list, got a number"),
    ("data words", data("1", "2", "3"), 400, "FP32 takes numbers, got a string"),
    ("data null", data(1, None, 3), 400, "FP32 takes numbers, got null"),
    ("data true", data(1, True, 3), 400, "FP32 takes numbers, got a boolean"),
    ("data objects", data({}, {}, {}), 400, "FP32 takes numbers, got an object"),
    ("data fractions", data(1, 2.5, 3, datatype="INT32"), 400, "INT32 takes integers, got a number"),
    ("data too large", data(1, 2**31, 3, datatype="INT32"), 400, "has a value that does not fit INT32"),
    ("data below zero", data(1, -1, 3, datatype="UINT8"), 400, "has a value that does not fit UINT8"),
    ("data far too large", data(1, 2**200, 3, datatype="INT64"), 400, "INT64"),
    ("data both ends", data(2**63, -1, 3, datatype="INT64"), 400, "has a value that does not fit INT64"),
    ("float too large", data(1, 1e39, 3), 400, "has a value that does not fit FP32"),
    ("integer too large", data(1, 10**39, 3), 400, "has a value that does not fit FP32"),
    ("exponent", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1e999]}]}', 400, "infinity"),
    ("digits", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[' + b"9" * 5000 + b"]}]}", 400, ""),
    ("ragged", data([1, 2], 3), 400, "one list has both lists and values"),
    ("deep", b'{"inputs":' + b"[" * 30 + b"]" * 30 + b"}", 400, "inputs[0]: expected an object, got a list"),
    ("too deep", b'{"inputs":' + b"[" * 32 + b"]" * 32 + b"}", 400, "maximum allowed limit (32): 33"),
    ("many lists", b"[" * (2**17 + 1), 400, "lists, objects and colons, expected at most"),
    ("many values", one_input(data=[0] * (TYPED + 1)), 413, "values in JSON, expected at most"),
    ("many bytes", data(*[0] * (TYPED // 4 + 1)), 413, "the limit of numbers in JSON is"),
    ("key twice", b'{"inputs": [], "inputs": []}', 400, "the key 'inputs' is repeated in one object"),
    ("words as numbers", data("NaN", "Infinity", "nan"), 400, "FP32 takes numbers, got a string"),
    ("words as integers", data("NaN", 1, 2, datatype="INT32"), 400, "INT32 takes integers, got a string"),
    ("id a number", {**one_input(), "id": 5}, 400, "Unable to parse 'id' of the request: expected a string"),
    ("parameters", {**one_input(), "parameters": []}, 400, "'parameters' of the request: expected an object"),
    ("parameter", with_parameters(own={}), 400, "parameter 'own' has invalid type"),
    ("parameter huge", b'{"x": NaN, "inputs": [], "parameters": {"own": 1' + b"0" * 400 + b"}}", 400, "invalid type"),
    ("parameter of Triton", with_parameters(triton_x=1), 400, "parameter keys starting with"),
    ("priority", with_parameters(priority=-1), 400, "'priority'"),
    ("timeout", with_parameters(timeout="1"), 400, "'timeout'"),
    ("binary wanted", with_parameters(binary_data_output=1), 400, "'binary_data_output': expected a"),
    ("output no object", {**one_input(), "outputs": ["y"]}, 400, "outputs[0]: expected an object, got a string"),
    ("output binary", {**one_input(), "outputs": [WANTED]}, 400, "'binary_data'"),
    ("size without header", binary(48, data=None), 400, "expecting 48 additional"),
    ("size below zero", binary(-1, data=None), 400, "unexpected size for input 'x'"),
    ("size and data", binary(0), 400, "has both 'data' and 'binary_data_size'"),
]


@pytest.mark.parametrize(("body", "status", "words"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_bodies(web: Server, body: Any, status: int, words: str) -> None:
    reply = infer(web, body)
    assert reply.status == status
    assert words in error(reply)


@pytest.mark.parametrize(
    ("length", "more", "words"),
    [
        ("x", b"", "Unable to parse Inference-Header-Content-Length, got: x"),
        ("-1", b"", "Unable to parse Inference-Header-Content-Length, got: -1"),
        ("9" * 100, b"", "Unable to parse Inference-Header-Content-Length"),
        ("1000000", b"", "inference header size should be in range"),
        ("10", b"", MALFORMED),
        (str(len(GOOD)), b"xyz", "unexpected additional input data for model 'toy': 3 bytes"),
    ],
)
def test_lengths_of_the_json(web: Server, length: str, more: bytes, words: str) -> None:
    reply = infer(web, GOOD + more, **{HEADER: length})
    assert reply.status == 400
    assert words in error(reply)


MISSING = "Request for unknown model: 'nope' is not found"
STOL = "failed to get model version from specified version string 'x' (details: stol), version should be"
NAMED = "'repository_name' specification is not supported"
EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"
NOWHERE = [
    (GET, "/v2/models/nope", 404, MISSING),
    (GET, "/v2/models/nope/config", 404, MISSING),
    (GET, "/v2/models/toy/versions/x/config", 400, STOL),
    (GET, "/v2/models/toy/versions/x/ready", 400, STOL),
    (GET, "/v2/models/nope/stats", 400, "requested model 'nope' is not available"),
    (GET, "/v2/models/toy/versions/9/stats", 400, "requested model version is not available for model 'toy'"),
    (POST, "/v2/repository/r/index", 501, NAMED),
    (POST, "/v2/repository/models/toy/load", 503, EXPLICIT),
    (POST, "/v2/repository/toy/models/toy/load", 501, NAMED),
    (POST, "/v2/repository/models/toy/unload", 503, EXPLICIT),
    (POST, "/v2/repository/toy/models/toy/unload", 501, NAMED),
    (GET, "/v1", 404, "Not Found: /v1"),
    (GET, "/v2/", 404, "Not Found"),
    (GET, "/v2/models", 404, "Not Found"),
    (GET, "/v2/models//ready", 404, "Not Found"),
    (GET, "/v2/models/toy/versions", 404, "Not Found"),
    (GET, "/v1/models/toy:predict", 404, "unknown model: 'toy:predict'"),
    (GET, "/v2/../../etc/passwd", 404, "Not Found"),
    (GET, "/v2/models/toy/infer", 405, "takes POST"),
    ("DELETE", "/v2", 405, "Method Not Allowed"),
    (POST, "/v2/models/toy", 405, "Method Not Allowed"),
    (POST, "/healthz", 405, "Method Not Allowed"),
    ("PUT", "/v2/models/toy/infer", 405, "Method Not Allowed"),
    (POST, "/v2/systemsharedmemory/region/r/register", 501, "system shared memory is not supported by kanserve"),
    (GET, "/v2/cudasharedmemory/status", 501, "CUDA shared memory is not supported"),
    (GET, "/v2/trace/setting", 501, "not supported"),
    (POST, "/v2/logging", 501, "not supported"),
    (POST, "/v2/models/toy/generate", 501, "not supported"),
    (POST, f"{INFERENCE}ModelInfer", 415, "is a gRPC method, expected a path of the REST API"),
    (GET, "/grpc.health.v1.Health/Check", 415, "is a gRPC method"),
]


@pytest.mark.parametrize(("method", "path", "status", "words"), NOWHERE, ids=lambda value: str(value)[:40])
def test_where_nothing_is(web: Server, method: str, path: str, status: int, words: str) -> None:
    reply = ask(web, path, method=method)
    assert reply.status == status
    assert words in error(reply)
    assert (reply.status == 405) == ("allow" in reply.headers)


def test_the_index(web: Server) -> None:
    for ready in (b"[]", b"[1]", b'"x"', b'{"ready": 1}', b'{"ready": "true"}'):
        reply = ask(web, "/v2/repository/index", ready)
        assert (reply.status, error(reply)) == (400, "Invalid value for 'ready': expected a boolean, in an object")


@pytest.mark.parametrize(
    ("body", "encoding", "status", "words"),
    [
        (GOOD, "br", 501, "content-encoding 'br' is not supported, expected one of gzip, deflate"),
        (GOOD, "gzip, gzip", 501, "is not supported"),
        (GOOD, "gzip", 400, "the body is not a complete gzip stream"),
        (gzip.compress(GOOD)[:-4], "gzip", 400, "the body is not a complete gzip stream"),
        (gzip.compress(GOOD) + b"x", "gzip", 400, "the body is not a complete gzip stream"),
        (zlib.compress(GOOD), "gzip", 400, "the body is not a complete gzip stream"),
        (gzip.compress(bytes(100 * LIMIT)), "gzip", 413, "it has more when unpacked"),
        (zlib.compress(bytes(LIMIT + 1)), "deflate", 413, "it has more when unpacked"),
    ],
)
def test_packed_bodies(web: Server, body: bytes, encoding: str, status: int, words: str) -> None:
    reply = infer(web, body, content_encoding=encoding)
    assert reply.status == status
    assert words in error(reply)
    assert (status == 501) == (reply.headers.get("accept-encoding") == "gzip, deflate")


@contextlib.contextmanager
def begun(server: Server, name: str, value: str) -> Iterator[http.client.HTTPConnection]:
    """A connection of HTTP/1.1 that has sent the headers of a request, with this one."""
    with contextlib.closing(http.client.HTTPConnection(server.http, timeout=60)) as connection:
        connection.putrequest("POST", INFER_PATH)
        connection.putheader(name, value)
        connection.endheaders()
        yield connection


def refusal(connection: http.client.HTTPConnection) -> tuple[int, str]:
    """Status and words of the response, whose body has the id of its header."""
    with connection.getresponse() as response:
        document = json.loads(response.read())
        assert document["request_id"] == response.headers["x-request-id"]
        return response.status, document["error"]


def test_a_request_that_says_it_is_too_large_is_not_read(web: Server) -> None:
    with begun(web, "Content-Length", str(100 * LIMIT)) as connection:
        status, words = refusal(connection)
    assert (status, f"limit of {LIMIT} bytes" in words) == (413, True)


def test_a_request_that_does_not_say_is_cut_at_the_limit(web: Server) -> None:
    with begun(web, "Transfer-Encoding", "chunked") as connection:
        for _ in range(17):
            connection.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        status, words = refusal(connection)
    assert (status, "it has more" in words) == (413, True)


@pytest.mark.parametrize(("name", "value"), [("Content-Length", "100"), ("Transfer-Encoding", "chunked")])
def test_a_body_that_never_ends(hasty: Server, name: str, value: str) -> None:
    with begun(hasty, name, value) as connection:
        connection.send(b"5\r\n{    \r\n")
        assert refusal(connection) == (408, "the request did not arrive completely within 0.5 s")


def refusals(server: Server, status: int) -> float:
    lines = [line for line in server.metrics().splitlines() if line.startswith("http_requests_total")]
    return sum(float(line.split()[-1]) for line in lines if f'status="{status}"' in line)


def test_refusals_are_counted(web: Server) -> None:
    for path, body, status in (("/nowhere", None, 404), ("/v2/models/toy/infer", bytes(LIMIT + 1), 413)):
        before = refusals(web, status)
        assert ask(web, path, body).status == status
        until(lambda status=status, before=before: refusals(web, status) == before + 1)


def test_no_label_holds_what_a_client_chose(web: Server) -> None:
    for path in ("/chosen/by/me", "/v2/models/chosen_model", "/v2/logging"):
        ask(web, path, method="PATCH")
        ask(web, path)
    assert "chosen" not in "".join(line for line in web.metrics().splitlines() if line.startswith("http_"))


def test_callers_that_leave_are_forgotten(web: Server) -> None:
    for _ in range(50):
        with begun(web, "Content-Length", "1000") as connection:
            connection.send(b"{")
    inflight = "kanserve_inflight_requests 0.0"
    until(lambda: inflight in web.metrics())


@contextlib.contextmanager
def peer_of(server: Server) -> Iterator[Peer]:
    created = Peer(int(server.http.rpartition(":")[2]))
    with created.socket:
        yield created


def test_over_http_2_a_request_is_refused_and_the_connection_goes_on(web: Server) -> None:
    with peer_of(web) as peer:
        stream = peer.open(("content-length", str(100 * LIMIT)), path=INFER_PATH, kind="application/json")
        assert peer.headers(stream)[":status"] == "413"
        stream = peer.open(path=INFER_PATH, kind="application/json")
        peer.send(stream, GOOD)
        assert peer.headers(stream)[":status"] == "200"


def test_a_body_that_never_ends_over_http_2(hasty: Server) -> None:
    with peer_of(hasty) as peer:
        stream = peer.open(path=INFER_PATH, kind="application/json")
        peer.send(stream, b"{", end=False)
        assert peer.headers(stream)[":status"] == "408"


def test_a_content_type_of_the_other_protocol_is_served_in_words(web: Server) -> None:
    with peer_of(web) as peer:
        stream = peer.open(path=INFER_PATH)
        peer.send(stream, b"\0\0\0\0\0")
        result = peer.headers(stream)
        assert (result[":status"], result["grpc-status"]) == ("200", "12")
        assert result["grpc-message"] == "this server has no such method"
        for kind in ("application/json", "application/grpc-web", "text/plain"):
            assert peer.headers(peer.open(kind=kind, end=True))[":status"] == "415"
    reply = ask(web, f"{INFERENCE}ModelInfer", b"\0\0\0\0\0", content_type="application/grpc")
    assert reply.status == 426
    assert "gRPC needs HTTP/2" in error(reply)


def test_a_body_is_json_whatever_its_type_is_said_to_be(web: Server) -> None:
    """Triton's clients and curl say different ones, or none."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "x"):
        assert infer(web, GOOD, content_type=kind).status == 200
        assert infer(web, b"a=b", content_type=kind).status == 400
