"""The executor without a model: scheduling, instances, and the outcome of each request in a batch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kanserve.errors import BackendError, DeadlineExceeded, QueueFull, QueueTimeout, ResourceExhausted
from kanserve.execution.config import ExecutionPlan, Serving
from kanserve.execution.executor import Executor, Limits
from kanserve.observability.metrics import Metrics
from kanserve.scheduling.queue import Policy, PriorityLevel


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


def executor(
    graph: Any, *, inline_rows: int = 1024, max_pending_requests: int = 256, policy: Policy | None = None
) -> Executor:
    return Executor(
        "m",
        graph,
        Metrics().model("m", "1"),
        Serving(policy or Policy(64), ExecutionPlan(1, inline_rows), max_pending_requests),
        2**20,
    )


async def ask(on: Executor, value: float, rows: int = 1, limits: Limits | None = None) -> float:
    run = await on.run(["y"], {"x": np.full((rows, 2), value)}, rows, limits or Limits())
    assert run.outputs[0].shape == (rows, 2)
    return float(run.outputs[0][0, 0])


@pytest.mark.parametrize("inline_rows", [0, 1024])
def test_what_arrives_together_runs_together(inline_rows: int) -> None:
    async def main() -> tuple[list[float], list[int]]:
        graph = Graph()
        on = executor(graph, inline_rows=inline_rows)
        answers = await asyncio.gather(*(ask(on, at) for at in range(100)))
        assert on._metrics.statistics.pending == 0
        assert on._metrics.statistics.execution_count == len(graph.runs)
        await asyncio.to_thread(on.close)
        return list(answers), graph.runs

    answers, runs = asyncio.run(main())
    assert answers == [2.0 * at for at in range(100)]
    assert runs == [64, 36]


def test_a_burst_beyond_the_queue_is_answered_while_it_arrives() -> None:
    async def main() -> list[float]:
        on = executor(Graph(), max_pending_requests=70)
        return await asyncio.gather(*(ask(on, at) for at in range(1000)))

    assert asyncio.run(main()) == [2.0 * at for at in range(1000)]


@pytest.mark.parametrize("inline_rows", [0, 1024])
def test_one_bad_row_does_not_fail_its_neighbours(inline_rows: int) -> None:
    async def main() -> list[Any]:
        on = executor(Graph(), inline_rows=inline_rows)
        answers = await asyncio.gather(*(ask(on, value) for value in (1, -1, 3)), return_exceptions=True)
        assert on._metrics.statistics.pending == 0
        return list(answers)

    good, bad, other = asyncio.run(main())
    assert (good, other) == (2.0, 6.0)
    assert isinstance(bad, BackendError)


def test_a_batch_that_is_too_much_runs_one_by_one() -> None:
    def small(outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if len(feeds["x"]) > 1:
            raise ResourceExhausted("not enough memory")
        return [2 * feeds["x"]]

    async def main(inline_rows: int) -> list[float]:
        on = executor(small, inline_rows=inline_rows)
        answers = await asyncio.wait_for(asyncio.gather(*(ask(on, at) for at in range(20))), 60)
        assert on._idle == 1
        return list(answers)

    for inline_rows in (0, 1024):
        assert asyncio.run(main(inline_rows)) == [2.0 * at for at in range(20)]


def test_a_bug_reaches_every_caller() -> None:
    def broken(outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        raise ZeroDivisionError

    async def main(inline_rows: int) -> list[Any]:
        on = executor(broken, inline_rows=inline_rows)
        return await asyncio.wait_for(asyncio.gather(*(ask(on, 1) for _ in range(3)), return_exceptions=True), 60)

    for inline_rows in (0, 1024):
        assert all(isinstance(error, ZeroDivisionError) for error in asyncio.run(main(inline_rows)))


def test_a_full_queue_refuses_at_once_and_a_caller_that_left_makes_room() -> None:
    async def main() -> None:
        graph = Graph()
        on = executor(graph, max_pending_requests=2, policy=Policy(64, delay=30.0))
        waiting = [asyncio.create_task(ask(on, at)) for at in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await ask(on, 9)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        waiting.append(asyncio.create_task(ask(on, 3)))
        await asyncio.sleep(0.05)
        assert not graph.runs
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert on._metrics.statistics.pending == 0

    asyncio.run(main())


def test_expired_requests_are_not_computed() -> None:
    async def main() -> None:
        graph = Graph()
        on = executor(graph)
        with pytest.raises(DeadlineExceeded):
            await ask(on, 1, limits=Limits(deadline=0.0))
        with pytest.raises(QueueTimeout):
            await ask(on, 1, limits=Limits(queue_timeout=-1.0))
        assert not graph.runs

    asyncio.run(main())


def test_a_delay_gathers_and_ends() -> None:
    async def main() -> None:
        graph = Graph()
        on = executor(graph, policy=Policy(64, delay=0.2))
        first = asyncio.create_task(ask(on, 1))
        for _ in range(10):  # without a delay, it would run in one of these turns
            await asyncio.sleep(0)
        assert not graph.runs
        assert await asyncio.gather(first, ask(on, 2)) == [2.0, 4.0]
        assert graph.runs == [2]

    asyncio.run(main())


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


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def gated(instances: int, policy: Policy, piece_rows: int = 0) -> tuple[Gate, Executor]:
    gate = Gate()
    serving = Serving(policy, ExecutionPlan(instances, 0, piece_rows), 256)
    return gate, Executor("m", gate, Metrics().model("m", "1"), serving, 2**20)


@pytest.mark.parametrize("ordered", [False, True])
def test_instances_run_side_by_side_and_answers_keep_their_order_where_they_are_to(ordered: bool) -> None:
    async def main() -> list[float]:
        gate, on = gated(3, Policy(1, ordered=ordered))
        answered: list[float] = []

        async def one(value: float) -> None:
            answered.append(await ask(on, value))

        tasks = [asyncio.create_task(one(value)) for value in (1, 2, 3)]
        await until(lambda: len(gate.begun) == 3)
        gate.let(3)
        if not ordered:
            await until(lambda: answered == [6.0])
        gate.let(2)
        await asyncio.sleep(0.05)
        gate.let(1)
        await asyncio.gather(*tasks)
        await asyncio.to_thread(on.close)
        return answered

    answered = asyncio.run(main())
    assert answered == [2.0, 4.0, 6.0] if ordered else answered[0] == 6.0


def test_a_large_request_runs_on_all_instances() -> None:
    async def main() -> None:
        gate, on = gated(2, Policy(64), piece_rows=2)
        rows = np.repeat(np.arange(1.0, 4.0), 2)[:, None].repeat(2, axis=1)  # three pieces
        task = asyncio.create_task(on.run(["y"], {"x": rows}, 6, Limits()))
        await until(lambda: sorted(gate.begun) == [1.0, 2.0])
        gate.let(1, 2, 3)
        run = await task
        np.testing.assert_array_equal(run.outputs[0], 2 * rows)
        assert on._metrics.statistics.execution_count == 1
        await asyncio.to_thread(on.close)

    asyncio.run(main())


def test_what_waits_is_parted_over_the_instances() -> None:
    async def main() -> None:
        gate, on = gated(2, Policy(64))
        tasks = [asyncio.create_task(ask(on, value)) for value in (1, 2, 3, 4)]
        await until(lambda: sorted(gate.begun) == [1.0, 3.0])
        gate.let(1, 3)
        assert await asyncio.gather(*tasks) == [2.0, 4.0, 6.0, 8.0]
        await asyncio.to_thread(on.close)

    asyncio.run(main())


def test_who_waits_for_too_long_is_told_so_while_all_instances_are_busy() -> None:
    async def main() -> None:
        gate, on = gated(1, Policy(64))
        busy = asyncio.create_task(ask(on, 1))
        await until(lambda: gate.begun == [1.0])
        with pytest.raises(QueueTimeout):
            await ask(on, 2, limits=Limits(queue_timeout=0.02))
        with pytest.raises(DeadlineExceeded):
            await ask(on, 3, limits=Limits(deadline=time.monotonic() + 0.02))
        gate.let(1)
        assert await busy == 2.0
        assert gate.begun == [1.0]
        assert on._metrics.statistics.pending == 0
        await asyncio.to_thread(on.close)

    asyncio.run(main())


def test_a_higher_priority_overtakes() -> None:
    async def main() -> None:
        gate, on = gated(1, Policy(1, levels=(PriorityLevel(), PriorityLevel()), usual=1))
        tasks = [asyncio.create_task(ask(on, 1))]
        await until(lambda: gate.begun == [1.0])
        tasks += [
            asyncio.create_task(ask(on, value, limits=Limits(priority=priority)))
            for value, priority in ((2, 0), (3, 2), (4, 1))
        ]
        await until(lambda: on._metrics.statistics.pending == 4)
        gate.let(1, 2, 3, 4)
        await asyncio.gather(*tasks)
        assert gate.begun == [1.0, 4.0, 2.0, 3.0]
        await asyncio.to_thread(on.close)

    asyncio.run(main())


def test_ten_thousand_that_leave_are_not_run_and_leave_nothing_behind() -> None:
    async def main() -> None:
        gate, on = gated(1, Policy(64))
        on._max_pending_requests = 20_000
        tasks = [asyncio.create_task(ask(on, 1))]
        await until(lambda: gate.begun == [1.0])
        tasks += [asyncio.create_task(ask(on, 5)) for _ in range(10_000)]
        await until(lambda: on._metrics.statistics.pending == 10_001)
        for task in reversed(tasks[1:]):
            task.cancel()
        await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert (on._metrics.statistics.pending, on._queue.count, on._queue.rows) == (1, 0, 0)
        gate.let(1)
        assert await tasks[0] == 2.0
        assert gate.begun == [1.0]
        await asyncio.to_thread(on.close)

    asyncio.run(main())


def test_who_cannot_be_served_before_the_deadline_is_refused_at_once() -> None:
    async def main() -> None:
        gate, on = gated(1, Policy(64))
        on._pace.ran(1, 100.0)
        in_time = Limits(deadline=time.monotonic() + 10**6)
        hopeless = Limits(deadline=time.monotonic() + 150)
        first = asyncio.create_task(ask(on, 1, limits=hopeless))  # nobody is before it
        await until(lambda: gate.begun == [1.0])
        with pytest.raises(QueueFull):
            await ask(on, 2, limits=hopeless)
        second = asyncio.create_task(ask(on, 3, limits=in_time))
        await asyncio.sleep(0)
        gate.let(1, 3)
        assert await asyncio.gather(first, second) == [2.0, 6.0]
        assert (gate.begun, on._running, on._idle) == ([1.0, 3.0], 0, 1)
        await asyncio.to_thread(on.close)

    asyncio.run(main())
