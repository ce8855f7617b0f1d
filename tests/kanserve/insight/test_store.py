"""The statistics store: counts survive restarts and add up over workers; effects of an unusable folder."""

import dataclasses
import json
import os
import signal
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.shared.manifest import Manifest
from kanserve.client.statistics import Statistics
from kanserve.client.sync import Client
from kanserve.insight import store
from kanserve.insight.statistics import NodeCounts, Nodes
from kanserve.insight.store import ModelStatisticsFile, StatisticsStore, StoredStatistics
from kanserve.types import ModelInfo
from tests.kanserve.analysis.test_drift import seen
from tests.kanserve.server.test_supervisor import OWN, pids
from tests.support import toy_model
from tests.support.reload_tools import TRAIN, draw, run
from tests.support.server_process import INFERENCE, Server, request, serving
from tests.support.tiers import full
from tests.support.wait import until

FILE = "statistics/toy/1/0.tally"
DIGEST = "d" * 64


def nodes(manifest: Manifest | None = None) -> Nodes:
    return Nodes(manifest or toy_model.manifest("toy"), run)


def open_file(
    folder: Path, number: int = 0, workers: int = 1, digest: str = DIGEST, own: Nodes | None = None
) -> ModelStatisticsFile:
    info = ModelInfo("toy", 1, 64, (), (), digest)
    return StatisticsStore(folder, number, workers).open_file(info, own or nodes())


def kept(rows: np.ndarray, mark: float = 0.0) -> StoredStatistics:
    item = nodes()
    tally = item.count(run, {"x": rows.astype(np.float32)})
    return StoredStatistics(mark, 100.0 + mark, len(rows), 2.5, tally, item.empty() if len(rows) < 5 else tally)


def same(entry: NodeCounts, other: NodeCounts) -> None:
    assert entry.rows == other.rows
    assert entry.classes.tolist() == other.classes.tolist()
    for mine, its in zip(entry.windows, other.windows, strict=True):
        for name in store.ARRAYS:
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))


@settings(max_examples=settings.default.max_examples // 10)
@given(st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_what_is_written_is_read_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, count: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("kept")
    rows = np.random.default_rng(seed).normal(0, 3, (count, 3))
    rows[rows > 4] = np.nan
    given_ = kept(rows)
    open_file(folder).write(given_)
    result = open_file(folder).own()
    assert result is not None
    same(result.total, given_.total)
    same(result.recent, given_.recent)
    assert dataclasses.replace(result, total=given_.total, recent=given_.recent) == given_
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["0.tally"]  # nothing half-written
    raw = 2 * sum(array.nbytes for array in store._arrays(nodes().empty()))
    assert (folder / FILE).stat().st_size < raw + store.HEAD


def test_processes_add_up_and_who_is_gone_has_nothing_recent(tmp_path: Path) -> None:
    parts = [draw(count) for count in (10, 20, 30)]
    for number, rows in enumerate(parts):
        open_file(tmp_path, number, 2).write(kept(rows))
    own = open_file(tmp_path, 0, 2)
    mine = own.own()
    assert mine is not None
    result = store.merged([mine, *own.others()])
    whole = nodes().count(run, {"x": np.concatenate(parts)})
    assert (result.total.rows, result.recent.rows, result.seen) == (60, 30, 60)
    for item, other in zip(result.total.windows, whole.windows, strict=True):
        np.testing.assert_array_equal(item.counts, other.counts)
        np.testing.assert_allclose(item.moments(), other.moments(), rtol=1e-9)
    assert result.total.classes.tolist() == whole.classes.tolist()


def test_what_was_begun_before_the_latest_reset_counts_no_more(tmp_path: Path) -> None:
    open_file(tmp_path, 0, 3).write(kept(draw(10)))
    open_file(tmp_path, 1, 3).write(kept(draw(20), mark=5.0))
    open_file(tmp_path, 2, 3).write(kept(draw(40), mark=5.0))
    own = open_file(tmp_path, 0, 3)
    assert own.mark() == 5.0
    result = store.merged([kept(draw(10)), *own.others()])
    assert (result.mark, result.total.rows, result.since) == (5.0, 60, 105.0)


def turned(data: bytes) -> bytes:
    """One byte of the numbers is another."""
    at = len(data) * 3 // 4
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def with_head(**changes: Any) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        head, _, body = data.partition(b"\n")
        return json.dumps(json.loads(head) | changes).encode() + b"\n" + body

    return changed


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the log. The destination of other loggers depends on the tests before."""
    lines: list[str] = []
    log = dict.fromkeys(("info", "warning", "error"), lambda event, **facts: lines.append(event))
    monkeypatch.setattr(store, "log", types.SimpleNamespace(**log))
    return lines


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda data: data[: len(data) // 2],
    "a bit": turned,
    "empty": lambda data: b"",
    "noise": lambda data: os.urandom(5000),
    "another program's": lambda data: b"[1, 2]\n" + data,
    "a later form": with_head(format=99),
    "other cells": with_head(cells="0"),
    "more rows": with_head(numbers=[0.0, 100.0, 7, 2.5, 8, 7]),
    "no numbers": with_head(numbers="many"),
    "a bomb": lambda data: data.partition(b"\n")[0] + b"\n" + zlib.compress(bytes(10**8)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_ours_is_left_out_and_told_once(tmp_path: Path, damage: str, said: list[str]) -> None:
    open_file(tmp_path, 1, 2).write(kept(draw(9)))
    open_file(tmp_path, 0, 2).write(kept(draw(7)))
    path = tmp_path / FILE
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    item = open_file(tmp_path, 0, 2)
    for _ in range(3):
        assert item.own() is None
        assert [other.total.rows for other in item.others()] == [9]
    assert said == ["statistics_read_failed"]
    item.write(kept(draw(3)))
    assert item.own() is not None


def test_of_another_graph_there_is_nothing(tmp_path: Path, said: list[str]) -> None:
    open_file(tmp_path).write(kept(draw(7)))
    assert open_file(tmp_path, digest="e" * 64).own() is None
    assert not said  # a version may be replaced


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("no folder, and no user can create one here")
    item = open_file(tmp_path / "file")
    for _ in range(3):
        item.write(kept(draw(3)))
        assert (item.own(), item.others(), item.mark()) == (None, [], 0.0)
    assert said == ["statistics_write_failed"]


def test_a_disk_that_is_full_costs_the_keeping_alone(tmp_path: Path) -> None:
    """/dev/full rejects every byte; the server keeps running, logs it once, and exits with 0."""
    toy_model.write(tmp_path / "models")
    state = tmp_path / "state"
    (state / "statistics").mkdir(parents=True)
    (state / "statistics" / "toy").symlink_to("/dev/full")
    with serving(tmp_path / "models", state_dir=str(state)) as server, Client(server.address) as client:
        for count in (8, 16):
            server.infer(draw(8))
            until(lambda count=count: client.statistics("toy").row_count == count)
            until(lambda: told(server) == 1)
        assert client.reset_statistics("toy")
        assert server.stop() == 0
        assert told(server) == 1


def told(server: Server) -> int:
    return sum(line["event"] in ("statistics_read_failed", "statistics_write_failed") for line in server.lines())


def statistics(server: Server, source: str = "total") -> Statistics:
    """From whichever worker takes the connection."""
    with Client(server.address) as client:
        return client.statistics("toy", source=source)


def test_counting_goes_on_after_a_restart(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path / "models")
    toy_model.edit(directory, baseline=seen(TRAIN))
    state = {"state_dir": str(tmp_path / "state")}
    with serving(tmp_path / "models", **state) as server:
        server.infer(draw(40))
        until(lambda: statistics(server).row_count == 40)
        before = statistics(server)
        assert server.stop() == 0
    with serving(tmp_path / "models", **state) as server:
        result = statistics(server)
        assert (result.row_count, result.rows_seen, result.since) == (40, 40, before.since)
        assert result.seconds >= before.seconds
        assert statistics(server, "live").row_count == 0  # the latest rows are of this run
        for item, other in zip(result.nodes, before.nodes, strict=True):
            np.testing.assert_array_equal(np.concatenate(item.counts), np.concatenate(other.counts))
        server.infer(draw(8))
        until(lambda: statistics(server).row_count == 48)
        with Client(server.address) as client:
            client.reset_statistics("toy")
        assert server.stop() == 0
    toy_model.edit(directory, notes=("other words, the same graph",))
    with serving(tmp_path / "models", **state) as server:
        assert statistics(server).row_count == 0
        server.infer(draw(4))
        until(lambda: statistics(server).row_count == 4)
        server.process.kill()
        server.process.wait()


def spread(server: Server, times: int) -> None:
    """Requests of three rows, each on a separate connection."""
    data = request(draw(3)).SerializeToString()
    for _ in range(times):
        with grpc.insecure_channel(server.address, OWN) as channel:
            channel.unary_unary(f"{INFERENCE}ModelInfer")(data, timeout=60)


@pytest.fixture(params=[True, pytest.param(False, marks=full("combination"))], ids=["a folder", "none"])
def several(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    toy_model.write(tmp_path / "models")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # for the folder of a server without one
    given_ = {"state_dir": str(tmp_path / "state")} if request.param else {}
    # All rows: of samples a machine with other work looks at fewer.
    with serving(tmp_path / "models", workers=2, threads=2, statistics="full", **given_) as server:
        yield server


def written(folder: Path) -> int:
    """Rows in the files of all workers."""
    heads = [path.read_bytes().partition(b"\n")[0] for path in folder.rglob("*.tally")]
    return sum(json.loads(head)["numbers"][4] for head in heads)


def agreed(server: Server, rows: int) -> Statistics:
    """The statistics, once six responses in a row have all rows: a worker reads what the other has written."""

    def latest() -> Statistics | None:
        results = [statistics(server) for _ in range(6)]
        return results[-1] if all(result.row_count == rows for result in results) else None

    result = until(latest)
    assert result is not None
    return result


def test_workers_respond_as_one(several: Server) -> None:
    rows = 120
    spread(several, 40)
    while (result := agreed(several, rows)).processes < 2 and rows < 4800:  # the kernel deals out connections
        spread(several, 40)
        rows += 120
    assert (result.rows_seen, result.processes) == (rows, 2)
    assert all(int(counts.sum()) == rows for part in result.nodes for counts in part.counts)
    until(lambda: 120 <= statistics(several, "live").row_count <= rows)
    with Client(several.address) as client:
        client.reset_statistics("toy")
    until(lambda: sum(line["event"] == "statistics_reset" for line in several.lines()) == 2)  # each worker knows of it
    agreed(several, 0)
    spread(several, 10)
    agreed(several, 30)


@full("load")
@pytest.mark.parametrize("several", [False], ids=["none"], indirect=True)
def test_who_takes_the_place_of_a_killed_worker_goes_on_with_what_it_kept(several: Server, tmp_path: Path) -> None:
    spread(several, 20)
    until(lambda: written(tmp_path) == 60)  # what a worker has counted since it last wrote goes with it
    first, *_ = before = pids(several)
    os.kill(first, signal.SIGKILL)
    until(lambda: len(pids(several)) == 2 and pids(several) != before)
    until(lambda: "kanserve_workers 2" in several.metrics())
    until(lambda: statistics(several).row_count == 60)
    spread(several, 10)
    agreed(several, 90)
