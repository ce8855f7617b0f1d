"""Logging under a stalled reader, a closed descriptor or a full disk loses lines, not calls; and access log rules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from kanserve.grpc_api.access_log import AccessLog
from kanserve.grpc_api.call_context import Code
from kanserve.observability.logs import Sink
from tests.support import toy_model
from tests.support.server_process import INFERENCE, START, request, serving
from tests.support.tiers import full
from tests.support.wait import until

ROWS = np.zeros((1, 3), np.float32)


def test_lines_arrive_in_order_and_whole() -> None:
    reader, writer = os.pipe()
    sink = Sink(writer)
    for at in range(100):
        sink.write(f"{at}\n")
    sink.drain(60)
    assert os.read(reader, 65536).decode().split() == [str(at) for at in range(100)]
    assert not sink.dropped


def test_what_nobody_reads_is_dropped_and_counted() -> None:
    reader, writer = os.pipe()
    sink = Sink(writer, most_bytes=10_000)
    for _ in range(10_000):
        sink.write("x" * 99 + "\n")
    sink.drain(0.1)
    assert 10_000 - 65536 // 100 - 110 <= sink.dropped < 10_000
    lost, read = sink.dropped, bytearray()
    threading.Thread(target=lambda: [read.extend(os.read(reader, 65536)) for _ in iter(int, 1)], daemon=True).start()
    sink.drain(60)
    sink.write("again\n")  # somebody reads once more
    sink.drain(60)
    until(lambda: read.endswith(b"again\n"))
    assert sink.dropped == lost


@pytest.mark.parametrize("descriptor", ["closed", "/dev/full"])
def test_what_cannot_be_written_is_dropped_and_counted(descriptor: str) -> None:
    if descriptor == "closed":
        reader, number = os.pipe()
        os.close(reader)
    else:
        number = os.open(descriptor, os.O_WRONLY)
    sink = Sink(number)
    sink.write("one\n")
    sink.drain(60)
    assert sink.dropped == 1
    os.close(number)


@full("load")
def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path, transport: str) -> None:
    toy_model.write(tmp_path)
    options = {"repository": str(tmp_path), "grpc_port": 0, "metrics_port": 0, "drain_delay_seconds": 0}
    options |= {"access_log": "all", "transport": transport}
    command = [sys.executable, "-c", START, json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            with grpc.insecure_channel(json.loads(process.stdout.readline())["grpc"]) as channel:
                infer = channel.unary_unary(f"{INFERENCE}ModelInfer")
                data = request(ROWS, id="x" * 120).SerializeToString()
                for _ in range(30):  # 6000 lines of more than 300 bytes: more than a pipe and the queue hold
                    calls = [infer.future(data, timeout=600) for _ in range(200)]
                    assert all(call.result() for call in calls)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_by_default_only_what_failed_has_a_line(tmp_path: Path) -> None:
    """A signalling NaN has no line either. numpy would warn when statistics convert it to float64."""
    toy_model.write(tmp_path)
    with serving(tmp_path, statistics="full") as server:
        server.infer(np.array([[0x7F800001, 0x7F7FFFFF, 0x7F800000]], np.uint32).view(np.float32))
        until(lambda: 'kanserve_statistics_sampled_rows_total{model="toy",version="1"} 1.0' in server.metrics())
        with pytest.raises(grpc.RpcError):
            server.infer(np.zeros((1, 7), np.float32))
        (line,) = server.logged("request_completed", "python_warning")
        assert line["code"] == "INVALID_ARGUMENT"
        assert "kanserve_log_lines_dropped_total 0.0" in server.metrics()


@pytest.mark.parametrize(
    ("policy", "outcome", "lines"),
    [
        ("all", Code.OK, 10),
        ("errors", Code.OK, 0),
        ("none", Code.OK, 0),
        ("sampled:5", Code.OK, 2),
        ("sampled:5", Code.NOT_FOUND, 10),
        ("errors", Code.NOT_FOUND, 10),
        ("none", Code.NOT_FOUND, 0),
        ("none", Code.INTERNAL, 10),
    ],
)
def test_who_has_a_line(policy: str, outcome: Code, lines: int) -> None:
    access = AccessLog(policy)
    assert sum(access.wants(outcome, probe=False) for _ in range(10)) == lines


def test_probes_have_a_line_where_they_fail() -> None:
    wanted = [AccessLog("all").wants(outcome, probe=True) for outcome in (Code.OK, Code.CANCELLED, Code.NOT_FOUND)]
    assert wanted == [False, False, True]
