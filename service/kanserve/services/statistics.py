"""Use cases of statistics: over a client's rows, over the traffic, and as a stream of updates."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from kanexport.shared.manifest import Manifest
from kanserve.errors import BadRequest, FailedPrecondition, NotFound, ResourceExhausted, Unavailable, WatchesLimited
from kanserve.insight import edge_scores
from kanserve.insight import statistics as node_statistics
from kanserve.insight.statistics import NodeCounts, RowStatistics
from kanserve.insight.traffic_sampler import KeptRow, PastDrift, TrafficSampler
from kanserve.models.model import Model
from kanserve.services.kan import Kan, alone
from kanserve.types import EdgeRequest, ModelInfo, Scores

ROWS, LIVE, TOTAL, BASELINE, BEST = "rows", "live", "total", "baseline", "best"
NOTES: dict[str, tuple[str, ...]] = {
    LIVE: (),
    BASELINE: ("the export stores counts of these rows, not the rows; the scores are computed from the counts",),
}
NONE_KEPT = (
    "the server keeps no rows of live traffic, because they are data of clients; `kanserve serve --sample-rows N` "
    "(sample_rows) allows it"
)
SHUTTING_DOWN = "the version is being unloaded"


@dataclass(frozen=True, slots=True)
class StatisticsResult:
    """Statistics for a request with this `id`. `source`: the client's rows (ROWS), the latest traffic (LIVE), or all
    traffic since the counts began (TOTAL)."""

    info: ModelInfo
    id: str
    source: str
    over: RowStatistics


async def statistics(kan: Kan, request: EdgeRequest, source: str = "") -> StatisticsResult:
    """Statistics over the client's rows, or without rows over the model's traffic. Raises BadRequest,
    ResourceExhausted, FailedPrecondition, and the errors of `Model.results`."""
    if not request.row_count:
        model = described(kan, request.model, request.version)
        counted = await traffic_statistics(live_statistics(model), source)
        return StatisticsResult(model.info, request.id, source or LIVE, counted)
    model, manifest = kan.describe(request.model, request.version)
    if source not in ("", ROWS):
        raise _rows_with_source(source)
    if not manifest.baseline.rows:
        raise FailedPrecondition(
            f"model '{model.info.name}' has no baseline to compare the rows with",
            code="baseline-missing",
            hint="export the model with --baseline FILE",
        )
    rows = kan.rows(model.info, request.rows, request.row_count)
    steps = node_statistics.compute(model.session, manifest, rows, step=model.step_rows)
    return StatisticsResult(model.info, request.id, ROWS, await model.result(steps, request))


def _rows_with_source(source: str) -> BadRequest:
    return BadRequest(
        f"the source '{source[:32]}' cannot be combined with rows",
        code="rows-with-source",
        hint="send the rows without a source, or the source without rows",
    )


def described(kan: Kan, name: str, version: str) -> Model:
    """The version as `Kan.describe` returns it. If the server no longer serves it, the error names the default
    version."""
    try:
        return kan.describe(name, version)[0]
    except (NotFound, Unavailable) as error:
        default = kan.registry.default(name)
        if not version or default is None:
            raise
        raise type(error)(
            str(error),
            code=error.code,
            hint=f"send version {default}, the default version of model '{name}', or no version",
        ) from error


def live_statistics(model: Model) -> TrafficSampler:
    """The statistics of a version's traffic. Raises FailedPrecondition if there are none."""
    if model.live is None:
        raise FailedPrecondition(
            model.blind or SHUTTING_DOWN,
            code="statistics-not-available",
            hint="send rows with the request, or enable statistics on the server",
        )
    return model.live


@dataclass(frozen=True, slots=True)
class RecentRows:
    """Latest rows of a version's traffic."""

    info: ModelInfo
    most: int  # number of rows that the server keeps
    rows: Sequence[KeptRow]  # kept rows, the newest first
    counted: bool  # whether the version has statistics
    note: str  # reason for an empty `rows`


def recent_rows(kan: Kan, name: str, version: str) -> RecentRows:
    """The latest rows of a version's traffic. Raises NotFound, FailedPrecondition, BadRequest, Unavailable."""
    model = described(kan, name, version)
    sampler = model.live
    if sampler is None:
        return RecentRows(model.info, 0, (), counted=False, note=model.blind or SHUTTING_DOWN)
    note = "" if sampler.most_rows else NONE_KEPT
    return RecentRows(model.info, sampler.most_rows, sampler.rows(), counted=True, note=note)


def drift_history(kan: Kan, name: str, version: str) -> tuple[ModelInfo, Sequence[PastDrift]]:
    """The drift of a version's traffic in each minute of the last hour, the oldest first. Raises the errors of
    `statistics`."""
    model = described(kan, name, version)
    return model.info, live_statistics(model).drift_history()


async def traffic_statistics(sampler: TrafficSampler, source: str) -> RowStatistics:
    """The statistics of a version's traffic. Raises BadRequest for an unknown source."""
    if source not in ("", LIVE, TOTAL):
        raise BadRequest(
            f"unknown source '{source[:32]}', expected '{LIVE}' or '{TOTAL}'",
            code="source-unknown",
            hint=f"send '{LIVE}' for the latest traffic, or '{TOTAL}' for all",
        )
    return await asyncio.to_thread(sampler.counted, lately=source != TOTAL)


async def scores(kan: Kan, request: EdgeRequest, source: str) -> tuple[ModelInfo, Scores]:
    """The importance of each edge. Raises BadRequest, ResourceExhausted, FailedPrecondition, and the errors of
    `Model.results`.

    source  "": the rows of the request, or without rows the reference rows of the export
            LIVE: the counted traffic of the version since its counts began
            BASELINE: the counted baseline rows of its export
            BEST: without rows in the request BASELINE if that has scores, otherwise the reference rows
    """
    if source == BEST and not request.row_count:
        _, manifest = kan.describe(request.model, request.version)
        try:
            _counted_of(kan, manifest, edge_scores.baseline_counts(manifest))
        except (FailedPrecondition, ResourceExhausted):
            source = ""
        else:
            source = BASELINE
    if not source:
        return await kan.scores(request)
    if source not in (LIVE, BASELINE):
        raise BadRequest(
            f"unknown source '{source[:32]}', expected '{LIVE}', '{BASELINE}' or '{BEST}'",
            code="source-unknown",
            hint="send one of these sources, or send rows without a source",
        )
    if request.row_count:
        raise _rows_with_source(source)
    described(kan, request.model, request.version)
    model, manifest = kan.scored(request)
    tally = (
        (await traffic_statistics(live_statistics(model), TOTAL)).tally
        if source == LIVE
        else edge_scores.baseline_counts(manifest)
    )
    _counted_of(kan, manifest, tally)
    layers, notes = await model.result(edge_scores.traffic_scores(model.edge_graphs, manifest, tally), request)
    return model.info, Scores(str(model.info.version), source, tally.rows, layers, (*NOTES[source], *notes))


def _counted_of(kan: Kan, manifest: Manifest, tally: NodeCounts) -> None:
    """Raises FailedPrecondition for edges without curves and for too few rows, ResourceExhausted for too much work."""
    for at in range(len(manifest.layers)):
        alone(manifest, at)
    if tally.rows < 2:
        raise FailedPrecondition(
            f"scores of model '{manifest.name}' need 2 or more rows, found {tally.rows}",
            code="too-few-rows",
            hint="send rows with the request; or send traffic, or export the model with --baseline FILE",
        )
    most = 2 * max(window.cells.shape[1] for window in tally.windows)
    kan.bound_work([dataclasses.replace(layer, positions=()) for layer in manifest.layers], most, "points")


def reset(kan: Kan, name: str, version: str) -> tuple[ModelInfo, float]:
    """Restart the statistics of a version's traffic. Returns the time in seconds since the epoch. Raises the errors of
    `statistics`."""
    model = described(kan, name, version)
    return model.info, live_statistics(model).anew()


LEAST, USUAL, LONGEST = 1.0, 2.0, 3600.0  # seconds between two updates
MOST = 10_000  # updates of one watch
FRESH = LEAST / 2  # seconds for which all watches share the same counts
SHARE = 4  # one caller may have this part of all watches


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Request for a stream of statistics."""

    model: str
    version: str  # version; "" for the default version
    id: str = ""
    source: str = ""  # as of `statistics`
    interval: float = 0.0  # seconds between two updates; 0: the default
    updates: int = 0  # number of updates; 0: no limit
    caller: str = ""


@dataclass(slots=True)
class _Counted:
    """Last counts for `users` watches of the same statistics, and the time of the counts."""

    users: int = 0
    task: asyncio.Task[RowStatistics] | None = None
    at: float = 0.0

    async def latest(self, live: TrafficSampler, source: str) -> RowStatistics:
        """The latest counts. All watches share one count within FRESH seconds. Raises BadRequest."""
        now = time.monotonic()
        if self.task is None or (self.task.done() and now - self.at > FRESH):
            self.task, self.at = asyncio.ensure_future(traffic_statistics(live, source)), now
            self.task.add_done_callback(_seen)
        return await asyncio.shield(self.task)


class Watches:
    """Watches of one server. All watches of the same statistics share their counts.

    closing  set when the server rejects all requests
    most     watches at the same time; one caller with a known name may have 25% of these
    """

    def __init__(self, kan: Kan, closing: asyncio.Event, most: int) -> None:
        self._kan, self._closing, self.most = kan, closing, most
        self._open: dict[asyncio.Event, str] = {}  # with the name of the caller
        self._counted: dict[tuple[TrafficSampler, str], _Counted] = {}
        kan.registry.subscribe(self._wake)

    def _wake(self) -> None:
        for event in self._open:
            event.set()

    async def watch(self, request: WatchRequest) -> AsyncGenerator[tuple[StatisticsResult, str]]:
        """Statistics now and after each interval; the last ones have the reason for the end. Raises BadRequest,
        WatchesLimited, and the errors of `statistics`."""
        interval, most = _in_reason(request)
        if len(self._open) >= self.most:
            raise WatchesLimited(
                f"{self.most} watches of statistics are open, which is the limit max_watch_streams",
                code="too-many-watches",
                hint="close a watch, or raise max_watch_streams on the server",
            )
        own = list(self._open.values()).count(request.caller)
        if request.caller and own >= max(1, self.most // SHARE):
            raise WatchesLimited(
                f"{request.caller} has {own} open watches of statistics, the limit of one caller (25% of "
                "max_watch_streams)",
                code="too-many-watches",
                hint="close a watch, or raise max_watch_streams on the server",
            )
        model = described(self._kan, request.model, request.version)
        info, live = model.info, live_statistics(model)
        del model  # the watch does not keep its memory
        woken = asyncio.Event()
        self._open[woken] = request.caller
        shared = self._counted.setdefault((live, request.source), _Counted())
        shared.users += 1
        try:
            for sent in range(1, most + 1):
                counted = await shared.latest(live, request.source)
                ended = self._ended(info, live, request.version)
                if not ended and sent == most:
                    ended = f"the watch has sent {most} updates"
                yield StatisticsResult(info, request.id, request.source or LIVE, counted), ended
                if ended:
                    return
                end = time.monotonic() + interval
                while (left := end - time.monotonic()) > 0 and not self._ended(info, live, request.version):
                    woken.clear()
                    waiting = [asyncio.ensure_future(event.wait()) for event in (woken, self._closing)]
                    try:
                        await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for waiter in waiting:
                            waiter.cancel()
                            with contextlib.suppress(asyncio.CancelledError):
                                await waiter
        finally:
            del self._open[woken]
            shared.users -= 1
            if not shared.users:
                self._counted.pop((live, request.source), None)

    def forget(self) -> None:
        """Forget the last counts, because the counts start again."""
        for shared in self._counted.values():
            shared.task = None

    def _ended(self, info: ModelInfo, live: TrafficSampler, version: str) -> str:
        """The reason why a watch ends, or ""."""
        if self._closing.is_set():
            return "the server is shutting down"
        registry = self._kan.registry
        model, default = registry.model(info.name, info.version), registry.default(info.name)
        now = "no version is ready" if default is None else f"the default version is {default}"
        if model is None:
            return f"version {info.version} is no longer served; {now}"
        if model.live is not live:
            return f"version {info.version} was replaced by another one with this number"
        return "" if version or default == info.version else now


def _seen(task: asyncio.Task[RowStatistics]) -> None:
    """Read the error of a task that no watch waits for any more, because asyncio would log an unread error."""
    if not task.cancelled():
        task.exception()


def _in_reason(request: WatchRequest) -> tuple[float, int]:
    """Interval and number of updates of a watch. Raises BadRequest."""
    interval = request.interval or USUAL
    if not (math.isfinite(interval) and LEAST <= interval <= LONGEST):
        raise BadRequest(
            f"interval is {interval:g} seconds, expected {LEAST:g} to {LONGEST:g}",
            code="watch-interval-invalid",
            hint=f"send 0 for the default of {USUAL:g} seconds",
        )
    if request.updates > MOST:
        raise BadRequest(
            f"updates is {request.updates}, expected at most {MOST}",
            code="watch-updates-invalid",
            hint="send 0 for the largest number, and start another watch after it",
        )
    return interval, request.updates or MOST
