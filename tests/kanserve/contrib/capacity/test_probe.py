"""Tests of `capacity/probe.py`: one real server under measurement."""

from pathlib import Path

import numpy as np
import pytest

from kanserve.client import calls, targets
from kanserve.client.calls import Call
from kanserve.client.results import InferenceResult
from kanserve.client.sync import Client
from kanserve.contrib.capacity import probe
from kanserve.contrib.capacity.http2 import CapacityError
from kanserve.contrib.capacity.probe import Access
from tests.support.command_line import Server


def call(server: Server) -> Call[InferenceResult]:
    with Client(server.url) as client:
        return calls.inference(client.model("tiny"), np.zeros((2, 3), np.float32))


def test_a_server_is_measured(server: Server) -> None:
    access = Access(target=targets.parse(server.url), metrics=server.metrics)
    before = probe.executions(server.metrics, "tiny")
    with probe.probe(access, call(server), "tiny", latency=0.001, cores=(), connections=2) as measured:
        item = measured.measure(300.0, 0.5)
    assert item.count > 50
    assert (item.rejected, item.lost) == (0, 0)
    assert 0 < item.p50 <= item.p99
    assert item.server_cores >= 0
    assert item.batches > 0
    assert measured.peak_bytes > 2**20
    assert probe.executions(server.metrics, "tiny") > (0 if np.isnan(before) else before)


def test_unknown_figures_are_not_numbers(server: Server) -> None:
    assert np.isnan(probe.executions(server.metrics, "absent"))
    assert np.isnan(probe.executions("127.0.0.1:1", "tiny"))


def test_a_name_that_is_resolved_again_is_no_place(server: Server, tmp_path: Path) -> None:
    access = Access(target=targets.parse(f"unix:{tmp_path}/socket"))
    measured = probe.probe(access, call(server), "tiny", latency=0.001, cores=(), connections=1)
    with pytest.raises(CapacityError, match="expected HOST:PORT"), measured:
        pass
