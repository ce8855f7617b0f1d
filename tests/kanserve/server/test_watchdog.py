"""The watchdog ends a process with a hung execution, event loop or worker, but not a stopped process."""

import os
import signal
import time
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from kanserve.server.watchdog import EXIT_STUCK
from tests.kanserve.server.test_supervisor import pids
from tests.support import toy_model
from tests.support.server_process import INFERENCE, Server, request, serving, stopped
from tests.support.tiers import full
from tests.support.wait import until

ROWS = np.zeros((1, 3), np.float32)
ENDLESS = request(np.full((1, 1), 4000, np.float32), "endless").SerializeToString()


def begin(server: Server) -> grpc.Future:
    """A run that takes minutes."""
    return server.channel.unary_unary(f"{INFERENCE}ModelInfer").future(ENDLESS, timeout=600)


def live(server: Server) -> bool:
    data = health_pb2.HealthCheckRequest(service="liveness").SerializeToString()
    said = health_pb2.HealthCheckResponse.FromString(server.call("/grpc.health.v1.Health/Check", data))
    return said.status == health_pb2.HealthCheckResponse.SERVING


def test_a_stuck_run_ends_the_server_once_others_are_served(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    toy_model.write_endless(tmp_path)
    limits = {"run_stall_seconds": 1.0, "inline_run_seconds": 0, "drain_delay_seconds": 5.0, "drain_grace_seconds": 0.5}
    with serving(tmp_path, transport=transport, plain_onnx=True, threads=1, **limits) as server:
        assert live(server)
        future = begin(server)
        until(lambda: "kanserve_oldest_execution_age_seconds 0.0" not in server.metrics())
        until(lambda: not live(server))
        assert server.infer(ROWS).shape == (1, 2)
        assert server.process.wait(60) == EXIT_STUCK
        line = next(line for line in server.lines() if line["level"] == "error")
        assert line["event"] == "run_stalled"
        assert line["runs"] == ["infer-endless"]
        assert future.code() is not grpc.StatusCode.OK


def test_a_stuck_loop_ends_the_server(tmp_path: Path) -> None:
    """A run that was short at load, and so has no separate thread, on a busy machine as well."""
    toy_model.write_endless(tmp_path)
    with serving(tmp_path, plain_onnx=True, threads=1, inline_run_seconds=1.0, loop_stall_seconds=3.0) as server:
        future = begin(server)
        assert server.process.wait(60) == EXIT_STUCK
        (line,) = (line for line in server.lines() if line["level"] == "error")
        assert line["event"] == "event_loop_stalled"
        assert "in run" in line["at"]
        assert future.code() is not grpc.StatusCode.OK


@full("rare")
def test_a_stopped_server_goes_on_a_stuck_worker_is_replaced_and_workers_leave_with_it(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    limit = 1.5  # of the watchdog, and of the process that watches the workers
    with serving(tmp_path, workers=2, threads=2, loop_stall_seconds=limit, run_stall_seconds=limit) as server:
        before = pids(server)
        with stopped(server.process.pid, *before):
            passed = time.monotonic() + 3 * limit
            until(lambda: time.monotonic() > passed)
        again = time.monotonic() + limit
        until(lambda: server.infer(ROWS).shape == (1, 2) and time.monotonic() > again)
        assert pids(server) == before

        held = min(before)
        os.kill(held, signal.SIGSTOP)
        until(lambda: held not in pids(server) and len(pids(server)) == 2)
        reported = [line["event"] for line in server.lines() if line["level"] == "error"]
        assert reported == ["worker_stalled", "worker_exited"]
        until(lambda: "kanserve_workers 2" in server.metrics())

        workers = pids(server)
        server.process.kill()
        server.process.wait(60)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
