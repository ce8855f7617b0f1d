"""Batches of requests with one head: they run together, and some must take the regular path."""

import asyncio
import contextlib
import time
import types
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kanserve.execution.config import ExecutionPlan, Serving
from kanserve.execution.executor import CALM, PROBE, Executor, Limits
from kanserve.grpc_api.hot_path import batch
from kanserve.grpc_api.hot_path.batch import LONGEST, Batches, Result
from kanserve.grpc_api.hot_path.heads import Head
from kanserve.observability.metrics import Metrics
from kanserve.scheduling.queue import Policy, PriorityLevel
from tests.kanserve.execution.test_executor import Graph
from tests.support.wait import turns


def executor(
    graph: Any, policy: Policy | None = None, way: ExecutionPlan | None = None, most: int = 256, rounds: int = 1
) -> Executor:
    serving = Serving(policy or Policy(64), way or ExecutionPlan(1, 1024), most, rounds=rounds)
    return Executor("m", graph, Metrics().model("m", "1"), serving, 2**20)


def runs(lane: Batches) -> list[int]:
    """Rows of each run of the graph."""
    return lane._executor._execute.runs


def row(value: float) -> list[bytes]:
    return [np.full(2, value, "<f4").tobytes()]


class Counted:
    """The counters of a model: batches, and requests whose client has disconnected."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gone = 0
        self.statistics = self

    def answered(self, rows: int, timing: object, waited: object, took: Sequence[float]) -> None:
        self.batches.append(len(took))

    def failed(self, waited: int, reason: object) -> None:
        self.gone += 1


def head(metrics: Counted) -> Head:
    """The head of requests of one row; its responses are the bytes of the output."""
    model = types.SimpleNamespace(metrics=metrics, observed=False, range_guard=None)
    ready: Any = types.SimpleNamespace(rows=1, model=model)
    return Head(ready, [("x", np.dtype("<f4"), (1, 2), 8)], [("y", (1, 2), 8)], b"", b"", [b""], {})


def submitted(lane: Batches, value: float, deadline: float | None = None) -> asyncio.Future[Result | None]:
    result = lane.submit(row(value), b"", deadline)
    assert result is not None
    return result


def value(answer: Result | None) -> float:
    assert answer is not None
    item, queue_ns, infer_ns = answer
    assert queue_ns >= 0 < infer_ns
    assert len(item) == 8
    return float(np.frombuffer(item, "<f4")[0])


@contextlib.asynccontextmanager
async def on(**options: Any) -> AsyncIterator[Batches]:
    """The batches of an executor of a Graph."""
    created = executor(**{"graph": Graph(), **options})
    assert created.inline(1)
    account: Any = None  # no call is native
    yield Batches(head(Counted()), created, account)
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
        assert sorted(lane._executor._metrics.statistics.batches) == [1, 9, 10]


@pytest.mark.parametrize(("rounds", "expected"), [(1, [1] * 6), (2, [1] * 6), (4, [6])])
async def test_those_that_a_transport_hands_over_one_by_one_run_together_where_it_is_waited_for_them(
    rounds: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LONGEST", 10**10)  # only rounds count, if the machine pauses this process
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
    monkeypatch.setattr(batch, "time", types.SimpleNamespace(perf_counter_ns=lambda: next(now)))
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
        assert lane._executor._metrics.statistics.execution_count == 0


async def test_who_gave_up_is_not_computed() -> None:
    async with on() as lane:
        late, gone = submitted(lane, 1, time.monotonic() - 1), submitted(lane, 2)
        in_time = submitted(lane, 3, time.monotonic() + 600)
        gone.cancel()
        assert value(await in_time) == 6.0
        assert await late is None
        assert runs(lane) == [1]
        await asyncio.sleep(0)
        counted = lane._head.ready.model.metrics
        assert (counted.gone, counted.batches) == (1, [1])


async def test_what_waits_goes_first() -> None:
    async with on() as lane:
        before = asyncio.create_task(lane._executor.run(["y"], {"x": np.ones((1, 2), "<f4")}, 1, Limits()))
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
    assert not created.inline(1)
    await asyncio.to_thread(created.close)


@pytest.mark.parametrize("policy", [Policy(0), Policy(2)])
async def test_no_run_has_more_rows_than_the_policy_allows(policy: Policy) -> None:
    async with on(policy=policy) as lane:
        answers = await asyncio.gather(*(submitted(lane, at) for at in range(5)))
        assert [value(answer) for answer in answers] == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert max(runs(lane)) <= max(1, policy.max_rows)
