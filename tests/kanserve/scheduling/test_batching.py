"""The fast path of batching: same-shape requests run as one, and requests that must take the regular path."""

from __future__ import annotations

import asyncio
import contextlib
import time
import types
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.execution.config import ExecutionPlan, Serving
from kanserve.execution.executor import CALM, PROBE, Executor, Limits
from kanserve.observability.metrics import Metrics
from kanserve.scheduling import batching
from kanserve.scheduling.batching import LONGEST, Batch, FastBatch, FastJob, FastPath, FastResult, RequestSignature
from kanserve.scheduling.queue import Policy, PriorityLevel
from tests.kanserve.execution.test_executor import Graph
from tests.support.wait import turns

FORM = RequestSignature((("x", np.dtype("<f4"), (2,), 8),), (("y", (2,), 8),), 1)


def executor(
    graph: Any, policy: Policy | None = None, way: ExecutionPlan | None = None, most: int = 256, rounds: int = 1
) -> Executor:
    serving = Serving(policy or Policy(64), way or ExecutionPlan(1, 1024), most, rounds=rounds)
    return Executor("m", graph, Metrics().model("m", "1"), serving, 2**20)


def runs(lane: FastPath) -> list[int]:
    """Rows of each run of the graph."""
    return lane._engine._execute.runs


def row(value: float) -> list[bytes]:
    return [np.full(2, value, "<f4").tobytes()]


class Recipient:
    """Responds with the output bytes, and notes what it counts."""

    def __init__(self) -> None:
        self.batches: list[FastBatch] = []
        self.gone: list[bytes] = []
        self.left = 0

    def responses(self, jobs: Sequence[FastJob], outputs: Sequence[bytes]) -> list[bytes]:
        return [outputs[0][8 * at : 8 * at + 8] for at in range(len(jobs))]

    def answered(self, batch: FastBatch) -> None:
        self.batches.append(batch)

    def abandoned(self, waited: int, size: int, named: bytes, deadline: float | None) -> None:
        self.gone.append(named)

    def room(self) -> int:
        return 1

    def began(self, calls: int, size: int) -> None:
        raise AssertionError("no call is direct")

    def moved(self, calls: int, size: int) -> None:
        self.left += calls


def submitted(lane: FastPath, value: float, deadline: float | None = None) -> asyncio.Future[FastResult | None]:
    result = lane.submit(row(value), b"", deadline)
    assert result is not None
    return result


def value(answer: FastResult | None) -> float:
    assert answer is not None
    item, queue_ns, infer_ns = answer
    assert queue_ns >= 0 < infer_ns
    assert len(item) == 8
    return float(np.frombuffer(item, "<f4")[0])


@contextlib.asynccontextmanager
async def on(**options: Any) -> AsyncIterator[FastPath]:
    """The fast path of an executor of a Graph."""
    created = executor(**{"graph": Graph(), **options})
    lane = created.fast_path(FORM, Recipient())
    assert lane is not None
    yield lane
    assert created._metrics.statistics.pending == 0
    await asyncio.to_thread(created.close)


async def test_who_comes_alone_is_answered_at_once_but_for_a_look_now_and_then() -> None:
    async with on() as lane:
        at_once = []
        for at in range(CALM + 4 * PROBE):
            future = submitted(lane, at)
            at_once.append(future.done())
            assert value(await future) == 2.0 * at
            await asyncio.sleep(0)  # a response is counted after it is sent
        assert not any(at_once[:CALM])
        assert at_once.count(False) == CALM + 4


async def test_requests_that_arrive_together_after_single_ones_run_together() -> None:
    async with on() as lane:
        for at in range(CALM + 1):
            await submitted(lane, at)
            await asyncio.sleep(0)
        runs(lane).clear()
        await asyncio.gather(*(submitted(lane, at) for at in range(10)))
        await asyncio.sleep(0)
        assert runs(lane) == [1, 9]
        await asyncio.gather(*(submitted(lane, at) for at in range(10)))
        assert runs(lane) == [1, 9, 10]
        assert sorted(lane._engine._metrics.statistics.batches) == [1, 9, 10]


@pytest.mark.parametrize(("rounds", "expected"), [(1, [1] * 6), (2, [1] * 6), (4, [6])])
async def test_those_that_a_transport_hands_over_one_by_one_run_together_where_it_is_waited_for_them(
    rounds: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "LONGEST", 10**10)  # only rounds count, if the machine pauses this process
    async with on(rounds=rounds) as lane:
        answers = []
        for at in range(6):  # one in three rounds of the loop
            answers.append(submitted(lane, at))
            await turns(3)
        assert [value(answer) for answer in await asyncio.gather(*answers)] == [2.0 * at for at in range(6)]
        assert runs(lane) == expected


async def test_the_first_does_not_wait_for_ever_for_those_that_come_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(range(0, 100 * LONGEST, LONGEST // 8))  # the time when the path looks at its clock
    monkeypatch.setattr(batching, "time", types.SimpleNamespace(perf_counter_ns=lambda: next(now)))
    async with on(rounds=1000) as lane:
        first = submitted(lane, 0)
        while not first.done():
            submitted(lane, 1)
            await asyncio.sleep(0)
        assert 1 < runs(lane)[0] < 8


@pytest.mark.parametrize("wrong", [False, True], ids=["refused", "of another shape"])
async def test_a_run_that_fails_gives_nothing_and_the_others_are_asked_again(wrong: bool) -> None:
    def graph(outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if wrong:
            return [feeds["x"][:, :1]]
        raise ZeroDivisionError

    async with on(graph=graph) as lane:
        assert await asyncio.gather(*(submitted(lane, at) for at in range(3))) == [None, None, None]
        assert lane._engine._metrics.statistics.execution_count == 0


async def test_who_gave_up_is_not_computed() -> None:
    async with on() as lane:
        late, gone = submitted(lane, 1, time.monotonic() - 1), submitted(lane, 2)
        in_time = submitted(lane, 3, time.monotonic() + 600)
        gone.cancel()
        assert value(await in_time) == 6.0
        assert await late is None
        assert runs(lane) == [1]
        recipient = lane._recipient
        assert isinstance(recipient, Recipient)
        await asyncio.sleep(0)
        assert recipient.gone == [b""]
        assert recipient.left == 0
        assert [len(batch.arrived) for batch in recipient.batches] == [1]


async def test_what_waits_goes_first() -> None:
    async with on() as lane:
        before = asyncio.create_task(lane._engine.run(["y"], {"x": np.ones((1, 2), "<f4")}, 1, Limits()))
        await asyncio.sleep(0)
        assert lane.submit(row(1), b"", None) is None
        await before
        assert value(await submitted(lane, 1)) == 2.0


async def test_a_full_queue_is_full_for_all() -> None:
    async with on(most=3) as lane:
        first = [submitted(lane, at) for at in range(3)]
        assert lane.submit(row(9), b"", None) is None
        assert [value(answer) for answer in await asyncio.gather(*first)] == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("policy", "way"),
    [
        (Policy(64, delay=0.1), ExecutionPlan(1, 1024)),
        (Policy(64, preferred=(8,)), ExecutionPlan(1, 1024)),
        (Policy(64, ordered=True), ExecutionPlan(1, 1024)),
        (Policy(64, levels=(PriorityLevel(), PriorityLevel())), ExecutionPlan(1, 1024)),
        (Policy(64, levels=(PriorityLevel(timeout=60.0),)), ExecutionPlan(1, 1024)),
        (Policy(64), ExecutionPlan(1, 0)),
    ],
    ids=["delay", "preferred", "ordered", "priorities", "timeout", "on threads"],
)
async def test_where_there_is_something_to_decide_there_is_no_short_way(policy: Policy, way: ExecutionPlan) -> None:
    created = executor(Graph(), policy, way)
    assert created.fast_path(FORM, Recipient()) is None
    await asyncio.to_thread(created.close)


@pytest.mark.parametrize("policy", [Policy(0), Policy(2)])
async def test_no_run_has_more_rows_than_the_policy_allows(policy: Policy) -> None:
    async with on(policy=policy) as lane:
        answers = await asyncio.gather(*(submitted(lane, at) for at in range(5)))
        assert [value(answer) for answer in answers] == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert max(runs(lane)) <= max(1, policy.max_rows)


@settings(max_examples=settings.default.max_examples // 5)
@given(rows=st.integers(0, 3000), piece=st.integers(0, 300))
def test_pieces_are_about_equal(rows: int, piece: int) -> None:
    seen: list[int] = []

    def execute(_: object, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(len(feeds["x"]))
        return [feeds["x"]]

    x = np.arange(float(rows))[:, None]
    batch = Batch(execute, ["y"], [{"x": x}], rows, piece)
    batch.work()
    assert batch.error is None
    assert batch.result[0].tolist() == x.tolist()
    assert (len(seen), sum(seen)) == (batch.pieces, rows)
    assert max(seen) - min(seen) <= 1
    assert max(seen) <= (piece or rows) or rows <= piece
    if piece >= 16 and rows > 1:
        assert min(seen) >= min(rows, 8)


@settings(max_examples=settings.default.max_examples // 5)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_outputs_go_back_to_whom_they_belong(rows: list[int]) -> None:
    feeds = [{"x": np.full((count, 2), at, np.float32)} for at, count in enumerate(rows)]
    joined = batching.joined(feeds)["x"]
    assert len(joined) == sum(rows)
    for feed, (answer,) in zip(feeds, batching.split([joined], rows), strict=True):
        np.testing.assert_array_equal(answer, feed["x"])


@settings(max_examples=settings.default.max_examples // 5)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 39), st.integers(1, 20))
def test_a_piece_begins_where_the_runtime_reads_it_as_it_reads_a_whole(
    rows: int, width: int, start: int, count: int
) -> None:
    x = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    piece = batching.select_rows({"x": x}, start, start + count)["x"]
    np.testing.assert_array_equal(piece, x[start : start + count])
    assert piece.size == 0 or (piece.ctypes.data - x.ctypes.data) % batching.ALIGNED == 0 or piece.base is None
