"""Batching under changing load: single requests run at once, and concurrent requests wait to form a batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kanserve.errors import BackendError, DeadlineExceeded
from kanserve.execution.config import ExecutionPlan, Serving
from kanserve.execution.executor import CALM, PROBE, Executor, Limits
from kanserve.observability.metrics import Metrics, ModelMetrics
from kanserve.scheduling.queue import Policy


class Graph:
    """Doubles, rejects negative numbers, and records how many rows each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        self.runs.append(len(feeds["x"]))
        if (feeds["x"] < 0).any():
            raise BackendError("negative")
        return [2 * feeds["x"]]


def made(graph: Graph, policy: Policy) -> tuple[Executor, ModelMetrics]:
    metrics = Metrics().model("m", "1")
    return Executor("m", graph, metrics, Serving(policy, ExecutionPlan(1, 64), 256), 2**20), metrics


async def ask(on: Executor, value: float, limits: Limits | None = None) -> float:
    run = await on.run(["y"], {"x": np.full((1, 2), value)}, 1, limits or Limits())
    return float(run.outputs[0][0, 0])


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
    ("policy", "expected"),
    [(Policy(64), True), (Policy(64, delay=1e-4), False), (Policy(64, preferred=(1,)), False)],
)
def test_one_by_one_nobody_waits(policy: Policy, expected: bool) -> None:
    async def main() -> None:
        on, metrics = made(Graph(), policy)
        assert not at_once(on.run(["y"], {"x": np.ones((1, 2))}, 1, Limits()))  # nobody knows yet
        await asyncio.sleep(0)
        await calm(on)
        before = metrics.statistics.execution_count
        assert [at_once(ask(on, 1.0)) for _ in range(3)] == [expected] * 3
        if expected:
            assert metrics.statistics.execution_count == before + 3
            assert metrics.statistics.pending == 0
        on.close()

    asyncio.run(main())


def test_company_is_found_again() -> None:
    """After at most `PROBE` requests that ran one at a time, requests that arrive together run together."""

    async def main() -> None:
        graph = Graph()
        on, _ = made(graph, Policy(64))
        await calm(on)
        answers = await asyncio.gather(*(ask(on, value) for value in range(60)))
        assert answers == [2 * value for value in range(60)]
        alone = sum(rows == 1 for rows in graph.runs[CALM:])
        assert alone <= PROBE
        graph.runs.clear()
        await asyncio.gather(*(ask(on, value) for value in range(60)))
        assert graph.runs == [60]
        on.close()

    asyncio.run(main())


def test_an_error_and_a_passed_deadline_are_told_all_the_same() -> None:
    async def main() -> None:
        graph = Graph()
        on, metrics = made(graph, Policy(64))
        await calm(on)
        with pytest.raises(BackendError):
            await ask(on, -1.0)
        ran = len(graph.runs)
        with pytest.raises(DeadlineExceeded):
            await ask(on, 1.0, Limits(deadline=time.monotonic() - 1))
        assert len(graph.runs) == ran
        assert await ask(on, 3.0) == 6
        assert metrics.statistics.pending == 0
        on.close()

    asyncio.run(main())
