"""Streamed and reset statistics: intervals, durations, and ends of a stream."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.auth import token_file
from kanserve.client.errors import InvalidInput, NotFound, NotSupported, RateLimited, Unavailable
from kanserve.client.statistics import Update
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2
from kanserve.services import statistics
from tests.support import credentials, toy_model
from tests.support.bad_requests import refused
from tests.support.http_client import served
from tests.support.reload_tools import draw, value
from tests.support.server_process import KAN, Server, serving
from tests.support.tiers import full
from tests.support.wait import turns, until

server = served(max_watch_streams=2)


def replace(root: Path, version: int = 2) -> None:
    """By another version, or by other content of the first."""
    shutil.copytree(root / "toy" / "1", root / ".new")
    toy_model.edit(root / ".new", version=version, notes=("another",))
    if version == 1:
        shutil.rmtree(root / "toy" / "1")
    (root / ".new").rename(root / "toy" / str(version))


class Watching(threading.Thread):
    """One who watches until that ends."""

    def __init__(self, server: Server, version: str = "", **how: Any) -> None:
        super().__init__(daemon=True)
        self.updates: list[Update] = []
        self._server, self._version, self._how = server, version, how
        self.start()
        until(lambda: bool(self.updates))

    def run(self) -> None:
        with Client(self._server.address) as client:
            for update in client.watch_statistics("toy", self._version, **self._how):
                self.updates.append(update)

    def ended(self) -> str:
        self.join(60)
        assert not self.is_alive()
        assert not any(item.end_reason for item in self.updates[:-1])
        return self.updates[-1].end_reason


def test_updates_come_as_often_and_as_many_as_asked(server: Server) -> None:
    watching = Watching(server, interval=1.0, updates=3)
    with Client(server.address) as client:
        client.reset_statistics("toy")
        others = client.watch_statistics("toy", interval=1.0)
        assert next(others).statistics.row_count == 0
        server.infer(draw(48))
        until(lambda: next(others).statistics.row_count == 48)
        others.close()
    assert watching.ended() == "the watch has sent 3 updates"
    assert len(watching.updates) == 3
    first, *_, last = (update.statistics.seconds for update in watching.updates)
    assert last - first >= 2.0 - statistics.FRESH


@pytest.mark.parametrize(
    ("version", "query", "words"),
    [
        (2, "", "version 1 is no longer served; the default version is 2"),
        pytest.param(2, "1", "version 1 is no longer served; the default version is 2", marks=full("combination")),
        (1, "", "version 1 was replaced by another one with this number"),
    ],
)
def test_a_replaced_version_says_so_with_its_last_numbers(tmp_path: Path, version: int, query: str, words: str) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, repository_poll_seconds=0.1, version_policy="latest:1") as server:
        server.infer(draw(32))
        until(lambda: value(server, "kanserve_statistics_sampled_rows_total") >= 32)
        watching = Watching(server, query, interval=3600.0)
        replace(tmp_path, version)
        until(lambda: bool(watching.updates[-1].end_reason))
        assert watching.ended() == words or (version, watching.ended()) == (2, "the default version is 2")
        last = watching.updates[-1].statistics
        assert (last.version, last.row_count) == ("1", 32)
        with Client(server.address) as client:
            until(lambda: client.statistics("toy").row_count == 0)  # the new one begins anew
            if version == 2:
                with pytest.raises((NotFound, Unavailable)) as caught:
                    until(lambda: client.statistics("toy", "1") is None)
                assert caught.value.hint == "send version 2, the default version of model 'toy', or no version"


def test_who_watches_by_no_version_is_told_of_another_that_responds(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    toy_model.write(tmp_path, version=2)
    with serving(tmp_path) as server:
        watching, other = Watching(server, interval=3600.0), Watching(server, "2", interval=3600.0)
        message = kan_pb2.PromoteModelRequest(model_name="toy", model_version="1")
        server.call(f"{KAN}PromoteModel", message.SerializeToString())
        assert watching.ended() == "the default version is 1"
        assert other.is_alive()
        server.process.terminate()
        assert other.ended() == "the server is shutting down"
        assert server.process.wait(60) == 0


def test_a_caller_who_goes_makes_room(server: Server) -> None:
    with Client(server.address) as client:
        watches = [client.watch_statistics("toy") for _ in range(3)]
        assert [next(item).end_reason for item in watches[:2]] == ["", ""]
        with pytest.raises(RateLimited, match="2 watches of statistics are open"):
            next(watches[2])
        watches[0].close()
        until(lambda: room(client))
        watches[1].close()


def room(client: Client) -> bool:
    item = client.watch_statistics("toy")
    try:
        return not next(item).end_reason
    except RateLimited:
        return False
    finally:
        item.close()


def test_a_deadline_ends_it_as_any_call(server: Server) -> None:
    message = kan_pb2.WatchStatisticsRequest(model_name="toy").SerializeToString()
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        list(server.channel.unary_stream(f"{KAN}WatchStatistics")(message, timeout=1 / 2))


def test_what_cannot_be_watched_is_refused_in_words(server: Server) -> None:
    for how, kind, words in (
        ({"interval": 0.1}, InvalidInput, "interval is 0.1 seconds, expected 1 to 3600"),
        ({"interval": float("nan")}, InvalidInput, "nan seconds"),
        ({"updates": 20_000}, InvalidInput, "updates is 20000, expected at most 10000"),
        ({"source": "ever"}, InvalidInput, "unknown source 'ever', expected 'live' or 'total'"),
        ({"version": "7"}, NotFound, "version 7 is not found"),
    ):
        with Client(server.address) as client, pytest.raises(kind, match=words):
            next(client.watch_statistics("toy", **how))


def test_statistics_that_are_off_are_neither_watched_nor_reset(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, statistics="off") as server, Client(server.address) as client:
        for ask in (client.statistics, client.reset_statistics, lambda name: next(client.watch_statistics(name))):
            with pytest.raises(NotSupported, match="statistics is off"):
                ask("toy")


def test_full_looks_at_every_row_and_counts_the_largest_outputs(tmp_path: Path) -> None:
    names = toy_model.manifest("toy").names
    toy_model.edit(toy_model.write(tmp_path), names=type(names)(classes=("cat", "dog")))
    rows = draw(60)
    rows[7, 0] = np.nan
    expected = np.bincount(toy_model.outputs(np.delete(rows, 7, axis=0)).argmax(axis=1), minlength=2).tolist()
    with serving(tmp_path, statistics="full", statistics_rows_per_second=1) as server, Client(server.address) as client:
        server.infer(rows)
        until(lambda: client.statistics("toy").row_count == 60)
        assert client.statistics("toy").classes.tolist() == expected
        for name, count in zip(("cat", "dog"), expected, strict=True):
            line = f'kanserve_statistics_class_rows_total{{class="{name}",model="toy",version="1"}} {float(count)}'
            assert line in server.metrics()
        for _ in range(40):
            server.infer(draw(64))
        until(lambda: client.statistics("toy").row_count == 60 + 40 * 64)


def test_one_caller_has_a_quarter_of_all_watches(tmp_path: Path) -> None:
    toy_model.write(tmp_path / "models")
    mine, other = token_file.make(), token_file.make()
    blocks = [credentials.block(name, token, "infer", "interpret") for name, token in (("me", mine), ("other", other))]
    credentials.save_tokens(tmp_path / "tokens", "\n".join(blocks))
    requested = kan_pb2.WatchStatisticsRequest(model_name="toy").SerializeToString()
    with serving(tmp_path / "models", tokens=str(tmp_path / "tokens"), max_watch_streams=8) as item:
        watch = item.channel.unary_stream(f"{KAN}WatchStatistics")
        of = {token: (("authorization", f"Bearer {token}"),) for token in (mine, other)}
        calls = [watch(requested, timeout=60, metadata=of[mine]) for _ in range(2)]
        assert all(next(call) for call in calls)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "me has 2 open watches of statistics"):
            next(watch(requested, timeout=60, metadata=of[mine]))
        assert next(watch(requested, timeout=60, metadata=of[other]))


class Counter:
    """Statistics that count how often they are counted, once they may."""

    def __init__(self) -> None:
        self.times, self.go = 0, threading.Event()

    def counted(self, *, lately: bool) -> int:
        self.go.wait(600)
        self.times += 1
        return self.times


async def test_all_who_watch_the_same_have_it_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    live: Any = Counter()
    monkeypatch.setattr(statistics, "FRESH", 1000.0)  # longer than a busy machine needs for this test
    shared = statistics._Counted()
    watching = [asyncio.ensure_future(shared.latest(live, "")) for _ in range(64)]
    await turns()
    live.go.set()
    assert set(await asyncio.gather(*watching)) == {1}
    gone = asyncio.ensure_future(shared.latest(live, ""))
    await asyncio.sleep(0)
    gone.cancel()  # a client that leaves does not end the others' watch
    assert await shared.latest(live, "") == 1
    shared.at -= statistics.FRESH
    assert await shared.latest(live, "") == 2
