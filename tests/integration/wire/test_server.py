"""Server basics: methods, readiness, request ids, logs, health, reflection, channel options by effect."""

import os
import socket
from pathlib import Path

import grpc
import numpy as np
import pytest

from kanserve.system import resources
from tests.support import bad_requests, toy_model
from tests.support.loop_stalls import time_slice
from tests.support.server_process import INFERENCE, Server, request, serving
from tests.support.tiers import full

ROWS = np.full((2, 3), 0.123456, np.float32)


def test_the_request_id_is_in_the_log_line_and_tensors_never_are(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, access_log="all") as server:
        data = request(ROWS, id="from-the-message").SerializeToString()
        server.call(f"{INFERENCE}ModelInfer", data, metadata=(("x-request-id", "from-metadata"),))
        server.call(f"{INFERENCE}ModelInfer", data)
        server.call(f"{INFERENCE}ModelInfer", request(ROWS, id="bad\nid").SerializeToString())
        lines = server.logged("request_completed", count=3)
        assert "0.1234" not in server.log.read_text()
    assert [line["request_id"] for line in lines[:2]] == ["from-metadata", "from-the-message"]
    assert "\n" not in lines[2]["request_id"]
    assert (lines[0]["model"], lines[0]["version"], lines[0]["rows"]) == ("toy", 1, 2)


@full("combination")
def test_a_client_that_never_finishes_its_handshake_is_dropped(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"PRI * HTTP/2")  # half a preface
        client.settimeout(60)
        while client.recv(4096):  # until the server closes the connection
            pass


def test_a_response_beyond_the_limit_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    toy_model.edit(tmp_path / "toy" / "1", max_batch_size=1000)
    with serving(tmp_path, max_response_bytes=1024) as server:
        assert server.infer(np.zeros((128, 3), np.float32)).shape == (128, 2)
        with bad_requests.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "takes 1032 bytes, the limit is 1024") as caught:
            server.infer(np.zeros((129, 3), np.float32))
        assert bad_requests.code(caught.value) == "response-too-large"
        assert "send fewer rows" in bad_requests.hint(caught.value)
        assert "nv_inference_exec_count" in server.metrics()


def tasks(server: Server) -> dict[str, list[int]]:
    result: dict[str, list[int]] = {}
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        result.setdefault((task / "comm").read_text().strip(), []).append(int(task.name))
    return result


def test_threads_that_compute_stand_back_and_those_of_requests_have_a_short_time_slice(tmp_path: Path) -> None:
    """So a request does not wait for a thread that computes, at the same priority."""
    toy_model.write(tmp_path)
    with serving(tmp_path, compute_nice=7, inline_run_seconds=0, max_queue_delay_microseconds=1000) as server:
        server.infer(np.zeros((2, 3), np.float32))
        own = os.getpriority(os.PRIO_PROCESS, server.process.pid)
        named = tasks(server).items()
        nice = {name: {os.getpriority(os.PRIO_PROCESS, task) - own for task in found} for name, found in named}
        sliced = {name: {time_slice(task) for task in found} for name, found in named}
        loop = time_slice(server.process.pid)
    assert set().union(*nice.values()) == {0, 7}
    assert nice["tokio-rt-worker"] == {0}
    if (usual := time_slice(0)) is None:
        pytest.skip("this kernel has no slices of threads")
    assert loop == resources.SHORT
    assert sliced["tokio-rt-worker"] == {resources.SHORT}
    assert usual in set().union(*sliced.values())  # of threads that compute, whose names differ by version
