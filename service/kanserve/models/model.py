"""Loaded version with its session, its access from requests, and its counters.

Inference runs on its own bounded pool (`executor`). Edge queries run on another thread, so a large query delays
inference only by the CPU time that it takes. The thread runs one step of each query in turn, so that no query waits for
all steps of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from kanexport.shared.error_bars import Bars
from kanexport.shared.manifest import Manifest
from kanserve.analysis.coverage import Bounds
from kanserve.analysis.histogram import Counts
from kanserve.analysis.query_plan import LayerPlan
from kanserve.config.settings import Settings
from kanserve.errors import DeadlineExceeded, QueueFull
from kanserve.execution.config import Serving
from kanserve.execution.executor import Executor, Limits, Run
from kanserve.insight import coverage, curves, edge_queries, edge_scores, explain, statistics
from kanserve.insight.certificate import CertificateWatch
from kanserve.insight.coverage import InputRangeGuard, LayerCoverage, RowRanges
from kanserve.insight.edge_queries import LayerGraph
from kanserve.insight.edge_scores import LiveScores
from kanserve.insight.explain import Prepared
from kanserve.insight.statistics import NodeCounts, NodeStatistics
from kanserve.insight.traffic_sampler import TrafficSampler
from kanserve.observability.metrics import ModelMetrics
from kanserve.runtime.base import Session
from kanserve.system.resources import WatchedPool
from kanserve.types import Array, CurveBlock, CurveRequest, Explanation, LayerEdges, LayerScores, ModelInfo

T = TypeVar("T")
PIECE = 256  # rows of a query for statistics that are run at once
END = object()  # of the steps of a query
Copy = tuple[Mapping[str, Array], Sequence[Array]]  # a request's inputs by name, and its response's outputs


@dataclass(frozen=True, slots=True)
class RetiredModel:
    """Remains of a model that no longer serves.

    users  weak references, alive while a request uses the model
    parts  objects that take memory
    """

    name: str
    version: int
    users: tuple[weakref.ref[Model] | weakref.ref[Executor], ...]
    parts: list[object]


class Observer(Protocol):
    """Observer that receives each completed request of a model."""

    def offer(self, names: Sequence[str], size: int, copy: Callable[[], Copy]) -> None:
        """Receive the outputs by name, the bytes of inputs and outputs, and both as arrays."""


@dataclass(slots=True)
class Queries:
    """Queries of one caller: their number, and the lock for their turn."""

    count: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Model:
    """Loaded version, ready for use from the event loop. Call `close` when no request uses it."""

    def __init__(
        self,
        info: ModelInfo,
        session: Session,
        graphs: tuple[LayerGraph, ...],
        metrics: ModelMetrics,
        settings: Settings,
        serving: Serving,
        *,
        live: TrafficSampler | None = None,
        blind: str = "",
        range_guard: InputRangeGuard | None = None,
        certificate_watch: CertificateWatch | None = None,
        error_bars: Bars | None = None,
    ) -> None:
        """`live`: its statistics, or in `blind` the reason why it has none. `range_guard`: if rows out of range are
        flagged or rejected. `error_bars`: of a version that has them, on a CPU."""
        self.info = info
        self.metrics = metrics
        self.serving = serving
        self._settings = settings
        self._session = session
        self._graphs = graphs
        self._queries: dict[str, Queries] = {}  # by caller
        self._observers: dict[str, Observer] = {}
        self.observed = False
        self.live, self.blind = live, blind
        self.range_guard, self.error_bars = range_guard, error_bars
        self.row_ranges = None if info.manifest is None else RowRanges(info.manifest)
        self._certificate_watch = certificate_watch
        self._explaining = Prepared()
        self._bounds: dict[int, Bounds] = {}  # of the layers, for queries of coverage
        self.executor = Executor(info.name, session.run, metrics, serving, settings.max_queue_bytes)
        self._query_pool = WatchedPool(1, f"edges-{info.name}", serving.nice)
        if certificate_watch is not None:
            certificate_watch.start(functools.partial(self.observe, "certificate"))
        if live is not None:
            live.start(functools.partial(self.observe, "statistics"))

    async def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], *, rows: int, limits: Limits) -> Run:
        """Run the graph, in a batch with other waiting requests.

        Raises QueueFull immediately. Raises QueueTimeout or DeadlineExceeded for a request that waited too long, which
        is then not executed. Raises ResourceExhausted and BackendError.
        """
        return await self.executor.run(outputs, feeds, rows, limits)

    def observe(self, what: str, by: Observer | None) -> None:
        """Set the observer of completed requests for one purpose; None removes it."""
        others = {name: observer for name, observer in self._observers.items() if name != what}
        self._observers = others if by is None else {**others, what: by}
        self.observed = bool(self._observers)

    def offer(self, names: Sequence[str], sizes: Sequence[int], copy: Callable[[int], Copy]) -> None:
        """Pass completed requests to all observers; see `Observer.offer`. `copy` takes the position of a request in
        `sizes`. The event loop calls the observers after the call: an error there is in the log, and does not reach the
        client."""

        def pass_on() -> None:
            for at, size in enumerate(sizes):
                for observer in self._observers.values():  # without those that have ended since the response
                    observer.offer(names, size, functools.partial(copy, at))

        asyncio.get_running_loop().call_soon(pass_on)

    def trace(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run the graph now, on the caller's thread, uncounted. Raises BackendError, ResourceExhausted."""
        return self._session.run(outputs, feeds)

    async def edges(
        self,
        plans: tuple[LayerPlan, ...],
        rows: Mapping[str, Array],
        *,
        deadline: float | None,
        caller: str = "",
        most_bytes: int = 2**62,
    ) -> tuple[LayerEdges, ...]:
        """The planned edge values for `rows` [B, ...] by input; see `edge_queries.compute`.

        Raises FailedPrecondition without edge graphs, QueueFull, DeadlineExceeded, ResourceExhausted, BackendError. A
        `caller` with a name has at most half of the places. If it disconnects, or the deadline passes, the work stops
        at the next step.
        """
        steps = edge_queries.compute(
            self._session,
            self._graph(),
            plans,
            rows,
            piece_rows=self.serving.way.piece_rows,
            most_bytes=most_bytes,
        )
        return await self._result(steps, deadline, caller)

    def curves(
        self, manifest: Manifest, plans: tuple[LayerPlan, ...], request: CurveRequest
    ) -> AsyncGenerator[CurveBlock]:
        """The curves of the planned layers, one block at a time. Raises the errors of `edges`."""
        steps = curves.compute(self._session, self._graph(), manifest, plans, request)
        return self._worked(steps, request.deadline, request.caller)

    def explain(
        self,
        manifest: Manifest,
        rows: Mapping[str, Array],
        reference: tuple[str, Mapping[str, Array]],
        outputs: Sequence[int],
        *,
        method: str,
        deadline: float | None,
        caller: str = "",
        path: int = 0,
    ) -> AsyncGenerator[Explanation]:
        """Explanations of rows [B, ...] by input against a reference [R, ...], in chunks of rows. `reference`: its
        name and its rows; a named reference has the same rows each time. `path`: as in `explain.compute`. Raises the
        errors of `edges`."""
        steps = explain.compute(
            self._session,
            self._graph(),
            manifest,
            self._explaining,
            rows,
            reference,
            method=method,
            outputs=outputs,
            path=path,
        )
        return self._worked(steps, deadline, caller)

    async def scores(
        self, manifest: Manifest, rows: Mapping[str, Array], *, deadline: float | None, caller: str = ""
    ) -> tuple[LayerScores, ...]:
        """The importance of each edge over `rows` [B, ...] by input. Raises the errors of `edges`."""
        steps = edge_scores.edge_scores(
            self._session,
            self._graph(),
            manifest,
            rows,
            piece_rows=self.serving.way.piece_rows,
        )
        return await self._result(steps, deadline, caller)

    async def live_scores(
        self, manifest: Manifest, tally: NodeCounts, *, deadline: float | None, caller: str = ""
    ) -> LiveScores:
        """The importance of each edge over counted traffic. Raises the errors of `edges`."""
        steps = edge_scores.traffic_scores(self._graph(), manifest, tally)
        return await self._result(steps, deadline, caller)

    async def statistics(
        self, manifest: Manifest, rows: Mapping[str, Array], *, deadline: float | None, caller: str = ""
    ) -> tuple[Sequence[NodeStatistics], Counts]:
        """The statistics of the nodes over `rows` [B, ...] by input, compared with the manifest's baseline, and how
        often each class was the largest output. Raises the errors of `edges`."""
        step = self.serving.way.piece_rows or self._settings.max_edge_query_rows
        steps = statistics.compute(self._session, manifest, rows, step=min(step, PIECE))
        return await self._result(steps, deadline, caller)

    async def coverage(
        self, manifest: Manifest, rows: Mapping[str, Array], *, deadline: float | None, caller: str = ""
    ) -> tuple[LayerCoverage, ...]:
        """The coverage of each layer for `rows` [B, ...] by input. Raises the errors of `edges`."""
        step = self.serving.way.piece_rows or self._settings.max_edge_query_rows
        steps = coverage.compute(self._session, manifest, self._bounds, rows, step=min(step, PIECE))
        return await self._result(steps, deadline, caller)

    def _graph(self) -> tuple[LayerGraph, ...]:
        """The edge graphs. Raises FailedPrecondition."""
        if not self._graphs:
            raise edge_queries.missing(self.info.name)
        return self._graphs

    async def _result(self, steps: Iterator[T | None], deadline: float | None, caller: str) -> T:
        """The result of a query with one result."""
        async with contextlib.aclosing(self._worked(steps, deadline, caller)) as results:
            return await anext(results)

    async def _worked(self, steps: Iterator[T | None], deadline: float | None, caller: str) -> AsyncGenerator[T]:
        """The results of the steps of a query that are not None. Queries of other callers run in between."""
        most, mine = self._settings.max_edge_queries, self._queries.get(caller) or Queries()
        running = sum(queries.count for queries in self._queries.values())
        if running >= most or (caller and mine.count >= max(1, most // 2)):
            raise QueueFull
        self._queries[caller] = mine
        mine.count += 1
        loop = asyncio.get_running_loop()
        try:
            while True:
                if deadline is not None and time.monotonic() > deadline:
                    raise DeadlineExceeded
                async with mine.turn:  # a caller has one step at a time in the thread's queue
                    result = await loop.run_in_executor(self._query_pool, next, steps, END)
                if result is END:
                    return
                if result is not None:
                    yield cast("T", result)
        finally:
            mine.count -= 1
            if not mine.count:
                self._queries.pop(caller, None)

    def leave(self) -> RetiredModel:
        """Stop accepting requests; on the event loop. In-flight requests end on the returned model."""
        self.executor.leave()
        self._observers, self.observed = {}, False  # requests in flight still end on it, without observers
        if self._certificate_watch is not None:
            self._certificate_watch.end()
        if self.live is not None:
            self.live.end()
        self.live = self._certificate_watch = None
        users = (weakref.ref(self), weakref.ref(self.executor))
        return RetiredModel(self.info.name, self.info.version, users, [self._session, *self._graphs])

    def close(self) -> None:
        """Wait for running work, drop waiting work, and join the threads. Blocks."""
        if self.live is not None:
            self.live.keep()
        self.executor.close()
        self._query_pool.shutdown(wait=True, cancel_futures=True)
