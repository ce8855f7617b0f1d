"""HTTP requests as calls: limits, draining, cancellation and TLS, on each transport."""

import json
import signal
import ssl
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kanserve.server.app import EXIT_TERMINATED
from tests.kanserve.conftest import WAYS
from tests.support import credentials, toy_model
from tests.support.http_client import ROWS, Peer, Reply, ask, infer, tensor, way
from tests.support.server_process import Server, serving
from tests.support.wait import until

SLOW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0.0]}]}
ROW = {"inputs": [tensor(ROWS[:1])]}
HOLD = "dynamic_batching { preferred_batch_size: 3 max_queue_delay_microseconds: 600000000 }"


@pytest.fixture(params=WAYS)
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Call with settings: a server over the toy, a model that takes its time, and two, `held` and `other`, that wait
    until they have three rows."""
    toy_model.write(tmp_path)
    toy_model.write_slow(tmp_path, steps=6)
    for name in ("held", "other"):
        toy_model.write(tmp_path, name)
        (tmp_path / name / "config.pbtxt").write_text(HOLD)
    transport, chosen = way(request.param)
    return lambda **settings: serving(tmp_path, transport, plain_onnx=True, threads=1, **chosen, **settings)


def slow(server: Server, pool: ThreadPoolExecutor) -> Future[Reply]:
    return pool.submit(infer, server, SLOW, "slow", timeout=600)


def pending(server: Server, count: int, model: str = "held") -> Callable[[], bool]:
    return lambda: f'nv_inference_pending_request_count{{model="{model}",version="1"}} {count}\n' in server.metrics()


def held(server: Server, pool: ThreadPoolExecutor, model: str = "held") -> Future[Reply]:
    """A call that waits for two others."""
    call = pool.submit(infer, server, ROW, model, timeout=600)
    until(pending(server, 1, model))
    return call


def test_draining(web: Callable[..., Any]) -> None:
    with web(drain_delay_seconds=600) as server:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: ask(server, "/readyz").status == 503)
        statuses = {path: ask(server, path).status for path in ("/healthz", "/v2/health/live", "/v2/health/ready")}
        assert statuses == {"/healthz": 200, "/v2/health/live": 200, "/v2/health/ready": 400}
        assert infer(server, {"inputs": [tensor()]}).status == 200


def test_after_the_delay_calls_are_refused_until_the_port_closes(web: Callable[..., Any]) -> None:
    with web(drain_delay_seconds=0.1, drain_reject_seconds=60) as server, ThreadPoolExecutor() as pool:
        flying = slow(server, pool)
        until(lambda: flying.done() or pending(server, 1, "slow")())
        server.process.send_signal(signal.SIGTERM)
        until(lambda: infer(server, {"inputs": [tensor()]}).status == 503)
        refused = infer(server, {"inputs": [tensor()]})
        assert "shutting down" in refused.json["error"]
        assert refused.headers["retry-after"] == "1"
        assert ask(server, "/healthz").status == 503
        assert flying.result().status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == EXIT_TERMINATED


def test_more_calls_at_once_than_allowed_and_a_full_queue(web: Callable[..., Any]) -> None:
    with ThreadPoolExecutor() as pool, web(max_inflight_requests=2, max_pending_requests=1) as server:
        held(server, pool)
        refused = infer(server, ROW, "held")
        assert (refused.status, refused.json["error"]) == (503, "Exceeds maximum queue size")
        assert refused.headers["retry-after"] == "1"
        held(server, pool, "other")
        refused = infer(server, ROW)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "the server handles 2 calls at the same time" in refused.json["error"]
        assert ask(server, "/readyz").status == 200


def test_a_request_that_waited_too_long_or_whose_caller_goes_away_is_not_run(web: Callable[..., Any]) -> None:
    with web() as server, ThreadPoolExecutor() as pool:
        late = infer(server, {**ROW, "parameters": {"timeout": 1000}}, "held")
        assert (late.status, late.json["error"]) == (503, "Request timeout expired")
        # By HTTP/2: h2corn does not look at an HTTP/1 connection before it has served.
        leaver = Peer(int(server.http.rpartition(":")[2]))
        stream = leaver.open(path="/v2/models/held/infer", kind="application/json")
        leaver.send(stream, json.dumps(ROW).encode())
        until(pending(server, 1))
        leaver.socket.close()
        labels = 'model="held",version="1"'
        until(lambda: f'nv_inference_request_failure{{{labels},reason="CANCELED"}} 1\n' in server.metrics())
        first = held(server, pool)
        calls = [first, *(pool.submit(infer, server, ROW, "held") for _ in range(2))]
        assert [call.result().status for call in calls] == [200] * 3
        until(lambda: f"nv_inference_exec_count{{{labels}}} 1\n" in server.metrics())
        until(lambda: f"nv_inference_count{{{labels}}} 3\n" in server.metrics())
        left = 'http_requests_total{handler="/v2/models/{name}/infer",method="POST",status="499"} 1.0'
        until(lambda: left in server.metrics())


def test_tls(tmp_path: Path) -> None:
    files = credentials.write_certificates(tmp_path)
    models = tmp_path / "models"
    toy_model.write(models)
    _, chosen = way("grpcio")
    pair = {"tls_cert": str(files / "server.pem"), "tls_key": str(files / "server.key")}
    with serving(models, tls_client_ca=str(files / "ca.pem"), **pair, **chosen) as server:
        context = ssl.create_default_context(cafile=str(files / "ca.pem"))
        context.load_cert_chain(files / "caller.pem", files / "caller.key")
        ask_of = (server.http, "GET", "/v2/models/toy", {})
        assert json.loads(credentials.asked(*ask_of, context)[2])["name"] == "toy"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            credentials.asked(*ask_of, ssl.create_default_context(cafile=str(files / "ca.pem")))


def test_a_call_in_flight_is_served_before_the_server_ends(web: Callable[..., Any]) -> None:
    settings = {"drain_delay_seconds": 0, "drain_reject_seconds": 0, "drain_grace_seconds": 60}
    with web(**settings) as server, ThreadPoolExecutor() as pool:
        flying = slow(server, pool)
        until(lambda: flying.done() or pending(server, 1, "slow")())
        assert server.stop(seconds=60) == 0
        assert flying.result().status == 200
