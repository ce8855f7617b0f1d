"""Sampler of a version's traffic: statistics over all sampled rows, and over the latest of them.

The model offers requests after it has responded to them. A few times per second, a thread runs the rows through the
graph again to get the hidden nodes, in constant memory. It works in short pieces, and gives way to the event loop after
each. With "sampled", it takes a fixed number of rows per second, and fewer if that would exceed a small share of one
core. With "full", it takes all rows that fit its buffer until the next run. While the sampler takes no rows, the model
offers none, because the offer would cost more than the sampling.

The latest rows are those of two windows: one that is full, and one that is being filled. The sampler stores no row
unless `keep` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kanserve.analysis.drift import ratios
from kanserve.errors import KanserveError
from kanserve.insight import store
from kanserve.insight.statistics import OUTPUT, Nodes, NodeStatistics, Recent, RowStatistics, Run
from kanserve.insight.store import ModelStatisticsFile, StoredStatistics
from kanserve.observability import logs
from kanserve.observability.metrics import CLASS_ROWS, Metrics
from kanserve.scheduling import batching
from kanserve.system import resources
from kanserve.types import Array, ModelInfo

log = logs.get_logger("models")

Copy = tuple[Mapping[str, Array], Sequence[Array]]
ROWS = 250  # of a window; the latest rows are as many to twice as many
PAUSE = 0.2  # seconds between two samples
WAIT, BYTES = 512, 8 * 2**20  # requests that wait for the next sample, and their bytes together
FULL_WAIT, FULL_BYTES = 2**15, 16 * 2**20  # the same limits if all rows are counted
SHARE = 0.01  # of a core that sampled rows may take
EVERY = 2.0  # seconds until the metrics are computed again
PIECE = 128  # requests that the thread copies at once
CLASSES = 100  # of a model that are labels of a metric at most


@dataclass(frozen=True, slots=True)
class LatestDrift:
    """Largest drift of the latest rows from the baseline."""

    rows: int  # sampled rows
    ratio: float  # largest PSI of a node, divided by its no-drift threshold
    place: str  # layer of this node, in words


class TrafficSampler:
    """Sampler of one version's traffic, for use on the event loop except for its own thread.

    rate   sampled rows per second; infinite: all rows
    open_file  opens the file of these statistics and of those of other workers
    keep   number of rows that the sampler stores for inspection
    clock  time of the history of drift, in seconds since the epoch
    """

    def __init__(
        self,
        info: ModelInfo,
        nodes: Nodes,
        run: Run,
        rate: float,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
        open_file: Callable[[ModelInfo, Nodes], ModelStatisticsFile] | None = None,
        keep: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._run, self._rate, self._pool = run, rate, pool
        self._metrics, self._labels = metrics, (info.name, str(info.version))
        self.most_rows, self._clock = keep, clock
        self._nodes, self._file = nodes, None if open_file is None else open_file(info, nodes)
        self._row_bytes = max(1, sum(tensor.row_bytes for tensor in (*info.inputs, *info.outputs)))
        self._looked, self._cost = time.monotonic(), 0.0
        self._credit, self._all = rate, math.isinf(rate)
        self._most = (FULL_WAIT, FULL_BYTES) if self._all else (WAIT, BYTES)
        self._waiting: list[Callable[[], Copy]] = []
        self._bytes, self._busy, self._telling = 0, False, False
        self._working: Future[None] | None = None
        self._written = -math.inf
        self._responses = metrics.model(*self._labels).statistics
        # The receiver of requests: this sampler, or none for a while.
        self.switch: Callable[[TrafficSampler | None], None] = lambda sampler: None
        self._lock, self._ended = threading.Lock(), False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._begin(time.time(), 0.0)
        named = metrics.number(CLASS_ROWS)
        self._classes = [named.labels(*self._labels, name) for name in nodes.names[:CLASSES]]
        self._count = metrics.number("kanserve_statistics_sampled_rows_total").labels(*self._labels)
        # Continue with the counts before the last restart, unless they were reset meanwhile.
        if self._file is not None:
            stored, self._mark = self._file.own(), self._file.mark()
            if stored is not None and stored.mark == self._mark:
                self._since, self._spent = stored.since, stored.seconds
                self._seen += stored.seen
                self._total = stored.total
        for part_statistics in nodes.compared(nodes.empty()):
            self._set(part_statistics, 0.0, 0.0)

    def start(self, switch: Callable[[TrafficSampler | None], None]) -> None:
        """Receive requests from now on. `switch` sets their receiver: this sampler, or None."""
        self.switch = switch
        switch(self)

    def _begin(self, since: float, mark: float) -> None:
        """Begin the counts."""
        self._mark, self._since, self._begun = mark, since, time.monotonic()
        self._seen, self._spent = -self._responses.inference_count, 0.0  # without the rows before
        self._recent, self._total = Recent(self._nodes, ROWS), self._nodes.empty()
        self._rows, self._history = KeptRows(self.most_rows, ROWS), DriftHistory(self._clock)
        self.drift: LatestDrift | None = None  # of this process; None without a baseline, or before the first rows

    def offer(self, names: Sequence[str], size: int, copy: Callable[[], Copy]) -> None:
        """Receive a completed request with `size` bytes of inputs and outputs, which `copy` returns as arrays."""
        if not self._all:
            self._earn()
        if self._credit < 1 or len(self._waiting) >= self._most[0] or self._bytes + size > self._most[1]:
            if not self._all:  # the sampler accepts no request for a while, so that none is offered
                self.switch(None)
                self._later("again", PAUSE, self._again)
            return
        self._credit -= max(1, size // self._row_bytes)
        self._waiting.append(copy)
        self._bytes += size
        if not self._busy:
            self._busy = True
            self._later("look", PAUSE, self._sample)

    def _earn(self) -> None:
        """Add the rows that may be sampled for the time that has passed."""
        now = time.monotonic()
        rate = min(self._rate, SHARE / max(self._cost, 1e-9))
        self._credit = min(self._rate, self._credit + (now - self._looked) * rate)
        self._looked = now

    def _again(self) -> None:
        """Receive requests again, once some may be sampled."""
        self._earn()
        if self._credit >= 1:
            self.switch(self)
        else:
            self._later("again", PAUSE, self._again)

    def _sample(self) -> None:
        """Analyze the waiting requests on the thread, or later if it still analyzes earlier ones."""
        if self._working is not None and not self._working.done():
            self._later("look", PAUSE, self._sample)
            return
        copies, self._waiting, self._bytes, self._busy = self._waiting, [], 0, False
        self._working = self._aside(self._work, copies)
        if not self._telling:
            self._telling = True
            self._later("tell", EVERY, self._soon)

    def _later(self, what: str, seconds: float, then: Callable[[], None]) -> None:
        if not self._ended:
            self._timers[what] = asyncio.get_running_loop().call_later(seconds, then)

    def _soon(self) -> None:
        wait = 0.0 if self._file is None else self._written + self._file.every - time.monotonic()
        self._telling = wait > 0
        if self._telling:  # otherwise the last rows would be written only when another row arrives
            self._later("tell", wait, self._soon)
        self._aside(self._tell)

    def _aside(self, work: Callable[..., None], *arguments: object) -> Future[None] | None:
        """Run `work` on the thread. A failure is logged, and affects nothing else."""
        try:
            future = self._pool.submit(work, *arguments)
        except RuntimeError:  # it has ended
            return None
        future.add_done_callback(_ended)
        return future

    def end(self) -> None:
        """End the statistics, and drop the waiting requests, so that the version can be freed."""
        with self._lock:
            self._ended, self.switch = True, lambda sampler: None
        self._waiting, self._bytes = [], 0
        for timer in self._timers.values():  # each would keep the session, and drop it on the event loop
            timer.cancel()
        self._aside(self.keep)

    def anew(self) -> float:
        """Restart the counts. Returns the time in seconds since the epoch, which is after the last restart even if the
        clock was set back."""
        mark = max(time.time(), math.nextafter(self._mark, math.inf))
        self.reset(mark)
        return mark

    def reset(self, mark: float) -> None:
        """Restart the counts, unless they began at that time or later."""
        with self._lock:
            if mark <= self._mark:
                return
            self._begin(mark, mark)
        self._aside(self.keep)

    def keep(self) -> None:
        """Write the counts to the store; call this on a thread."""
        if self._file is not None:
            self._written = time.monotonic()
            self._file.write(self._kept())

    def _kept(self) -> StoredStatistics:
        with self._lock:
            seconds = self._spent + time.monotonic() - self._begun
            seen = self._seen + self._responses.inference_count
            return StoredStatistics(self._mark, self._since, seen, seconds, self._total, self._recent.both())

    def counted(self, *, lately: bool) -> RowStatistics:
        """Statistics of all workers over all sampled rows since the counts began, or over the latest ones. Call it
        on a thread."""
        own = self._kept()
        all_ = [own, *([] if self._file is None else self._file.others())]
        merged = store.merged(all_)
        if merged.mark > own.mark:  # this process does not know of the restart yet
            self.reset(merged.mark)
        tally = merged.recent if lately else merged.total
        processes = sum(item.mark == merged.mark for item in all_)
        nodes = self._nodes.compared(tally)
        return RowStatistics(nodes, tally, merged.seen, merged.seconds, merged.since, processes)

    def rows(self) -> Sequence[KeptRow]:
        """The stored rows among the latest ones."""
        with self._lock:
            return self._rows.latest()

    def drift_history(self) -> Sequence[PastDrift]:
        """The drift of the latest rows of this process in each minute of the last hour, the oldest first."""
        with self._lock:
            return self._history.entries()

    def _work(self, copies: Sequence[Callable[[], Copy]]) -> None:
        begun = time.thread_time()
        feeds: list[Mapping[str, Array]] = []
        for start in range(0, len(copies), PIECE):
            feeds += [copy()[0] for copy in copies[start : start + PIECE]]
            resources.yield_lock()
        rows = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        count = len(next(iter(rows.values())))
        start = 0
        while start < count:
            end = start + self._recent.room
            with contextlib.suppress(KanserveError):  # a successful request can fail here for lack of memory
                self._take(batching.select_rows(rows, start, end))
            start = end
            resources.yield_lock()
        cost = (time.thread_time() - begun) / max(count, 1)
        self._cost = cost if not self._cost else 0.8 * self._cost + 0.2 * cost

    def _take(self, rows: Mapping[str, Array]) -> None:
        tally = self._nodes.count(self._run, rows)
        with self._lock:
            self._recent.add(tally)
            self._total = self._total.plus(tally)
            if self.most_rows:
                self._rows.add(rows)
        if not self._ended:
            self._count.inc(tally.rows)
            for number, count in zip(self._classes, tally.classes.tolist(), strict=False):
                number.inc(count)

    def _tell(self) -> None:
        """Set the metrics: the most important figures of each layer."""
        with self._lock:
            tally, history = self._recent.both(), self._history
        compared = self._nodes.compared(tally)
        largest = max(((part.drift.ratio, part.layer) for part in compared if part.drift is not None), default=None)
        latest = None
        if largest is not None and tally.rows:
            ratio, layer = largest
            place = "the outputs" if layer == OUTPUT else f"the inputs of layer {layer}"
            latest = LatestDrift(tally.rows, ratio, place)
        self.drift = latest
        if tally.rows:
            with self._lock:
                history.add(compared)
        with self._lock:  # otherwise an unloaded version could get its series again
            for nodes in () if self._ended else compared:
                if nodes.drift is not None:
                    outside = float(np.nan_to_num(nodes.drift.out_of_range).mean())
                    self._set(nodes, nodes.drift.ratio, outside)
        if self._file is not None and time.monotonic() > self._written + self._file.every:
            self.keep()

    def _set(self, nodes: NodeStatistics, ratio: float, outside: float) -> None:
        """Set the metrics of some nodes. Drift needs a baseline; without one, its metrics are not set."""
        if nodes.drift is None:
            return
        labels = (*self._labels, "output" if nodes.layer == OUTPUT else str(nodes.layer))
        before = float(np.nan_to_num(nodes.drift.baseline_out_of_range).mean())
        self._metrics.number("kanserve_drift_psi_ratio").labels(*labels).set(ratio)
        self._metrics.number("kanserve_out_of_range_ratio").labels(*labels).set(outside)
        self._metrics.number("kanserve_baseline_out_of_range_ratio").labels(*labels).set(before)


def _ended(work: Future[None]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        log.warning("statistics_failed", exc_info=error)


@dataclass(frozen=True, slots=True)
class KeptRow:
    """Row [...] by input. `at`: time of the sampling, in seconds since the epoch."""

    at: float
    values: Mapping[str, Array]


class KeptRows:
    """Uniform sample of `most` rows from a window of `window` rows (Vitter's algorithm R). Rows of the previous
    window fill it up while the current one has fewer."""

    def __init__(self, most: int, window: int, seed: int | None = None) -> None:
        self._most, self._window = most, max(window, most)
        self._random = random.Random(seed)
        self._now: list[tuple[int, KeptRow]] = []
        self._before: list[tuple[int, KeptRow]] = []
        self._count = 0

    def add(self, rows: Mapping[str, Array]) -> None:
        """Add rows [B, ...] by input."""
        at, size = time.time(), len(next(iter(rows.values())))
        for row in range(size):
            if self._count and not self._count % self._window:
                self._before, self._now = self._now, []
            place = len(self._now)
            if place >= self._most:  # then the row takes the place of another one, or none
                place = self._random.randrange(self._count % self._window + 1)
            if place < self._most:
                row_entry = KeptRow(at, {name: values[row].copy() for name, values in rows.items()})
                self._now[place : place + 1] = [(self._count, row_entry)]
            self._count += 1

    def latest(self) -> Sequence[KeptRow]:
        """The sampled rows, the newest first."""
        newest_first = (sorted(part, key=lambda item: -item[0]) for part in (self._now, self._before))
        return [row for part in newest_first for _, row in part][: self._most]


MINUTE, ENTRIES = 60.0, 60
NODES = 4096  # of a layer; the history of a wider layer has the largest ratio only


@dataclass(frozen=True, slots=True)
class PastDrift:
    """Drift of the latest rows at a time."""

    at: float  # seconds since the epoch
    # Per layer [n]: PSI of each node, divided by its no-drift threshold; [1] for a layer of more than NODES.
    ratio: Mapping[int, Array]
    # Per layer: the largest share of out-of-range values of a node; NaN without values.
    out_of_range: Mapping[int, float]


class DriftHistory:
    """The drift at the end of each minute with traffic. `clock`: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: deque[PastDrift] = deque(maxlen=ENTRIES)

    def add(self, compared: Sequence[NodeStatistics]) -> None:
        """Add the present drift, in place of an entry of the same minute."""
        known = {part.layer: part.drift for part in compared if part.drift is not None}
        if not known:
            return
        ratio, out_of_range = {}, {}
        for layer, drift in known.items():
            values = ratios(drift.psi, drift.psi_threshold).astype(np.float32)
            ratio[layer] = values if len(values) <= NODES else values.max(keepdims=True)
            out_of_range[layer] = float(np.fmax.reduce(drift.out_of_range))
        now = self._clock()
        while self._entries and self._entries[-1].at // MINUTE >= now // MINUTE:  # also if the clock was set back
            self._entries.pop()
        self._entries.append(PastDrift(now, ratio, out_of_range))

    def entries(self) -> Sequence[PastDrift]:
        """The entries of the last hour, the oldest first."""
        oldest = self._clock() - ENTRIES * MINUTE
        return [entry for entry in tuple(self._entries) if entry.at > oldest]
