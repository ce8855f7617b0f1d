"""The executor without a model: scheduling, instances, and the outcome of each request in a batch."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kanserve.errors import BackendError, DeadlineExceeded, QueueFull, QueueTimeout, ResourceExhausted
from kanserve.execution.config import ExecutionPlan, Serving
from kanserve.execution.executor import CALM, PROBE, Executor, Limits
from kanserve.observability.metrics import Metrics
from kanserve.scheduling.queue import Policy, PriorityLevel
from tests.support.wait import turns, until_async


class Graph:
    """Doubles its rows, slowly on request; rejects a run with a negative number in it."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        x = feeds["x"]
        self.runs.append(len(x))
        if (x < 0).any():
            raise BackendError("negative")
        return [2 * x for _ in outputs]


MADE: list[Executor] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().close()


def made(graph: Any, serving: Serving) -> Executor:
    """An executor, which is closed after the test."""
    MADE.append(Executor("m", graph, Metrics().model("m", "1"), serving, 2**20))
    return MADE[-1]


def executor(
    graph: Any, *, inline_rows: int = 1024, max_pending_requests: int = 256, policy: Policy | None = None
) -> Executor:
    return made(graph, Serving(policy or Policy(64), ExecutionPlan(1, inline_rows), max_pending_requests))


async def ask(on: Executor, value: float, rows: int = 1, limits: Limits | None = None) -> float:
    run = await on.run(["y"], {"x": np.full((rows, 2), value)}, rows, limits or Limits())
    assert run.outputs[0].shape == (rows, 2)
    return float(run.outputs[0][0, 0])


INLINE = pytest.mark.parametrize("inline_rows", [0, 1024], ids=["on a thread", "on the loop"])


async def test_a_burst_beyond_the_queue_is_served_while_it_arrives() -> None:
    on = executor(Graph(), max_pending_requests=70)
    assert await asyncio.gather(*(ask(on, at) for at in range(1000))) == [2.0 * at for at in range(1000)]


@INLINE
async def test_one_bad_row_does_not_fail_its_neighbours(inline_rows: int) -> None:
    on = executor(Graph(), inline_rows=inline_rows)
    good, bad, other = await asyncio.gather(*(ask(on, value) for value in (1, -1, 3)), return_exceptions=True)
    assert (good, other, type(bad)) == (2.0, 6.0, BackendError)
    assert on._metrics.statistics.pending == 0


@INLINE
async def test_a_batch_that_is_too_much_runs_one_by_one(inline_rows: int) -> None:
    def small(outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if len(feeds["x"]) > 1:
            raise ResourceExhausted("not enough memory")
        return [2 * feeds["x"]]

    on = executor(small, inline_rows=inline_rows)
    assert await asyncio.gather(*(ask(on, at) for at in range(20))) == [2.0 * at for at in range(20)]
    assert on._idle == 1


@INLINE
async def test_a_bug_reaches_every_caller(inline_rows: int) -> None:
    on = executor(lambda outputs, feeds: 1 / 0, inline_rows=inline_rows)
    errors = await asyncio.gather(*(ask(on, 1) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [ZeroDivisionError] * 3


async def test_a_full_queue_refuses_at_once_and_a_caller_that_left_makes_room() -> None:
    graph = Graph()
    on = executor(graph, max_pending_requests=2, policy=Policy(64, delay=30.0))
    waiting = [asyncio.create_task(ask(on, at)) for at in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await ask(on, 9)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    waiting.append(asyncio.create_task(ask(on, 3)))
    await turns()
    assert not graph.runs
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert on._metrics.statistics.pending == 0


async def test_a_delay_gathers_and_ends() -> None:
    graph = Graph()
    first = asyncio.create_task(ask(executor(graph, policy=Policy(64, delay=600.0)), 1))
    await turns()  # without a delay, it would run in one of these turns
    assert not graph.runs
    first.cancel()
    on = executor(graph, policy=Policy(64, delay=0.01))
    assert await asyncio.gather(ask(on, 1), ask(on, 2)) == [2.0, 4.0]
    assert graph.runs == [2]


class Gate:
    """A graph whose runs wait until they are let go, by the first number of their input."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self._events: dict[float, threading.Event] = {}

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        value = float(feeds["x"][0, 0])
        self.begun.append(value)
        assert self._free(value).wait(60)
        return [2 * feeds["x"]]

    def let(self, *values: float) -> None:
        for value in values:
            self._free(value).set()

    def _free(self, value: float) -> threading.Event:
        """The event of a value. All threads get the same one."""
        return self._events.setdefault(value, threading.Event())


def gated(instances: int, policy: Policy, piece_rows: int = 0) -> tuple[Gate, Executor]:
    gate = Gate()
    return gate, made(gate, Serving(policy, ExecutionPlan(instances, 0, piece_rows), 256))


@pytest.mark.parametrize("ordered", [False, True])
async def test_instances_run_side_by_side_and_responses_keep_their_order_where_they_are_to(ordered: bool) -> None:
    gate, on = gated(3, Policy(1, ordered=ordered))
    served: list[float] = []

    async def one(value: float) -> None:
        served.append(await ask(on, value))

    tasks = [asyncio.create_task(one(value)) for value in (1, 2, 3)]
    await until_async(lambda: len(gate.begun) == 3)
    for ended, value in enumerate((3, 2, 1), 1):
        gate.let(value)
        await until_async(lambda ended=ended: on._idle == ended)
    await asyncio.gather(*tasks)
    assert served == ([2.0, 4.0, 6.0] if ordered else [6.0, 4.0, 2.0])


async def test_a_large_request_runs_on_all_instances() -> None:
    gate, on = gated(2, Policy(64), piece_rows=2)
    rows = np.repeat(np.arange(1.0, 4.0), 2)[:, None].repeat(2, axis=1)  # three pieces
    task = asyncio.create_task(on.run(["y"], {"x": rows}, 6, Limits()))
    await until_async(lambda: sorted(gate.begun) == [1.0, 2.0])
    gate.let(1, 2, 3)
    run = await task
    np.testing.assert_array_equal(run.outputs[0], 2 * rows)
    assert on._metrics.statistics.execution_count == 1


async def test_what_waits_is_parted_over_the_instances() -> None:
    gate, on = gated(2, Policy(64))
    tasks = [asyncio.create_task(ask(on, value)) for value in (1, 2, 3, 4)]
    await until_async(lambda: sorted(gate.begun) == [1.0, 3.0])
    gate.let(1, 3)
    assert await asyncio.gather(*tasks) == [2.0, 4.0, 6.0, 8.0]
    assert on._metrics.statistics.execution_count == 2


async def test_who_waits_for_too_long_is_told_so_while_all_instances_are_busy() -> None:
    gate, on = gated(1, Policy(64))
    busy = asyncio.create_task(ask(on, 1))
    await until_async(lambda: gate.begun == [1.0])
    with pytest.raises(QueueTimeout):
        await ask(on, 2, limits=Limits(queue_timeout=0.02))
    with pytest.raises(DeadlineExceeded):
        await ask(on, 3, limits=Limits(deadline=time.monotonic() + 0.02))
    gate.let(1)
    assert await busy == 2.0
    assert gate.begun == [1.0]
    assert on._metrics.statistics.pending == 0


async def test_a_higher_priority_overtakes() -> None:
    gate, on = gated(1, Policy(1, levels=(PriorityLevel(), PriorityLevel()), usual=1))
    tasks = [asyncio.create_task(ask(on, 1))]
    await until_async(lambda: gate.begun == [1.0])
    tasks += [
        asyncio.create_task(ask(on, value, limits=Limits(priority=priority)))
        for value, priority in ((2, 0), (3, 2), (4, 1))
    ]
    await until_async(lambda: on._metrics.statistics.pending == 4)
    gate.let(1, 2, 3, 4)
    await asyncio.gather(*tasks)
    assert gate.begun == [1.0, 4.0, 2.0, 3.0]


async def test_who_cannot_be_served_before_the_deadline_is_refused_at_once() -> None:
    gate, on = gated(1, Policy(64))
    on._pace.ran(1, 100.0)
    in_time = Limits(deadline=time.monotonic() + 10**6)
    hopeless = Limits(deadline=time.monotonic() + 150)
    first = asyncio.create_task(ask(on, 1, limits=hopeless))  # nobody is before it
    await until_async(lambda: gate.begun == [1.0])
    with pytest.raises(QueueFull):
        await ask(on, 2, limits=hopeless)
    second = asyncio.create_task(ask(on, 3, limits=in_time))
    await asyncio.sleep(0)
    gate.let(1, 3)
    assert await asyncio.gather(first, second) == [2.0, 6.0]
    assert (gate.begun, on._running, on._idle) == ([1.0, 3.0], 0, 1)


async def calm(on: Executor) -> None:
    for value in range(CALM):
        assert await ask(on, value) == 2 * value


def at_once(coroutine: Any) -> bool:
    """Whether it ends without the loop coming round."""
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


@pytest.mark.parametrize(
    ("policy", "expected"), [(Policy(64), True), (Policy(64, delay=1e-4), False), (Policy(64, preferred=(1,)), False)]
)
async def test_one_by_one_nobody_waits(policy: Policy, expected: bool) -> None:
    on = executor(Graph(), inline_rows=64, policy=policy)
    assert not at_once(on.run(["y"], {"x": np.ones((1, 2))}, 1, Limits()))  # nobody knows yet
    await asyncio.sleep(0)
    await calm(on)
    before = on._metrics.statistics.execution_count
    assert [at_once(ask(on, 1.0)) for _ in range(3)] == [expected] * 3
    if expected:
        assert (on._metrics.statistics.execution_count, on._metrics.statistics.pending) == (before + 3, 0)


async def test_company_is_found_again() -> None:
    """After at most `PROBE` requests that ran one at a time, requests that arrive together run together."""
    graph = Graph()
    on = executor(graph, inline_rows=64)
    await calm(on)
    assert await asyncio.gather(*(ask(on, value) for value in range(60))) == [2 * value for value in range(60)]
    assert sum(rows == 1 for rows in graph.runs[CALM:]) <= PROBE
    graph.runs.clear()
    await asyncio.gather(*(ask(on, value) for value in range(60)))
    assert graph.runs == [60]


async def test_an_error_and_a_passed_deadline_are_told_when_nobody_waits_too() -> None:
    graph = Graph()
    on = executor(graph, inline_rows=64)
    await calm(on)
    with pytest.raises(BackendError):
        await ask(on, -1.0)
    ran = len(graph.runs)
    with pytest.raises(DeadlineExceeded):
        await ask(on, 1.0, limits=Limits(deadline=time.monotonic() - 1))
    assert len(graph.runs) == ran
    assert await ask(on, 3.0) == 6
    assert on._metrics.statistics.pending == 0
