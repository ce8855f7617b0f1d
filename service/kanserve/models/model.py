"""A loaded version: a session, who may use it when, and what it has done.

Inference runs on a bounded pool of its own (`executor`), edge queries on a single thread
beside it, so a large query delays no inference by more than the CPU it takes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kanserve.backends import Session
from kanserve.config import Settings
from kanserve.errors import DeadlineExceeded, QueueFull
from kanserve.interpret.select import LayerPlan
from kanserve.models import edges
from kanserve.models.edges import LayerGraph
from kanserve.models.executor import Executor, Limits, Run
from kanserve.nouns import Array, LayerEdges, ModelInfo
from kanserve.observe.metrics import ModelMetrics
from kanserve.scheduling.policy import Policy


class Model:
    """One version, ready to be used from the event loop. `close` when nobody uses it."""

    def __init__(
        self,
        info: ModelInfo,
        session: Session,
        graphs: tuple[LayerGraph, ...],
        metrics: ModelMetrics,
        settings: Settings,
        *,
        workers: int,
        inline_rows: int,
        chunk_rows: int = 0,
    ) -> None:
        """`chunk_rows`: a larger request runs in pieces of so many rows; 0: in one piece."""
        self.info = info
        self.metrics = metrics
        self._chunk_rows = chunk_rows
        self._settings = settings
        self._session = session
        self.inline_rows = inline_rows
        self._graphs = graphs
        self._queries = 0
        self._executor = Executor(
            info.name,
            self._run_chunks,
            metrics,
            _policy(info, settings),
            max_queue=settings.max_queue,
            max_bytes=settings.max_queue_bytes,
            workers=workers,
            inline_rows=inline_rows,
        )
        self._query_pool = ThreadPoolExecutor(1, thread_name_prefix=f"edges-{info.name}")

    async def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], *, rows: int, limits: Limits) -> Run:
        """Run the graph, together with whatever else waits.

        Raises QueueFull at once; QueueTimeout or DeadlineExceeded for a request that
        waited too long, which is then not run; Exhausted and BackendError.
        """
        return await self._executor.run(outputs, feeds, rows, limits)

    def _run_chunks(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        step = self._chunk_rows
        if not step or (rows := max(len(array) for array in feeds.values())) <= step:
            return self._session.run(outputs, feeds)
        pieces = [
            self._session.run(outputs, {name: array[start : start + step] for name, array in feeds.items()})
            for start in range(0, rows, step)
        ]
        return [np.concatenate(columns) for columns in zip(*pieces, strict=True)]

    async def edges(
        self, plans: tuple[LayerPlan, ...], rows: Mapping[str, Array], *, deadline: float | None
    ) -> tuple[LayerEdges, ...]:
        """Edge values of the planned layers for `rows` [B, ...] by input.

        Raises NotPossible without edge graphs, QueueFull, DeadlineExceeded, Exhausted,
        BackendError. When the caller gives up, the work stops at the next chunk.
        """
        if not self._graphs:
            raise edges.missing(self.info.name)
        if self._queries >= self._settings.max_queries:
            raise QueueFull
        cancelled = threading.Event()
        self._queries += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._query_pool, self._query, plans, rows, deadline, cancelled)
        finally:
            cancelled.set()
            self._queries -= 1

    def _query(
        self,
        plans: tuple[LayerPlan, ...],
        rows: Mapping[str, Array],
        deadline: float | None,
        cancelled: threading.Event,
    ) -> tuple[LayerEdges, ...]:
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineExceeded
        return edges.compute(
            self._session,
            self._graphs,
            plans,
            rows,
            cancelled,
            chunk_bytes=self._settings.query_bytes,
            piece_rows=self._chunk_rows,
        )

    def close(self) -> None:
        """Let running work end, drop what waits, join the threads. Blocks."""
        self._executor.close()
        self._query_pool.shutdown(wait=True, cancel_futures=True)


def _policy(info: ModelInfo, settings: Settings) -> Policy:
    """Requests for a graph whose first dimension is no batch run alone."""
    delay = settings.max_queue_delay_microseconds / 1e6
    return Policy(min(info.max_batch_size, settings.max_batch_rows) if settings.batching else 0, delay)
