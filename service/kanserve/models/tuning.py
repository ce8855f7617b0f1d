"""Measurements at load that choose how a model runs: on the event loop or on threads, the piece size, and the number of
instances.

Measured on a machine with two cores, [784, 64, 10], 64 rows per request, 4 clients: two executions at the same time,
with one thread each, give 54,400 rows/s, and one execution on two threads gives 33,800. So a model has one instance per
granted thread, each with one thread.

If executions are long, and one on all threads is as fast as several, each uses all threads: a single client waits less
([1024, 1024, 1024], 8 rows: 4.1 ms, not 7.1 ms). With many clients, no execution waits for another's threads. At five
times the capacity, throughput is 90% of the peak, and 70% with one execution at a time.

A measurement takes 10 ms per model, and more next to live traffic. So a server measures the first of many models of
one form, and checks with a few runs that the plan holds for each other one. Then a model with a slow graph and a
manifest of the same form neither gets the plan of another model nor passes on its plan.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kanexport.shared.manifest import Manifest
from kanserve.errors import KanserveError
from kanserve.execution.config import ExecutionPlan
from kanserve.repository.pbtxt import OperatorConfig
from kanserve.runtime.base import Session
from kanserve.types import DTYPES, NUMPY_DTYPES, Array, ModelInfo

MICRO_BATCH_BYTES = 2**21  # of the widest intermediate tensor of one chunk
PLAIN_ONNX_ROWS = 1024  # of a request to a model without a manifest; its config.pbtxt can set another number
PROBES = 5
ROWS = 64  # of a run that is measured
LONG = 2e-3  # seconds of such a run; shorter ones are not worth several threads
SPENT = 0.1  # seconds of each measurement
AS_FAST = 0.85
WIDE = 256  # rows of a chunk of the allowed size, above which no smaller chunk was faster
LEAST = 16  # rows of a matrix product that is worth one
TRIED_LEAST = 4  # rows of the smallest chunk that is measured; of edges without a matrix product, it can be the fastest
FASTER = 0.95
APART = 1.5  # times as long, at most, for a plan of another model

Create = Callable[[int], Session]  # a session whose runs have so many threads


def session_on_all_threads(
    info: ModelInfo, session: Session, create: Create, *, budget: int, piece_rows: int
) -> Session | None:
    """A session whose executions use all threads, if one execution is as fast as several of `session`, which use one
    thread each. Otherwise None. Instances share a large batch by its chunks, so only a chunk that is long itself can
    need several threads."""
    rows = min(ROWS, info.max_batch_size, piece_rows or ROWS)
    if budget == 1 or not LONG < _seconds(session, info, rows) < math.inf:
        return None
    chunk = min(rows, fitting_rows(info, session, piece_rows) or rows)
    feeds = _feeds(info, chunk)
    if feeds is None or (chunk < rows and _best_seconds(session, info, feeds) <= LONG):
        return None
    separate = _rate(session, info, feeds, at_once=budget)
    other = create(budget)
    return other if _rate(other, info, feeds, at_once=1) >= AS_FAST * separate else None


def tried_rows(manifest: Manifest | None) -> int:
    """Rows of the largest run during a load, except for runs that take no time."""
    if manifest is None:
        return ROWS
    most = piece_rows(manifest)
    return min(manifest.max_batch_size, most if most <= WIDE else ROWS)


def piece_rows(manifest: Manifest | None) -> int:
    """Rows whose basis values fill `MICRO_BATCH_BYTES`; 0 if the rows of a batch may depend on each other.

    The widest intermediate tensor of a chunk should stay in a core's cache. Measured on [784, 64, 10], G = 5, 1024
    rows: 19.4 ms in chunks of 64 rows, 61 ms in one chunk.
    """
    if manifest is None:
        return 0
    item = max(DTYPES[tensor.datatype].itemsize for tensor in manifest.inputs)
    widest, positions = 1, 1
    for layer in manifest.layers:
        positions = max(positions, math.prod(layer.positions))  # they count as rows of a matrix product
        for basis in layer.bases:
            functions = basis.functions * layer.sources * (layer.destinations if basis.per_edge else 1)
            widest = max(widest, functions * math.prod(layer.positions))
    return max(1, LEAST // positions, MICRO_BATCH_BYTES // (item * widest))


def fitting_rows(info: ModelInfo, session: Session, most: int) -> int:
    """Rows of a chunk on this machine: `most`, or 50% or 25% of it if rows take less time then. That happens if a
    core's cache is smaller than `MICRO_BATCH_BYTES` assumes."""
    sizes = [rows for rows in (most, most // 2, most // 4) if rows >= TRIED_LEAST]
    if len(sizes) < 2 or not most <= min(WIDE, info.max_batch_size):
        return most
    feeds = {rows: _feeds(info, rows) for rows in sizes}
    best = dict.fromkeys(sizes, math.inf)
    for _ in range(2):  # interleaved, so that a busy moment affects all sizes
        for rows, own in feeds.items():
            if own is not None:
                best[rows] = min(best[rows], _best_seconds(session, info, own) / rows)
    fastest = min(sizes, key=lambda rows: best[rows])
    return fastest if best[fastest] < FASTER * best[most] else most


def times_as_fast(info: ModelInfo, session: Session, other: Session, rows: int) -> float:
    """The speed of `other` relative to `session` in executions of `rows` rows; 0 if it cannot be measured."""
    feeds = _feeds(info, rows)
    if feeds is None:
        return 0.0
    best = [math.inf, math.inf]
    for _ in range(2):  # interleaved, so that a busy moment affects both
        for at, candidate in enumerate((session, other)):
            best[at] = min(best[at], _best_seconds(candidate, info, feeds))
    return best[0] / best[1] if max(best) < math.inf else 0.0


def many_from(info: ModelInfo, few: Session, many: Session, most: int) -> int:
    """Rows from which on the large-batch graph is faster, in all measured runs up to `most` rows (0: of any size); 0 if
    it is not faster."""
    largest = min(info.max_batch_size, most if 0 < most <= WIDE else WIDE)
    sizes = sorted({largest, *(2**at for at in range(4, 20) if 2**at < largest)}, reverse=True)
    threshold = 0
    for rows in sizes:
        feeds = _feeds(info, rows)
        if feeds is None or _best_seconds(many, info, feeds) >= FASTER * _best_seconds(few, info, feeds):
            break
        threshold = rows
    return threshold


def inline_rows(info: ModelInfo, session: Session, inline_run_seconds: float) -> int:
    """Number of rows that run within `inline_run_seconds`, so that they may block the event loop: the largest power of
    two, 0 if one row takes longer.

    The function measures the best of a few runs, so that a busy moment does not decide.
    """
    allowed, rows = 0, 1
    while rows <= info.max_batch_size:
        feeds = _feeds(info, rows)
        if feeds is None or _best_seconds(session, info, feeds) > inline_run_seconds:
            break
        allowed, rows = rows, 2 * rows
    return allowed


def run_seconds(info: ModelInfo, session: Session) -> float:
    """The best time of a run of a usual batch in seconds; infinite if it cannot be measured."""
    return _seconds(session, info, min(ROWS, info.max_batch_size))


def plan_holds(info: ModelInfo, session: Session, seconds: float, inline_rows: int, inline_run_seconds: float) -> bool:
    """Whether a plan that was measured with another model holds for this one. The run that took `seconds` there takes
    as long here, and the largest run on the event loop ends within `inline_run_seconds`, up to `APART`."""
    if not 1 / APART < run_seconds(info, session) / seconds < APART:
        return False
    feeds = _feeds(info, inline_rows) if inline_rows else {}
    return feeds is not None and (not feeds or _best_seconds(session, info, feeds) < APART * inline_run_seconds)


def _feeds(info: ModelInfo, rows: int) -> Mapping[str, Array] | None:
    """Inputs with `rows` rows of zeros; None if the shape is not known, or if the first dimension is not the batch."""
    if info.max_batch_size == 0 or any(-1 in tensor.shape[1:] for tensor in info.inputs):
        return None
    return {tensor.name: np.zeros((rows, *tensor.shape[1:]), NUMPY_DTYPES[tensor.datatype]) for tensor in info.inputs}


def _seconds(session: Session, info: ModelInfo, rows: int) -> float:
    """The best time of a run of `rows` rows in seconds; infinite if it cannot be measured."""
    feeds = _feeds(info, rows)
    return math.inf if feeds is None else _best_seconds(session, info, feeds)


def _best_seconds(session: Session, info: ModelInfo, feeds: Mapping[str, Array]) -> float:
    """The best time of a few executions in seconds. It is infinite if the graph rejects zeros, as a plain one may,
    and then the model runs on the pool."""
    names = [tensor.name for tensor in info.outputs]
    best = math.inf
    for _ in range(PROBES):
        started = time.perf_counter()
        try:
            session.run(names, feeds)
        except KanserveError:
            return math.inf
        best = min(best, time.perf_counter() - started)
        if best > 10 * LONG:
            break
    return best


def _rate(session: Session, info: ModelInfo, feeds: Mapping[str, Array], *, at_once: int) -> float:
    """Runs per second with `at_once` runs at the same time, measured for a short time."""
    names = [tensor.name for tensor in info.outputs]
    end = time.perf_counter() + SPENT

    def work(_: int) -> int:
        count = 0
        while not count or time.perf_counter() < end:
            session.run(names, feeds)
            count += 1
        return count

    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        total = sum(pool.map(work, range(at_once)))
    return total / (time.perf_counter() - started)


MOST_PLANS = 256  # forms whose plans are kept


def form(manifest: Manifest) -> object:
    """The properties of a manifest that determine how long an execution takes; hashable."""
    layers = tuple(
        (x.sources, x.destinations, x.positions, tuple((y.kind, y.functions) for y in x.bases)) for x in manifest.layers
    )
    variants = tuple((variant.file, variant.rows) for variant in manifest.variants)
    return manifest.inputs, manifest.outputs, manifest.max_batch_size, manifest.opset, layers, variants


def plan_key(manifest: Manifest, config: OperatorConfig, library: str) -> object:
    """The form, and the settings on which a plan depends. `library`: path of the custom operator; "" without one."""
    return form(manifest), config.max_batch_size, config.threads, config.instances, library


@dataclass(frozen=True, slots=True)
class MeasuredPlan:
    """Measured execution plan."""

    plan: ExecutionPlan
    seconds: float  # time of one run with it, as `tuning.run_seconds` measures it


class KnownPlans(dict[object, MeasuredPlan]):
    """Measured plans by form, the latest `MOST_PLANS` of them. Several threads may use it."""

    def keep(self, key: object, measured: MeasuredPlan) -> None:
        """Keep a plan for models of this form, in place of an earlier one."""
        self.pop(key, None)
        self[key] = measured
        for oldest in list(self)[:-MOST_PLANS]:
            self.pop(oldest, None)
