"""HTTP API next to gRPC: every route, with Triton's clients, curl and raw requests, on each transport."""

import gzip
import json

import numpy as np

from kanserve.auth.permissions import NEEDS
from tests.kanserve.conftest import WAYS
from tests.support.credentials import asked
from tests.support.http_client import ROWS, ask, infer, served, tensor
from tests.support.server_process import Server
from tests.support.wait import until

web = served(WAYS, "repository")


def test_numbers_that_json_lacks_are_words(web: Server) -> None:
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2,3],"data":[NaN,0,0,Infinity,-Infinity,0]}]}'
    y = np.array(infer(web, body).json["outputs"][0]["data"], np.float32).reshape(2, 2)
    rows = np.array([[np.nan, 0, 0], [np.inf, -np.inf, 0]], np.float32)
    for spaced in (body.replace(b",", b", "), body.replace(b"[NaN", b"[\n NaN"), b'{"a,NaN,b": "x NaN", ' + body[1:]):
        assert infer(web, spaced).body == infer(web, body).body
    np.testing.assert_array_equal(y, web.infer(rows))


def test_nested_and_empty_lists(web: Server) -> None:
    nested = infer(web, {"inputs": [{**tensor(), "data": ROWS.tolist()}]})
    assert nested.json == infer(web, {"inputs": [tensor()]}).json
    empty = infer(web, {"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 3]}]})
    assert empty.json["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [0, 2], "data": []}]


def test_bytes_behind_the_json(web: Server) -> None:
    """By hand, since Triton's client never mixes the two."""
    head = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [4, 3], "parameters": {"binary_data_size": ROWS.nbytes}}],
        "parameters": {"binary_data_output": True, "timeout": 10**7, "priority": 1, "own": "word"},
    }
    text = json.dumps(head).encode()
    reply = infer(web, text + ROWS.tobytes(), inference_header_content_length=str(len(text)))
    length = int(reply.headers["inference-header-content-length"])
    output = json.loads(reply.body[:length])["outputs"][0]
    assert output["parameters"]["binary_data_size"] == len(reply.body) - length
    assert reply.body[length:] == web.infer(ROWS).tobytes()


def test_probes(web: Server) -> None:
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/toy/ready"):
        assert ask(web, path).status == 200
        assert ask(web, path, method="HEAD").status == 200
        assert not ask(web, path, method="HEAD").body


def test_metrics_on_the_shared_port(web: Server) -> None:
    infer(web, {"inputs": [tensor()]})
    series = 'http_requests_total{handler="/v2/models/{name}/infer",method="POST",status="200"} '
    until(lambda: series in ask(web, "/metrics").body.decode())  # the server counts a request after its response
    reply = ask(web, "/metrics", accept_encoding="gzip")
    assert reply.headers["content-encoding"] == "gzip"
    assert series in gzip.decompress(reply.body).decode()


def test_no_route_responds_to_a_page_of_another_site(web: Server) -> None:
    routes = [name.partition(" ") for name in NEEDS if " " in name]
    sites = {
        "cross-site-request": {"origin": "http://evil.example", "content-type": "text/plain"},
        "host-not-allowed": {"host": "evil.example:8001", "accept-language": "en"},
    }
    wrong = []
    for code, headers in sites.items():
        for verb, _, route in routes:
            status, served, body = asked(web.http, verb, route, headers)
            if (status, json.loads(body)["code"], served["x-content-type-options"]) != (403, code, "nosniff"):
                wrong.append((code, verb, route, status, body))
    assert len(routes) > 40
    assert wrong == []
