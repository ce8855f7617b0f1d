"""Graceful shutdown: no request in flight is lost, a second signal stops at once. Under load: reliability row 21."""

import contextlib
import http.client
import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from kanserve.pb import grpc_service_pb2 as pb
from tests.support import forked_process, reload_tools, toy_model
from tests.support.bad_requests import refused
from tests.support.programs import Relay
from tests.support.server_process import INFERENCE, SHARED, Server, first_line, launched, request, serving
from tests.support.tiers import full
from tests.support.wait import until

HEALTH = "/grpc.health.v1.Health/"
SLOW = request(np.zeros((1, 1), np.float32), "slow").SerializeToString()
OF_SLOW = '{model="slow",version="1"}'
OWN = [("grpc.use_local_subchannel_pool", 1)]  # of a channel with its own connection
VERSIONS = 300
# The program, in an interpreter that reports its own exit.
SERVE = """
import atexit, sys
from kanserve.cli.main import main
atexit.register(print, "the interpreter exits", flush=True)
raise SystemExit(main(sys.argv[1:]))
"""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def begun(server: Server) -> Any:
    """A slow call, once it runs."""
    future = server.channel.unary_unary(f"{INFERENCE}ModelInfer").future(SLOW, timeout=60)
    until(lambda: f"nv_inference_pending_request_count{OF_SLOW} 1" in server.metrics())
    return future


def terminate(server: Server) -> None:
    """SIGTERM, which the server has seen."""
    server.process.send_signal(signal.SIGTERM)
    server.logged("shutdown_started")


def ends(server: Server) -> tuple[int, ...]:
    """The ends of the calls, as the last log line counts them."""
    (last,) = [line for line in server.lines() if line["event"] == "server_stopped"]
    return tuple(last[name] for name in ("completed", "rejected", "aborted", "cancelled"))


def health(server: Server, name: str) -> int:
    data = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    return health_pb2.HealthCheckResponse.FromString(server.call(f"{HEALTH}Check", data)).status


def watched(server: Server, name: str) -> Iterator[int]:
    """The states of a model, as health watches report them."""
    data = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    for item in server.channel.unary_stream(f"{HEALTH}Watch")(data, timeout=60):
        yield health_pb2.HealthCheckResponse.FromString(item).status


def test_a_call_in_flight_is_served(tmp_path: Path, transport: str, hold: Path) -> None:
    toy_model.write_slow(tmp_path, steps=1)
    with serving(tmp_path, transport=transport, plain_onnx=True, drain_grace_seconds=60) as server:
        states = watched(server, "slow")
        assert next(states) == SERVING
        future = begun(server)
        terminate(server)
        assert list(states) == [NOT_SERVING], "a watch ends without an error"
        hold.unlink()
        response = pb.ModelInferResponse.FromString(future.result())
        assert response.raw_output_contents[0] == bytes(4)
        assert server.process.wait(60) == 0


def test_not_ready_while_it_still_responds(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, drain_delay_seconds=200) as server:
        assert [health(server, name) for name in ("", "toy", "liveness")] == [SERVING] * 3
        states = watched(server, "toy")
        assert next(states) == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(states) == NOT_SERVING
        assert [health(server, name) for name in ("", "toy", "liveness")] == [NOT_SERVING, NOT_SERVING, SERVING]
        ready = pb.ServerReadyResponse.FromString(server.call(f"{INFERENCE}ServerReady", b""))
        assert not ready.ready
        rows = np.ones((1, 3), np.float32)
        np.testing.assert_allclose(server.infer(rows), toy_model.outputs(rows), rtol=1e-5)
        server.process.send_signal(signal.SIGTERM)  # ends the delay
        assert server.process.wait(60) == 143


@pytest.mark.parametrize("transport", SHARED, indirect=True)
def test_the_second_signal_cuts_calls_off_with_a_status(tmp_path: Path, transport: str, hold: Path) -> None:
    toy_model.write_slow(tmp_path, steps=1)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]}]})
    port = {} if transport == "asgi" else {"http_port": 0}
    patience = {"drain_delay_seconds": 200, "drain_grace_seconds": 200}
    with serving(tmp_path, transport=transport, plain_onnx=True, **patience, **port) as server:
        future = begun(server)
        with contextlib.closing(http.client.HTTPConnection(server.http, timeout=60)) as connection:
            connection.request("POST", "/v2/models/slow/infer", body)
            until(lambda: "kanserve_inflight_requests 2.0" in server.metrics())
            terminate(server)
            server.process.send_signal(signal.SIGTERM)
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["code"]) == (503, "server-shutting-down")
        hold.unlink()
        assert server.process.wait(60) == 143
        with refused(grpc.StatusCode.UNAVAILABLE) as caught:
            future.result()
        words = "is shutting down and has ended this call" if transport == "asgi" else "Cancelling all calls"
        assert words in caught.value.details()
        assert ends(server) == (0, 0, 2, 0)
        assert not [line for line in server.lines() if line.get("level") == "error"]


@pytest.mark.parametrize("transport", SHARED, indirect=True)
def test_the_last_line_tells_what_became_of_the_calls(tmp_path: Path, transport: str) -> None:
    """The server completes some calls while it drains; other calls arrive too late."""
    toy_model.write(tmp_path)
    rows = np.zeros((1, 3), np.float32)
    with serving(tmp_path, transport=transport, drain_delay_seconds=1, drain_reject_seconds=60) as server:
        server.infer(rows)
        terminate(server)
        served = refused = 0
        while not refused:
            try:
                server.infer(rows)
                served += 1
            except grpc.RpcError as error:
                refused += error.code() is grpc.StatusCode.UNAVAILABLE
        server.process.send_signal(signal.SIGTERM)  # ends the time for rejections
        assert server.process.wait(60) == 143
        assert ends(server) == (served, refused, 0, 0)


@full("peer")
def test_a_client_behind_a_balancer_of_connections_loses_no_call(tmp_path: Path) -> None:
    """A ClusterIP balances connections. The server closes them before it rejects requests, so that clients move."""
    pytest.importorskip("h2corn")
    toy_model.write(tmp_path)
    data, errors = request(np.zeros((1, 3), np.float32)).SerializeToString(), list[str]()
    settings: dict[str, Any] = {"transport": "asgi", "drain_delay_seconds": 4, "drain_reject_seconds": 1}
    with (
        serving(tmp_path, **settings) as old,
        serving(tmp_path, **settings) as new,
        Relay(old.address) as balancer,
        grpc.insecure_channel(balancer.address, [("grpc.enable_retries", 0)]) as channel,
    ):
        call = channel.unary_unary(f"{INFERENCE}ModelInfer")
        call(data, timeout=60)
        old.process.send_signal(signal.SIGTERM)
        for number in itertools.count():
            if old.process.poll() is not None:
                break
            if number == 10:  # the balancer notices some time after the signal
                balancer.target = new.address
            try:
                call(data, timeout=60)
            except grpc.RpcError as error:
                errors.append(str(error))
        assert not errors
        assert balancer.targets == [old.address, new.address]
        assert old.process.returncode == 0


@full("load")
def test_without_a_time_for_rejections_no_request_is_rejected(tmp_path: Path, transport: str) -> None:
    toy_model.write_slow(tmp_path, steps=1)
    with serving(tmp_path, transport=transport, plain_onnx=True, threads=1, drain_reject_seconds=0) as server:
        errors: list[str] = []

        def repeat() -> None:
            with grpc.insecure_channel(server.address, OWN) as channel:
                infer = channel.unary_unary(f"{INFERENCE}ModelInfer")
                try:
                    while True:
                        infer(SLOW, timeout=60)
                except grpc.RpcError as error:
                    errors.append(error.details())

        clients = [threading.Thread(target=repeat, daemon=True) for _ in range(4)]
        for client in clients:
            client.start()
        # From here on, calls are in progress.
        until(lambda: reload_tools.shown(server, f"nv_inference_request_success{OF_SLOW}") > 4)
        assert server.stop() == 0
        for client in clients:
            client.join(60)
        served, *others = ends(server)
        assert served > 0
        assert others == [0, 0, 0]
        assert len(errors) == 4  # they did not find the port again
        assert not [text for text in errors if "shutting down" in text]


@pytest.mark.parametrize("transport", SHARED, indirect=True)
def test_the_process_ends_with_its_last_line(tmp_path: Path, transport: str) -> None:
    """The interpreter joins and frees nothing after this line (8 s on a busy machine before)."""
    toy_model.write(tmp_path)
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--drain-delay-seconds", "0", "--transport", transport)
    command = [sys.executable, "-c", SERVE, "serve", str(tmp_path), *ports, "--log-format", "json", "--json"]
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        forked_process.popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        try:
            where = json.loads(first_line(server, log))
            with grpc.insecure_channel(where["grpc"]) as channel:
                channel.unary_unary(f"{INFERENCE}ServerLive")(b"", timeout=60)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
        assert server.stdout.read() == ""
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "server_stopped"


@full("load")
def test_a_request_that_waited_too_long_is_not_run(tmp_path: Path, transport: str, hold: Path) -> None:
    toy_model.write_slow(tmp_path, steps=1)
    with serving(tmp_path, transport=transport, plain_onnx=True, threads=1) as server:
        first = begun(server)
        impatient = pb.ModelInferRequest.FromString(SLOW)
        impatient.parameters["timeout"].int64_param = 1000
        with refused(grpc.StatusCode.UNAVAILABLE, "Request timeout expired"):
            server.call(f"{INFERENCE}ModelInfer", impatient.SerializeToString())
        hold.unlink()
        first.result()
        rejected = f'nv_inference_request_failure{OF_SLOW[:-1]},reason="REJECTED"}}'
        until(lambda: reload_tools.shown(server, rejected) == 1)
        until(lambda: reload_tools.shown(server, f"nv_inference_exec_count{OF_SLOW}") == 1)


@pytest.mark.parametrize("transport", SHARED, indirect=True)
def test_a_full_queue_refuses_at_once(tmp_path: Path, transport: str, hold: Path) -> None:
    toy_model.write_slow(tmp_path, steps=1)
    with serving(tmp_path, transport=transport, plain_onnx=True, threads=1) as server:
        channels = [grpc.insecure_channel(server.address, options=OWN) for _ in range(3)]
        infer = [channel.unary_unary(f"{INFERENCE}ModelInfer") for channel in channels]
        futures = [infer[at % 3].future(SLOW, timeout=60) for at in range(300)]
        until(lambda: sum(future.done() for future in futures) >= 40)
        refused = [future for future in futures if future.done() and future.code() is not grpc.StatusCode.OK]
        assert {(f.code(), f.details()) for f in refused} == {
            (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        }
        assert ("grpc-retry-pushback-ms", "500") in list(refused[0].trailing_metadata())
        for channel in channels:
            channel.close()
        hold.unlink()


@pytest.mark.parametrize("transport", SHARED, indirect=True)
def test_not_ready_while_loading_and_a_signal_ends_that_too(tmp_path: Path, transport: str) -> None:
    for version in range(1, VERSIONS + 1):
        toy_model.write(tmp_path, version=version)

    def events(log: Path) -> list[dict[str, str]]:
        return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line[-1] == "\n"]

    with launched(tmp_path, transport=transport) as (process, log):
        until(lambda: any(line["event"] == "server_listening" for line in events(log)))
        (address,) = (line["grpc"] for line in events(log) if line["event"] == "server_listening")
        with grpc.insecure_channel(address) as channel:
            response = channel.unary_unary(f"{INFERENCE}ServerReady")(b"", timeout=60)
            assert not pb.ServerReadyResponse.FromString(response).ready
            response = channel.unary_unary(f"{INFERENCE}ServerLive")(b"", timeout=60)
            assert pb.ServerLiveResponse.FromString(response).live
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        loaded = [line for line in events(log) if line["event"] == "model_loaded"]
        assert len(loaded) < VERSIONS  # or loading is too fast for this test
        assert process.stdout is not None
        assert process.stdout.read() == ""  # it never said ready
