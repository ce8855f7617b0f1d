"""What a version is asked, beside what it was made for: its numbers over the latest rows of its traffic.

Requests are offered when they were answered. Some rows a second are taken, a few times a second together, through the
graph once more for what is inside, on a thread that stands back; memory does not grow. The latest rows are those of two
windows: one that is full, and one that fills. Who asks is answered from both.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kanexport.manifest import Manifest
from kanserve.errors import KanserveError
from kanserve.models.statistics import OUTPUT, Nodes, NodeStatistics, Recent, Run
from kanserve.nouns import Array, ModelInfo
from kanserve.observe import logs
from kanserve.observe.metrics import Metrics
from kanserve.scheduling import merge

log = logs.get_logger("models")

Copy = tuple[Mapping[str, Array], Sequence[Array]]
ROWS = 250  # of a window; the latest rows are as many to twice as many
PAUSE = 0.2  # seconds between two looks
WAIT, BYTES = 512, 8 * 2**20  # requests that wait for the next look, and their bytes together
EVERY = 2.0  # seconds until the metrics are reckoned again


@dataclass(frozen=True, slots=True)
class Latest:
    """Over so many `rows`, of about `seen` that were answered in `seconds`."""

    rows: int
    seen: int
    seconds: float
    nodes: tuple[NodeStatistics, ...]


class Live:
    """On the event loop, but for what the thread does. `rate`: rows a second that are taken."""

    def __init__(
        self,
        info: ModelInfo,
        manifest: Manifest,
        run: Run,
        rate: int,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self._run, self._rate, self._pool = run, rate, pool
        self._metrics, self._labels = metrics, (info.name, str(info.version))
        self._nodes = Nodes(manifest)
        self._row_bytes = max(1, sum(one.row_bytes for one in (*info.inputs, *info.outputs)))
        self._seen, self._since = 0, time.monotonic()
        self._credit, self._looked = float(rate), self._since
        self._waiting: list[Callable[[], Copy]] = []
        self._bytes, self._busy, self._telling = 0, False, False
        self._lock, self._ended = threading.Lock(), False
        self._recent = Recent(self._nodes, ROWS)
        self._count = metrics.number("kanserve_statistics_rows_total").labels(*self._labels)
        for nodes in self.latest().nodes:
            self._set(nodes, 0.0, 0.0)

    def offer(self, names: Sequence[str], size: int, copy: Callable[[], Copy]) -> None:
        """A request was answered: `size` bytes in and out, which `copy` gives as arrays."""
        rows, now = max(1, size // self._row_bytes), time.monotonic()
        self._seen += rows
        self._credit = min(self._rate, self._credit + (now - self._looked) * self._rate)
        self._looked = now
        if self._credit < 1 or len(self._waiting) >= WAIT or self._bytes + size > BYTES:
            return
        self._credit -= rows
        self._waiting.append(copy)
        self._bytes += size
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_later(PAUSE, self._look)

    def _look(self) -> None:
        """At what has come meanwhile, on the thread."""
        copies, self._waiting, self._bytes, self._busy = self._waiting, [], 0, False
        self._aside(self._work, copies)
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(EVERY, self._soon)

    def _soon(self) -> None:
        self._telling = False
        self._aside(self._tell)

    def _aside(self, work: Callable[..., None], *given: object) -> None:
        """On the thread; what goes wrong there is told, and nobody else's business."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._pool.submit(work, *given).add_done_callback(_ended)

    def end(self) -> None:
        """Nothing more is told of it."""
        with self._lock:
            self._ended = True

    def latest(self) -> Latest:
        """Of the windows now."""
        with self._lock:
            rows, nodes = self._recent.compared()
        return Latest(rows, self._seen, time.monotonic() - self._since, nodes)

    def _work(self, copies: Sequence[Callable[[], Copy]]) -> None:
        feeds = [copy()[0] for copy in copies]
        rows = {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}
        for start in range(0, len(next(iter(rows.values()))), ROWS):
            with contextlib.suppress(KanserveError):  # of requests that could be answered: for want of memory
                self._take(merge.part(rows, start, start + ROWS))

    def _take(self, rows: Mapping[str, Array]) -> None:
        windows, count = self._nodes.windows(), len(next(iter(rows.values())))
        self._nodes.count(windows, self._run, rows)
        with self._lock:
            self._recent.add(windows, count)
        if not self._ended:
            self._count.inc(count)

    def _tell(self) -> None:
        """The metrics: of each layer what a person would look at first."""
        latest = self.latest()
        with self._lock:  # a version that has gone would have its series again
            for nodes in () if self._ended else latest.nodes:
                found = nodes.drift
                self._set(nodes, found.ratio, float(np.nan_to_num(found.outside).mean()))

    def _set(self, nodes: NodeStatistics, ratio: float, outside: float) -> None:
        labels = (*self._labels, "output" if nodes.layer == OUTPUT else str(nodes.layer))
        before = float(np.nan_to_num(nodes.drift.before).mean())
        for name, value in (("drift", ratio), ("outside", outside), ("outside_baseline", before)):
            self._metrics.number(f"kanserve_{name}_ratio").labels(*labels).set(value)


def _ended(work: Future[None]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        log.warning("statistics of a model failed", exc_info=error)
