"""Operations view data: parsed metrics, differences between two reads, and kept rows."""

import numpy as np
import pytest

from kanserve.insight.traffic_sampler import KeptRows
from kanserve.observability.metrics import DEFINITIONS, TRITON_COUNTERS, TRITON_FAILURES, TRITON_GAUGES, Metrics
from kanserve.observability.statistics import FailureReason, Timing
from kanserve.services import operations
from kanserve.services.operations import Figures, Ledger

KEY = ("toy", "1")
MS = 10**6


def worked(metrics: Metrics, requests: int, rows: int, ms: float) -> None:
    own = metrics.model(*KEY)
    for _ in range(requests):
        timing = Timing(1 * MS, 2 * MS, 3 * MS, 4 * MS)
        own.executed(rows, timing)
        own.computed(rows, timing)
        own.succeeded(int(ms * MS))


def read(metrics: Metrics, at: float) -> Figures:
    return operations.read(metrics.text().decode(), at)


def test_every_name_that_is_read_is_a_metric_of_ours() -> None:
    ours = {item.name for item in DEFINITIONS} | {name for name, *_ in (*TRITON_COUNTERS, *TRITON_GAUGES)}
    ours |= {TRITON_FAILURES, "kanserve_workers", "kanserve_worker_exits_total"}  # of several workers: together.py
    ours |= {"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}
    assert {name.removesuffix("_bucket") for name in operations.KNOWN} <= ours


def test_between_two_readings() -> None:
    metrics = Metrics()
    worked(metrics, 10, 1, 1.5)
    before = read(metrics, 100.0)
    worked(metrics, 30, 4, 3.0)
    metrics.model(*KEY).statistics.failed(0, FailureReason.REJECTED)
    result = operations.history_span(KEY, read(metrics, 110.0), before)
    assert (result.seconds, result.requests, result.rows, result.executions) == (10.0, 30.0, 120.0, 30.0)
    assert result.failures["REJECTED"] == 1
    assert result.phases == pytest.approx({"queue": 0.001, "input": 0.002, "infer": 0.003, "output": 0.004})
    assert dict(result.batches)[4.0] == 30
    assert dict(result.batches)[1.0] == 0
    # All 30 lie in the bucket from 2.5 to 5 ms, in which quantiles are told as Prometheus does.
    assert result.quantiles["p50"] == pytest.approx(0.0025 + 0.0025 * 0.5)
    whole = operations.history_span(KEY, read(metrics, 110.0), None)
    assert (whole.requests, whole.seconds) == (40.0, 0.0)


def test_a_version_that_counts_anew_has_no_negative_rate() -> None:
    metrics = Metrics()
    worked(metrics, 10, 1, 1.0)
    before = read(metrics, 1.0)
    metrics.forget(*KEY)
    worked(metrics, 3, 1, 1.0)
    result = operations.history_span(KEY, read(metrics, 2.0), before)
    assert result.requests == 3
    assert min(count for _, count in result.batches) >= 0


def test_quantiles_of_nothing_and_beyond_the_last_bound() -> None:
    inf = float("inf")
    assert operations.quantile((), 0.5) is None
    assert operations.quantile(((1.0, 0.0), (inf, 0.0)), 0.5) is None
    assert operations.quantile(((1.0, 0.0), (10.0, 0.0), (inf, 3.0)), 0.5) == 10.0
    assert operations.quantile(((1.0, 4.0), (10.0, 0.0), (inf, 0.0)), 1.0) == 1.0


def test_names_with_quotes_come_back() -> None:
    text = 'nv_inference_count{model="a\\"b\\\\",version="2"} 7\nunknown{model="x"} 1\nbroken line here\n'
    result = operations.read(text, 0.0)
    assert result.numbers == {('a"b\\', "2"): {"rows": 7.0}}


def test_a_ledger_is_read_once_for_all_who_ask() -> None:
    ledger, metrics = Ledger(3, 1.0, 1000), Metrics()
    assert ledger.due(10.0)
    for at in (10.0, 11.0, 12.0, 13.0):
        assert ledger.due(at)
        ledger.add(read(metrics, at))
        assert not ledger.due(at + 0.5)
    assert ledger.due(5.0), "a clock that goes back stops nothing"
    assert [(old.at, new.at) for old, new in ledger.steps(0.0)] == [(11.0, 12.0), (12.0, 13.0)]
    assert [new.at for _, new in ledger.steps(12.0)] == [13.0]
    assert (oldest := ledger.since(300.0)) is not None
    assert oldest.at == 11.0
    assert ledger.since(0.5) is None


def test_a_ledger_of_many_versions_keeps_fewer_readings() -> None:
    ledger, metrics = Ledger(300, 1.0, 40), Metrics()
    for version in range(9):  # and one for requests to unknown models
        metrics.model("toy", str(version))
    for at in range(20):
        ledger.add(read(metrics, float(at)))
    assert len(list(ledger.steps(0.0))) == 4 - 1
    tiny = Ledger(300, 1.0, 1)
    for at in range(5):
        tiny.add(read(metrics, float(at)))
    assert len(list(tiny.steps(0.0))) == 1


def test_kept_rows_are_of_the_latest_and_each_as_likely() -> None:
    times = np.zeros(40)
    for seed in range(600):
        rows = KeptRows(10, 20, seed)
        for start in range(0, 40, 4):  # two windows of 20, in batches
            rows.add({"x": np.arange(start, start + 4, dtype=np.float32)[:, None]})
        result = [int(row.values["x"][0]) for row in rows.latest()]
        assert len(result) == 10
        assert result == sorted(result, reverse=True)
        times[result] += 1
    assert times[:20].sum() == 0, "the window before gives rows while this one has fewer, and no more"
    # 600 draws of 10 of 20: 300 each, and 12.2 the standard deviation
    assert np.abs(times[20:] - 300).max() < 5 * 12.3


def test_few_rows_come_from_the_window_before_too() -> None:
    rows = KeptRows(4, 10, 0)
    values = np.arange(11, dtype=np.float32)[:, None]
    rows.add({"x": values})
    values[:] = -1  # what was kept is a copy
    result = [float(row.values["x"][0]) for row in rows.latest()]
    assert result[0] == 10
    assert len(result) == 4
    assert min(result) >= 0
