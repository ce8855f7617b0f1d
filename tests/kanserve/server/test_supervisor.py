"""Several workers behind one port: replacement of killed workers, lost calls, and merged metrics."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kanserve.pb import grpc_service_pb2 as pb
from kanserve.server.app import EXIT_TERMINATED
from tests.support import reload_tools, toy_model
from tests.support.server_process import INFERENCE, Server, launched, request, serving
from tests.support.tiers import full
from tests.support.wait import until

ROWS = np.zeros((1, 3), np.float32)
DATA = request(ROWS).SerializeToString()
LOADED = '"event": "model_loaded"'
SUCCESS = 'nv_inference_request_success{model="toy",version="1"}'
OWN = [("grpc.use_local_subchannel_pool", 1)]


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def pids(server: Server) -> set[int]:
    return children(server.process.pid)


def value(text: str, sample: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(line.split()[-1])


def ask(server: Server, times: int) -> None:
    """Each time on a new connection."""
    for _ in range(times):
        with grpc.insecure_channel(server.address, OWN) as channel:
            channel.unary_unary(f"{INFERENCE}ModelInfer")(DATA, timeout=60)


def test_the_page_is_of_all_and_all_drain_together(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, workers=2, threads=2, drain_delay_seconds=600.0) as server:
        workers = pids(server)
        assert len(workers) == 2
        ask(server, 30)
        # A worker counts a call after its response, and one that is late with its part is left out of a page.
        until(lambda: counts(server.metrics()) == (30, 30, 2))
        for _ in range(4 if server.http else 0):  # whichever worker is asked
            until(lambda: counts(shared(server)) == (30, 30, 2))
        assert value(server.metrics(), 'kanserve_model_loaded{model="toy",version="1"}') == 1
        server.process.send_signal(signal.SIGTERM)
        assert len(server.logged("shutdown_started", count=2)) == 2
        assert server.infer(ROWS).shape == (1, 2)  # before `drain_delay_seconds` is over
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == EXIT_TERMINATED
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def counts(page: str) -> tuple[float, float, float] | None:
    """Return the counts of successes, durations and workers from a metrics page, if the page has all three."""
    if f"{SUCCESS} " not in page:
        return None
    families = {family.name: family for family in text_string_to_metric_families(page)}
    buckets = [s for s in families["kanserve_request_duration_seconds"].samples if s.labels.get("le") == "+Inf"]
    durations = sum(s.value for s in buckets if s.labels["model"] == "toy")
    return value(page, SUCCESS), durations, value(page, "kanserve_workers")


def shared(server: Server) -> str:
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=60) as response:
        return str(response.read().decode())


def kill_one(server: Server) -> None:
    """And wait until another is there, while nothing that was counted is lost."""
    until(lambda: len(pids(server)) == 2 and f"{SUCCESS} " in (page := server.metrics()) and "_workers 2\n" in page)
    before, counted = pids(server), value(server.metrics(), SUCCESS)
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(pids(server) - before) == 1)
    assert value(server.metrics(), SUCCESS) >= counted


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, transport=transport, workers=2, threads=2) as server:
        with reload_tools.Clients(server, 2, {}) as clients:
            kill_one(server)
            until(lambda: value(server.metrics(), "kanserve_workers") == 2)
            before = clients.served
            until(lambda: clients.served > before + 100)
        # One call of each is in flight at a time: at most one is lost to the kill. A refused connection is tried again.
        assert {text.partition(":")[0] for text in clients.failed} <= {"UNAVAILABLE"}
        # By grpc.aio each worker has a socket of its own: a connection made while one dies may die with it.
        assert len(clients.failed) <= 2 * (1 if transport == "asgi" else 2), clients.failed
        reported = [line for line in server.lines() if line["event"] == "worker_exited"]
        assert [line["code"] for line in reported] == [-signal.SIGKILL]
        assert value(server.metrics(), "kanserve_worker_exits_total") == 1
        assert server.stop() == 0


@full("rare")
def test_nobody_is_ready_before_all_are(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    for _ in range(5):
        with launched(tmp_path, workers=2, threads=2) as (process, log):
            until(lambda: len(children(process.pid)) == 2)
            if hold_one(process, log):
                return
    pytest.fail("both workers were always ready before the test could hold one")


def hold_one(process: subprocess.Popen[str], log: Path) -> bool:
    """Hold a worker, check that the other reports not ready, and end the server. False if a worker was too fast."""
    held = min(children(process.pid))
    os.kill(held, signal.SIGSTOP)
    try:
        if LOADED in log.read_text():
            return False
        until(lambda: log.read_text().count(LOADED) == 1)
        address = log.read_text().partition('"grpc": "')[2].partition('"')[0]
        with grpc.insecure_channel(address) as channel:
            for path, kind in (("ModelReady", pb.ModelReadyRequest), ("ServerReady", pb.ServerReadyRequest)):
                requested = kind(name="toy") if path == "ModelReady" else kind()
                response = channel.unary_unary(INFERENCE + path)(requested.SerializeToString(), timeout=60)
                assert not pb.ServerReadyResponse.FromString(response).ready
    finally:
        os.kill(held, signal.SIGCONT)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.terminate()
    assert process.wait(60) == 0
    return True


@full("combination")
def test_a_worker_that_cannot_start_ends_all(tmp_path: Path) -> None:
    """onnxruntime without CUDA: a worker has the reason, and its parent process reports it."""
    toy_model.write(tmp_path)
    with launched(tmp_path, workers=2, device="cuda") as (process, log):
        assert process.wait(60) != 0
        assert "a worker did not start: " in log.read_text()


@full("combination")
def test_ctrl_c_on_a_terminal_waits_for_no_load_balancer(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "kanserve", "serve", str(tmp_path), "--json", "--workers", "2"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--drain-delay-seconds", "600"]
    with subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert b"grpc" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(ours)
    os.close(terminal)
