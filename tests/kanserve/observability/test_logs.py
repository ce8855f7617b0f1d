"""Logging under a stalled reader, a closed descriptor or a full disk loses lines, not calls."""

import os
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from kanserve.observability.logs import Sink
from tests.support import toy_model
from tests.support.server_process import serving
from tests.support.wait import until


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
