"""The watchdog ends a process with a hung execution, event loop or worker, but not a stopped process."""

from __future__ import annotations

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
from tests.support.server_process import INFERENCE, Server, request, serving, wait_until

ROWS = np.zeros((1, 3), np.float32)
ENDLESS = request(np.full((1, 1), 4000, np.float32), "endless").SerializeToString()


def begin(server: Server) -> grpc.Future:
    """A run that takes minutes."""
    return server.channel.unary_unary(f"{INFERENCE}ModelInfer").future(ENDLESS, timeout=60)


def live(server: Server) -> bool:
    data = health_pb2.HealthCheckRequest(service="liveness").SerializeToString()
    said = health_pb2.HealthCheckResponse.FromString(server.call("/grpc.health.v1.Health/Check", data))
    return said.status == health_pb2.HealthCheckResponse.SERVING


def test_a_stuck_run_ends_the_server_once_others_are_answered(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    toy_model.write_endless(tmp_path)
    limits = {"run_stall_seconds": 1.0, "inline_run_seconds": 0, "drain_delay_seconds": 5.0, "drain_grace_seconds": 0.5}
    with serving(tmp_path, transport=transport, plain_onnx=True, threads=1, **limits) as server:
        assert live(server)
        future = begin(server)
        wait_until(lambda: "kanserve_longest_run_seconds 0.0" not in server.metrics())
        wait_until(lambda: not live(server))
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


def test_a_stuck_worker_is_replaced(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, workers=2, threads=2, loop_stall_seconds=3.0) as server:
        before = pids(server)
        held = min(before)
        os.kill(held, signal.SIGSTOP)
        wait_until(lambda: held not in pids(server) and len(pids(server)) == 2)
        reported = [line["event"] for line in server.lines() if line["level"] == "error"]
        assert reported == ["worker_stalled", "worker_exited"]
        wait_until(lambda: "kanserve_workers 2" in server.metrics())
        assert server.stop() == 0


def test_a_server_that_was_stopped_is_not_stuck(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, workers=2, threads=2, loop_stall_seconds=1.5, run_stall_seconds=1.5) as server:
        before = pids(server)
        everyone = (server.process.pid, *before)
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)  # longer than the limits of the watchdog and of the process that watches the workers
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)
        for _ in range(10):
            server.infer(ROWS)
            time.sleep(0.1)
        assert pids(server) == before
        assert server.stop() == 0
