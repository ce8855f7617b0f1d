"""Live traffic statistics: sampled from the latest rows, without effect on outputs, removed with the version."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import re
import shutil
import threading
import time
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
from tests.support.command_line import checkpoint, program
from tests.support.live_traffic import RNG, SECONDS, TRAIN, draw, run, value
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


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Server]:
    toy_model.edit(toy_model.write(tmp_path), baseline=seen(TRAIN))
    with serving(
        tmp_path, statistics_rows_per_second=100_000, repository_poll_seconds=0.1, version_policy="latest:1"
    ) as server:
        yield server


def test_the_latest_rows_are_counted_and_what_moves_is_seen(watched: Server) -> None:
    assert latest(watched).row_count == 0
    send(watched, draw(600))
    until(lambda: value(watched, "kanserve_statistics_sampled_rows_total") >= 600)
    result = latest(watched)
    assert (result.source, result.rows_seen, result.baseline_rows) == ("live", 600, 2000)
    assert traffic_sampler.ROWS <= result.row_count < 2 * traffic_sampler.ROWS + 64
    for part in result.nodes:
        assert {int(counts.sum()) for counts in part.counts} == {result.row_count}
        assert not part.drifted.any()
    until(lambda: 0 <= value(watched, "kanserve_drift_psi_ratio", "0") < 1)
    send(watched, draw(500, moved=1.5))  # by now there are no others among the latest
    until(lambda: value(watched, "kanserve_statistics_sampled_rows_total") >= 1100)
    assert latest(watched).nodes[0].drifted.tolist() == [False, False, True]
    send(watched, draw(16, moved=1.5))
    until(lambda: value(watched, "kanserve_drift_psi_ratio", "0") > 2)
    assert value(watched, "kanserve_out_of_range_ratio", "0") > value(
        watched, "kanserve_baseline_out_of_range_ratio", "0"
    )
    assert value(watched, "kanserve_drift_psi_ratio", "output") >= 0


def test_answers_are_as_they_are_without_it(watched: Server) -> None:
    rows = draw(64)
    np.testing.assert_allclose(watched.infer(rows), toy_model.outputs(rows), rtol=1e-4, atol=1e-5)
    broken = rows.copy()
    broken[3, 1] = np.nan
    watched.infer(broken)
    until(lambda: value(watched, "kanserve_statistics_sampled_rows_total") >= 128)
    assert latest(watched).nodes[0].nonfinite.tolist() == [0, 1, 0]


def test_a_version_that_goes_takes_its_series_with_it(watched: Server, tmp_path: Path) -> None:
    send(watched, draw(64))
    until(lambda: value(watched, "kanserve_drift_psi_ratio", "0") >= 0)
    shutil.copytree(tmp_path / "toy" / "1", tmp_path / "toy" / ".2")
    toy_model.edit(tmp_path / "toy" / ".2", version=2)
    (tmp_path / "toy" / ".2").rename(tmp_path / "toy" / "2")
    with Client(watched.address) as client:
        until(lambda: client.describe("toy").version == "2")
    assert latest(watched).row_count == 0
    until(lambda: 'layer="0",model="toy",version="1"' not in watched.metrics())
    send(watched, draw(32))
    until(lambda: latest(watched).row_count >= 32)


def test_only_so_many_rows_a_second_are_taken(tmp_path: Path) -> None:
    toy_model.edit(toy_model.write(tmp_path), baseline=seen(TRAIN))
    with serving(tmp_path, statistics_rows_per_second=50) as server:
        begun = time.monotonic()
        for _ in range(40):
            server.infer(draw(16))
        until(lambda: value(server, "kanserve_statistics_sampled_rows_total") > 0)
        time.sleep(2 * traffic_sampler.PAUSE)
        taken, seconds = value(server, "kanserve_statistics_sampled_rows_total"), time.monotonic() - begun
        assert taken <= 50 * (1 + seconds) + 16
        assert latest(server).rows_seen == 640


def test_a_model_without_a_baseline_is_looked_into_all_the_same(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path) as server, Client(server.address) as client:
        server.infer(draw(64))
        until(lambda: value(server, "kanserve_statistics_sampled_rows_total") >= 64)
        result = client.statistics("toy")
        assert (result.source, result.row_count, result.rows_seen, result.baseline_rows) == ("total", 64, 64, 0)
        assert [len(part.psi) for part in result.nodes] == [0, 0, 0]
        assert "kanserve_drift_psi_ratio{" not in server.metrics()  # what would be normal is not known
        with pytest.raises(NotSupported) as caught:
            client.drift(client.describe("toy"))
        assert caught.value.error_code == "baseline-missing"
        assert "--baseline FILE" in caught.value.hint


def watching(how: Any, rate: float, pool: ThreadPoolExecutor) -> traffic_sampler.TrafficSampler:
    """Create a traffic sampler for the toy model without a server."""
    manifest = toy_model.manifest("toy")
    info = ModelInfo("toy", 1, 64, verify.tensors(manifest.inputs), verify.tensors(manifest.outputs), "", manifest)
    return traffic_sampler.TrafficSampler(info, Nodes(manifest, run), how, rate, pool, Metrics())


def test_what_waits_is_bounded_where_the_thread_gets_no_turn() -> None:
    """Nothing is handed to it before it is done with what came before, and what is too much is not counted."""
    held, count = threading.Event(), 4 * traffic_sampler.FULL_WAIT

    def slow(names: Any, rows: Any) -> list[Array]:
        held.wait(SECONDS)
        return run(names, rows)

    async def offered(pool: ThreadPoolExecutor) -> int:
        item = watching(slow, math.inf, pool)
        copies = 0

        def copy() -> Any:
            nonlocal copies
            copies += 1
            return {"x": np.zeros((1, 3), np.float32)}, []

        for _ in range(3):
            for _ in range(count // 3):
                item.offer(["y"], 20, copy)
            await asyncio.sleep(2 * traffic_sampler.PAUSE)
        held.set()
        until(lambda: item.counted(lately=False).rows == copies)
        return copies

    with ThreadPoolExecutor(1) as pool:
        assert asyncio.run(offered(pool)) <= traffic_sampler.FULL_WAIT


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


def test_the_thread_has_the_priority_of_the_event_loop(watched: Server) -> None:
    """The loop waits while the thread has the interpreter lock."""
    send(watched, draw(16))
    until(lambda: value(watched, "kanserve_statistics_sampled_rows_total") >= 16)
    niceness = {
        (task / "comm").read_text().strip(): os.getpriority(os.PRIO_PROCESS, int(task.name))
        for task in Path(f"/proc/{watched.process.pid}/task").iterdir()
    }
    assert niceness[STATISTICS] == os.getpriority(os.PRIO_PROCESS, watched.process.pid)


def test_a_clock_that_went_back_does_not_keep_anybody_from_counting_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as pool:
        item = watching(run, 10.0, pool)
        first = item.anew()
        monkeypatch.setattr(traffic_sampler.time, "time", lambda: first - 3600)
        item._take({"x": draw(5)})
        assert item.counted(lately=False).rows == 5
        assert item.anew() > first
        assert item.counted(lately=False).rows == 0
        item._take({"x": draw(3)})
        item.reset(first)  # an order that comes late
        assert item.counted(lately=False).rows == 3


@full("combination")
def test_the_page_of_a_large_model_is_small(tmp_path: Path) -> None:
    """A model [784, 64, 10] with a baseline, classes and traffic has no metric series per node."""
    state = checkpoint(tmp_path / "large.safetensors", (784, 64, 10))
    rows = RNG.uniform(-0.9, 0.9, (200, 784)).astype(np.float32)
    np.save(tmp_path / "train.npy", rows)
    arguments = ("--baseline", tmp_path / "train.npy", "--classes", ",".join(f"digit {at}" for at in range(10)))
    program("export", state, "--repository", tmp_path / "models", "--name", "large", *arguments)
    with serving(tmp_path / "models") as server, Client(server.address) as client:
        server.infer(rows[:64], "large")
        until(lambda: 'class="digit 0",model="large"' in server.metrics())
        until(lambda: client.drift(client.describe("large")).row_count == 64)
        until(lambda: float(re.findall(r'^kanserve_drift_psi_ratio{layer="0".* (\S+)$', server.metrics(), re.M)[0]) > 0)
        page = server.metrics()
    print(f"{len(page)} bytes")
    assert len(page) < 150_000
