"""Live traffic statistics: sampled from the latest rows, without effect on outputs, removed with the version."""

import dataclasses
import functools
import math
import os
import re
import shutil
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanserve.client.errors import NotSupported
from kanserve.client.statistics import Statistics
from kanserve.client.sync import Client
from kanserve.insight import traffic_sampler
from kanserve.insight.statistics import Nodes
from kanserve.models.loader import STATISTICS
from kanserve.observability.metrics import Metrics
from kanserve.sandbox import verify
from kanserve.types import Array, ModelInfo
from tests.kanserve.analysis.test_drift import seen
from tests.support import toy_model
from tests.support.command_line import checkpoint, exported
from tests.support.reload_tools import RNG, TRAIN, draw, run, value
from tests.support.server_process import Server, serving
from tests.support.tiers import full
from tests.support.wait import until


def send(server: Server, rows: np.ndarray, version: str = "") -> None:
    """One after the other, of one row and of some."""
    at = 0
    while at < len(rows):
        size = 1 if at % 3 else 16
        server.infer(rows[at : at + size], model_version=version)
        at += size


def latest(server: Server) -> Statistics:
    with Client(server.address) as client:
        return client.drift(client.describe("toy"))


def sampled(server: Server) -> float:
    return value(server, "kanserve_statistics_sampled_rows_total")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sampled")
    toy_model.edit(toy_model.write(root), baseline=seen(TRAIN))
    toy_model.write(root, "plain")
    return root


@pytest.fixture(scope="module")
def watched(repository: Path) -> Iterator[Server]:
    with serving(
        repository, statistics_rows_per_second=100_000, repository_poll_seconds=0.1, version_policy="latest:1"
    ) as server:
        yield server


def test_the_latest_rows_are_counted_and_what_moves_is_seen(watched: Server) -> None:
    with Client(watched.address) as client:
        client.reset_statistics("toy")
    before = sampled(watched)
    assert latest(watched).row_count == 0
    send(watched, draw(600))
    until(lambda: sampled(watched) >= before + 600)
    result = latest(watched)
    assert (result.source, result.rows_seen, result.baseline_rows) == ("live", 600, 2000)
    assert result.row_count == 350  # a full window of 250, and the latest 100
    for part in result.nodes:
        assert {int(counts.sum()) for counts in part.counts} == {result.row_count}
        assert not part.drifted.any()
    until(lambda: 0 <= value(watched, "kanserve_drift_psi_ratio", "0") < 1)
    send(watched, draw(600, moved=1.5))  # by now there are no others among the latest
    until(lambda: sampled(watched) >= before + 1200)
    assert latest(watched).nodes[0].drifted.tolist() == [False, False, True]
    send(watched, draw(16, moved=1.5))
    until(lambda: value(watched, "kanserve_drift_psi_ratio", "0") > 2)
    out = value(watched, "kanserve_out_of_range_ratio", "0")
    assert out > value(watched, "kanserve_baseline_out_of_range_ratio", "0")
    assert value(watched, "kanserve_drift_psi_ratio", "output") >= 0


def test_responses_are_as_they_are_without_it(watched: Server) -> None:
    with Client(watched.address) as client:
        client.reset_statistics("toy")
    rows, before = draw(64), sampled(watched)
    np.testing.assert_allclose(watched.infer(rows), toy_model.outputs(rows), rtol=1e-4, atol=1e-5)
    broken = rows.copy()
    broken[3, 1] = np.nan
    watched.infer(broken)
    until(lambda: sampled(watched) >= before + 128)
    assert latest(watched).nodes[0].nonfinite.tolist() == [0, 1, 0]
    # The loop waits while the thread has the interpreter lock, so the thread has the priority of the loop.
    niceness = {
        (task / "comm").read_text().strip(): os.getpriority(os.PRIO_PROCESS, int(task.name))
        for task in Path(f"/proc/{watched.process.pid}/task").iterdir()
    }
    assert niceness[STATISTICS] == os.getpriority(os.PRIO_PROCESS, watched.process.pid)


def test_a_model_without_a_baseline_is_looked_into_all_the_same(watched: Server) -> None:
    with Client(watched.address) as client:
        watched.infer(draw(64), "plain")
        until(lambda: client.statistics("plain").row_count == 64)
        result = client.statistics("plain")
        assert (result.source, result.rows_seen, result.baseline_rows) == ("total", 64, 0)
        assert [len(part.psi) for part in result.nodes] == [0, 0, 0]
        assert not re.search(r"kanserve_drift_psi_ratio{.*plain", watched.metrics())  # nobody knows what is normal
        with pytest.raises(NotSupported) as caught:
            client.drift(client.describe("plain"))
        assert caught.value.error_code == "baseline-missing"
        assert "--baseline FILE" in caught.value.hint


def test_a_version_that_goes_takes_its_series_with_it(tmp_path: Path) -> None:
    toy_model.edit(toy_model.write(tmp_path), baseline=seen(TRAIN))
    with serving(tmp_path, repository_poll_seconds=0.1, version_policy="latest:1") as server:
        send(server, draw(64))
        until(lambda: value(server, "kanserve_drift_psi_ratio", "0") >= 0)
        shutil.copytree(tmp_path / "toy" / "1", tmp_path / "toy" / ".2")
        toy_model.edit(tmp_path / "toy" / ".2", version=2)
        (tmp_path / "toy" / ".2").rename(tmp_path / "toy" / "2")
        with Client(server.address) as client:
            until(lambda: client.describe("toy").version == "2")
        assert latest(server).row_count == 0
        until(lambda: 'layer="0",model="toy",version="1"' not in server.metrics())
        send(server, draw(32))
        until(lambda: latest(server).row_count >= 32)


def watching(how: Any, rate: float, pool: ThreadPoolExecutor) -> traffic_sampler.TrafficSampler:
    """Create a traffic sampler for the toy model without a server."""
    manifest = toy_model.manifest("toy")
    info = ModelInfo("toy", 1, 64, verify.tensors(manifest.inputs), verify.tensors(manifest.outputs), "", manifest)
    return traffic_sampler.TrafficSampler(info, Nodes(manifest, run), how, rate, pool, Metrics())


async def test_only_so_many_rows_a_second_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0], thread_time=lambda: 0.0)
    monkeypatch.setattr(traffic_sampler, "time", clock)
    with ThreadPoolExecutor(1) as pool:
        item = watching(run, 50.0, pool)
        for _ in range(100):  # 10 s of 1600 rows each
            now[0] += 0.1
            for _ in range(10):
                item.offer(["y"], 16 * item._row_bytes, lambda: ({"x": draw(16)}, []))
        assert 50 * 10 <= 16 * len(item._waiting) <= 50 * 11 + 16
        item.end()


async def test_what_waits_is_bounded_where_the_thread_gets_no_turn() -> None:
    """Nothing is handed to it before it is done with what came before, and what is too much is not counted."""
    held, copies = threading.Event(), 0

    def slow(names: Any, rows: Any) -> list[Array]:
        held.wait(600)
        return run(names, rows)

    def copy() -> Any:
        nonlocal copies
        copies += 1
        return {"x": np.zeros((1, 3), np.float32)}, []

    with ThreadPoolExecutor(1) as pool:
        item = watching(slow, math.inf, pool)
        for _ in range(3):
            for _ in range(traffic_sampler.FULL_WAIT + 10):
                item.offer(["y"], 20, copy)
            assert len(item._waiting) == traffic_sampler.FULL_WAIT
            item._sample()
        held.set()
        until(lambda: item.counted(lately=False).tally.rows == traffic_sampler.FULL_WAIT)
        assert copies == traffic_sampler.FULL_WAIT
        item.end()


def test_short_pieces_of_work_change_no_count() -> None:
    rows = draw(3 * traffic_sampler.PIECE + 7)
    nodes = Nodes(toy_model.manifest("toy"), run)
    expected = nodes.empty()
    for start in range(0, len(rows), traffic_sampler.ROWS):
        expected = expected.plus(nodes.count(run, {"x": rows[start : start + traffic_sampler.ROWS]}))
    with ThreadPoolExecutor(1) as pool:
        item = watching(run, math.inf, pool)
        item._work([functools.partial(lambda at: ({"x": rows[at : at + 1]}, []), at) for at in range(len(rows))])
        tally = item.counted(lately=False).tally
    assert tally.rows == len(rows)
    for window, other in zip(tally.windows, expected.windows, strict=True):
        np.testing.assert_array_equal(window.counts, other.counts)
        np.testing.assert_array_equal(window.squares, other.squares)


def test_drift_of_each_minute_of_the_last_hour_is_kept() -> None:
    now = [6000.0]
    toy = toy_model.manifest("toy")
    toy = dataclasses.replace(toy, baseline=seen(TRAIN))
    info = ModelInfo("toy", 1, 64, verify.tensors(toy.inputs), verify.tensors(toy.outputs), "", toy)
    with ThreadPoolExecutor(1) as pool:
        item = traffic_sampler.TrafficSampler(info, Nodes(toy, run), run, 1.0, pool, Metrics(), clock=lambda: now[0])
        item._tell()
        assert item.drift_history() == [], "without rows"
        for at in range(150):  # two entries a minute, the second of which is kept
            now[0] = 6000.0 + 30 * at
            item._take({"x": draw(60, moved=at / 50)})
            item._tell()
        kept = item.drift_history()
        assert [entry.at for entry in kept] == [6030.0 + 60 * at for at in range(15, 75)]
        assert {layer: values.shape for layer, values in kept[-1].ratio.items()} == {0: (3,), 1: (4,), -1: (2,)}
        for part in item.counted(lately=True).nodes:
            assert part.drift is not None
            assert kept[-1].ratio[part.layer].max() == pytest.approx(part.drift.ratio)
            assert kept[-1].out_of_range[part.layer] == part.drift.out_of_range.max()
        now[0] -= 300  # the clock was set back: later entries give way
        item._tell()
        assert [entry.at for entry in item.drift_history()][-2:] == [now[0] - 60, now[0]]
        now[0] += 3600 - 90
        assert len(item.drift_history()) == 2
        item.anew()
        assert item.drift_history() == []


def test_a_clock_that_went_back_does_not_keep_anybody_from_counting_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as pool:
        item = watching(run, 10.0, pool)
        first = item.anew()
        monkeypatch.setattr(traffic_sampler.time, "time", lambda: first - 3600)
        item._take({"x": draw(5)})
        assert item.counted(lately=False).tally.rows == 5
        assert item.anew() > first
        assert item.counted(lately=False).tally.rows == 0
        item._take({"x": draw(3)})
        item.reset(first)  # an order that comes late
        assert item.counted(lately=False).tally.rows == 3


@full("combination")
def test_the_page_of_a_large_model_is_small(tmp_path: Path) -> None:
    """A model [784, 64, 10] with a baseline, classes and traffic has no metric series per node."""
    state = checkpoint(tmp_path / "large.safetensors", (784, 64, 10))
    rows = RNG.uniform(-0.9, 0.9, (200, 784)).astype(np.float32)
    np.save(tmp_path / "train.npy", rows)
    arguments = ("--baseline", tmp_path / "train.npy", "--classes", ",".join(f"digit {at}" for at in range(10)))
    with serving(exported(state, "large", *arguments)) as server, Client(server.address) as client:
        server.infer(rows[:64], "large")
        until(lambda: 'class="digit 0",model="large"' in server.metrics())
        until(lambda: client.drift(client.describe("large")).row_count == 64)
        until(lambda: float(re.findall(r'^kanserve_drift_psi_ratio{layer="0".* (\S+)$', server.metrics(), re.M)[0]) > 0)
        page = server.metrics()
    assert len(page) < 150_000
