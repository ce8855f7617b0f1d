"""Metrics: names and values on the port, labels that no client can choose, and the format of prometheus_client."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kanserve.observability import metrics
from kanserve.observability.metrics import Definition, Family, Machine, Number, Spread
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.kanserve.transport.test_metrics_server import samples
from tests.support import toy_model
from tests.support.server_process import INFERENCE, KAN, Server, request, serving
from tests.support.wait import until

COUNTERS = ("request_success", "count", "exec_count", "request_duration_us", "queue_duration_us")
PHASES = (f"compute_{phase}_duration_us" for phase in ("input", "infer", "output"))
PER_MODEL = {f"nv_inference_{name}" for name in (*COUNTERS, *PHASES, "pending_request_count")}
TRITON = PER_MODEL | {"nv_inference_request_failure", "nv_model_load_duration_secs"}
MACHINE = {"nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes"}


def test_every_promised_name_is_there_and_agrees_with_what_was_done(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    labels = 'model="toy",version="1"'
    with serving(tmp_path) as server:
        text = server.metrics()
        names = set(re.findall(r"^# TYPE (\S+)", text, re.M))
        assert names >= TRITON | MACHINE
        assert {definition.name for definition in metrics.DEFINITIONS} <= names
        result = samples(text)
        for name in PER_MODEL:
            assert result[f"{name}{{{labels}}}"] == 0
        for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
            assert result[f'nv_inference_request_failure{{{labels},reason="{reason}"}}'] == 0
        assert result[f'kanserve_request_duration_seconds_bucket{{le="5e-05",{labels}}}'] == 0
        assert result[f"kanserve_model_loaded{{{labels}}}"] == 1
        assert result[f"nv_model_load_duration_secs{{{labels}}}"] > 0
        assert 0 <= result["nv_cpu_utilization"] <= 1
        assert 0 < result["nv_cpu_memory_used_bytes"] < result["nv_cpu_memory_total_bytes"]
        assert list(text_string_to_metric_families(text))  # what Prometheus would read
        numbers_agree(server, labels)


def numbers_agree(server: Server, labels: str) -> None:
    """The metrics and the statistics have the same numbers of what was done."""
    for rows in (1, 8, 8):
        server.infer(np.zeros((rows, 3), np.float32))
    with pytest.raises(grpc.RpcError):
        server.infer(np.zeros((2, 4), np.float32))
    query = kan_pb2.QueryEdgesRequest(model_name="toy", rows=bytes(24), row_count=2, layers=[1])
    server.call(f"{KAN}QueryEdges", query.SerializeToString())
    until(lambda: "kanserve_inflight_requests 0.0" in server.metrics())  # a call is counted after its response
    result = samples(server.metrics())
    for name, number in {
        f"nv_inference_request_success{{{labels}}}": 3,
        f'nv_inference_request_failure{{{labels},reason="OTHER"}}': 1,
        f"nv_inference_count{{{labels}}}": 17,
        f"nv_inference_exec_count{{{labels}}}": 3,
        f"kanserve_batch_rows_sum{{{labels}}}": 17,
        f"kanserve_edge_values_total{{{labels}}}": 16,
        f'kanserve_edge_queries_total{{grpc_code="OK",{labels}}}': 1,
    }.items():
        assert result[name] == number, name
    statistics = pb.ModelStatisticsResponse.FromString(server.call(f"{INFERENCE}ModelStatistics", b""))
    (entry,) = statistics.model_stats
    assert (entry.inference_count, entry.execution_count, entry.inference_stats.fail.count) == (17, 3, 1)
    microseconds = entry.inference_stats.compute_infer.ns // 1000
    assert result[f"nv_inference_compute_infer_duration_us{{{labels}}}"] == microseconds > 0
    assert [(b.batch_size, b.compute_infer.count) for b in entry.batch_stats] == [(1, 1), (8, 2)]


def test_a_client_cannot_make_series(server: Server) -> None:
    def ask(number: int) -> None:
        rows = np.zeros((1, 3), np.float32)
        name = f"made-up-{number}"
        calls = [
            (f"{INFERENCE}ModelInfer", request(rows, name, model_version=str(number + 1))),
            (f"{KAN}QueryEdges", kan_pb2.QueryEdgesRequest(model_name=name)),
            (f"/made.up/Method{number}", pb.ServerLiveRequest()),
            (f"{INFERENCE}Method{number}", pb.ServerLiveRequest()),
        ]
        for path, message in calls:
            with pytest.raises(grpc.RpcError):
                server.call(path, message.SerializeToString())

    unknown = 'nv_inference_request_failure{model="_unknown_",version="",reason="OTHER"}'

    def counted() -> float:
        return samples(server.metrics()).get(unknown, 0.0)

    first = counted()
    for _ in range(2):  # a call is counted after its response, and all of the first round before the second one
        ask(0)
    until(lambda: counted() >= first + 2)
    before = server.metrics()
    for number in range(1, 40):
        ask(number)
    until(lambda: counted() >= 40)
    after = server.metrics()
    assert set(samples(before)) == set(samples(after))
    assert "made" not in after.replace("kanserve_", "")
    assert samples(after)[unknown] >= 40


def test_the_machine_is_busy_for_the_share_of_time_since_the_last_look(tmp_path: Path) -> None:
    def look(*times: int) -> dict[str, float]:
        (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, times))}\ncpu0 1 2 3\n")
        return samples("".join(machine.lines()))

    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\n")
    machine = Machine(tmp_path)
    # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
    assert look(10, 0, 10, 70, 10, 0, 0, 0, 5, 5)["nv_cpu_utilization"] == 0.2
    result = look(100, 0, 10, 80, 10, 0, 0, 0, 95, 5)
    assert result["nv_cpu_utilization"] == 0.9
    assert (result["nv_cpu_memory_total_bytes"], result["nv_cpu_memory_used_bytes"]) == (1024000, 614400)
    assert look(100, 0, 10, 80, 10, 0, 0, 0, 95, 5)["nv_cpu_utilization"] == 0
    (tmp_path / "stat").unlink()
    assert list(machine.lines()) == []


LABELS = ("model", "version")
VALUES = st.tuples(st.text(max_size=4), st.sampled_from(["1", "2"]))
AMOUNTS = st.floats(0, 1e6)
BOUNDS = (50e-6, 0.5, 1.0, 1024.0)
disable_created_metrics()


def registry(*collectors: Family[Any]) -> CollectorRegistry:
    created = CollectorRegistry()
    for collector in collectors:
        created.register(collector)
    return created


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.tuples(VALUES, AMOUNTS | st.sampled_from(BOUNDS))))
def test_the_text_is_that_of_the_library(events: list[tuple[tuple[str, str], float]]) -> None:
    counter = Family(Definition("c_total", "Counts.", LABELS), Number)
    gauge = Family(Definition("g", "Stands.", LABELS), Number)
    histogram = Family(Definition("h", "Spreads.", LABELS, BOUNDS), partial(Spread, BOUNDS))
    theirs = CollectorRegistry()
    same = (
        Counter("c_total", "Counts.", LABELS, registry=theirs),
        Gauge("g", "Stands.", LABELS, registry=theirs),
        Histogram("h", "Spreads.", LABELS, registry=theirs, buckets=BOUNDS),
    )
    for labels, amount in events:
        for created in (counter, same[0]):
            created.labels(*labels).inc(amount)
        for created in (gauge, same[1]):
            created.labels(*labels).set(amount)
        for created in (histogram, same[2]):
            created.labels(*labels).observe(amount)
    assert generate_latest(registry(counter, gauge, histogram)) == generate_latest(theirs)


def test_without_labels_the_series_is_there_from_the_start() -> None:
    gauge = Family(Definition("g", "Stands."), Number)
    assert b"\ng 0.0\n" in generate_latest(registry(gauge))
    gauge.labels().set(2)
    assert b"\ng 2.0\n" in generate_latest(registry(gauge))
