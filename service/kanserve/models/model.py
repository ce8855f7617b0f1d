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
from kanserve.analysis.coverage import Bounds
from kanserve.config.settings import Settings
from kanserve.errors import DeadlineExceeded, QueueFull
from kanserve.execution.config import Serving
from kanserve.execution.executor import Executor
from kanserve.insight import edge_queries
from kanserve.insight.certificate import CertificateWatch
from kanserve.insight.coverage import InputRangeGuard, RowRanges
from kanserve.insight.edge_queries import LayerGraph
from kanserve.insight.explain import Prepared
from kanserve.insight.traffic_sampler import TrafficSampler
from kanserve.observability.metrics import ModelMetrics
from kanserve.runtime.base import Session
from kanserve.system.resources import WatchedPool
from kanserve.types import Array, ModelInfo

T = TypeVar("T")
PIECE = 256  # rows of a query for statistics that are run at once
END = object()  # of the steps of a query
Copy = tuple[Mapping[str, Array], Sequence[Array]]  # a request's inputs by name, and its response's outputs


@dataclass(frozen=True, slots=True)
class RetiredModel:
    """Remains of a model that no longer serves."""

    name: str
    version: int
    # Weak references, alive while a request uses the model.
    users: tuple[weakref.ref[Model] | weakref.ref[Executor], ...]
    parts: list[object]  # objects that take memory


class Observer(Protocol):
    """Observer that receives each completed request of a model."""

    def offer(self, names: Sequence[str], size: int, copy: Callable[[], Copy]) -> None:
        """Receive the outputs by name, the bytes of inputs and outputs, and both as arrays."""


class Query(Protocol):
    """Request for a query: the name of its caller, or "", and the end of its time on the monotonic clock."""

    @property
    def caller(self) -> str: ...
    @property
    def deadline(self) -> float | None: ...


@dataclass(slots=True)
class Queries:
    """Queries of one caller: their number, and the lock for their turn."""

    count: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(eq=False, repr=False)
class Model:
    """Loaded version, ready for use from the event loop. Call `close` when no request uses it."""

    info: ModelInfo
    session: Session  # the serving graph; runs that bypass the executor are not counted
    graphs: tuple[LayerGraph, ...]  # edge graphs of the layers
    metrics: ModelMetrics
    settings: Settings
    serving: Serving
    live: TrafficSampler | None  # its statistics; None without
    blind: str  # reason why it has no statistics
    range_guard: InputRangeGuard | None  # if rows out of range are flagged or rejected
    certificate_watch: CertificateWatch | None  # of a version with a certificate, on a CPU
    error_bars: Bars | None  # of a version that has them, on a CPU

    def __post_init__(self) -> None:
        self.row_ranges = None if self.info.manifest is None else RowRanges(self.info.manifest)
        self.prepared = Prepared()  # of explanations
        self.bounds: dict[int, Bounds] = {}  # of the layers, for queries of coverage
        self.observed = False
        self._observers: dict[str, Observer] = {}
        self._queries: dict[str, Queries] = {}  # by caller
        self.executor = Executor(
            self.info.name, self.session.run, self.metrics, self.serving, self.settings.max_queue_bytes
        )
        self._query_pool = WatchedPool(1, f"edges-{self.info.name}", self.serving.nice)
        if self.certificate_watch is not None:
            self.certificate_watch.start(functools.partial(self.observe, "certificate"))
        if self.live is not None:
            self.live.start(functools.partial(self.observe, "statistics"))

    @property
    def edge_graphs(self) -> tuple[LayerGraph, ...]:
        """The edge graphs of the layers, for queries. Raises FailedPrecondition if there are none."""
        if not self.graphs:
            raise edge_queries.missing(self.info.name)
        return self.graphs

    @property
    def step_rows(self) -> int:
        """Rows of a query for statistics or coverage that run at once."""
        return min(self.serving.plan.piece_rows or self.settings.max_edge_query_rows, PIECE)

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

    async def result(self, steps: Iterator[T | None], request: Query) -> T:
        """The result of a query with one result, such as `insight.edge_queries.compute`. Raises the errors of
        `results`."""
        async with contextlib.aclosing(self.results(steps, request)) as results:
            return await anext(results)

    async def results(self, steps: Iterator[T | None], request: Query) -> AsyncGenerator[T]:
        """The results of the steps of a query that are not None. Queries of other callers run in between.

        Raises QueueFull, DeadlineExceeded, ResourceExhausted, BackendError, and FailedPrecondition if an edge graph
        cannot be loaded. A caller with a name has at most half of the places. If it disconnects, or the deadline
        passes, the work stops at the next step.
        """
        caller, most = request.caller, self.settings.max_edge_queries
        mine = self._queries.get(caller) or Queries()
        running = sum(queries.count for queries in self._queries.values())
        if running >= most or (caller and mine.count >= max(1, most // 2)):
            raise QueueFull
        self._queries[caller] = mine
        mine.count += 1
        loop = asyncio.get_running_loop()
        try:
            while True:
                if request.deadline is not None and time.monotonic() > request.deadline:
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
        if self.certificate_watch is not None:
            self.certificate_watch.end()
        if self.live is not None:
            self.live.end()
        self.live = self.certificate_watch = None
        users = (weakref.ref(self), weakref.ref(self.executor))
        return RetiredModel(self.info.name, self.info.version, users, [self.session, *self.graphs])

    def close(self) -> None:
        """Wait for running work, drop waiting work, and join the threads. Blocks."""
        if self.live is not None:
            self.live.keep()
        self.executor.close()
        self._query_pool.shutdown(wait=True, cancel_futures=True)
