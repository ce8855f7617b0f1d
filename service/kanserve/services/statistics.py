"""What a model's numbers are, beside what they were: bounds first, then the work."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from kanexport.contract.manifest import Manifest
from kanserve.analysis.histogram import Counts
from kanserve.errors import BadRequest, FailedPrecondition, NotFound, ResourceExhausted, Unavailable, WatchesLimited
from kanserve.insight import edge_scores
from kanserve.insight.live import KeptRow, TrafficSampler, TrafficStatistics
from kanserve.insight.statistics import NodeCounts, NodeStatistics
from kanserve.models.model import Model
from kanserve.services.kan import Kan, alone
from kanserve.types import EdgeRequest, LayerScores, ModelInfo

ROWS, LIVE, TOTAL, BASELINE, BEST = "rows", "live", "total", "baseline", "best"
# The reasons why there are no scores over so few rows, and the notes on existing scores.
LITTLE = {
    LIVE: "model '{name}' has too little live traffic: {rows} rows were analysed since the statistics began, and "
    "scores need two or more",
    BASELINE: "model '{name}' has a baseline of {rows} rows, scores take two or more: its export is given some by "
    "`kanserve export --baseline`",
}
NOTES: dict[str, tuple[str, ...]] = {
    LIVE: (),
    BASELINE: ("the export keeps counts of these rows, not the rows: scores are over the counts",),
}
NONE_KEPT = (
    "the server keeps no rows of live traffic, because they are clients' data; `kanserve serve --sample-rows N` "
    "(sample_rows) allows it"
)


@dataclass(frozen=True, slots=True)
class Found:
    """The answer. `over`: the caller's rows, the latest of the traffic (LIVE), or all that were looked into since they
    are counted (TOTAL); of the latter two the rest as of `Counted`."""

    info: ModelInfo
    id: str
    rows: int
    nodes: Sequence[NodeStatistics]
    classes: Counts
    source: str = ROWS
    rows_seen: int = 0
    seconds: float = 0.0
    since: float = 0.0
    processes: int = 0


async def statistics(kan: Kan, request: EdgeRequest, source: str = "") -> Found:
    """Over the caller's rows, or where there are none over the model's traffic. Raises BadRequest, ResourceExhausted,
    FailedPrecondition, and what `Model.edges` does."""
    if request.row_count:
        return await _of_rows(kan, request, source)
    model, _ = described(kan, request.model, request.version)
    return found(model.info, request.id, source, await counted(live_statistics(model), source))


async def _of_rows(kan: Kan, request: EdgeRequest, source: str) -> Found:
    model, manifest = kan.describe(request.model, request.version)
    if source not in ("", ROWS):
        raise BadRequest(f"statistics over '{source[:32]}' are of the model's traffic: send no rows with it")
    if not manifest.baseline.rows:
        raise FailedPrecondition(
            f"model '{model.info.name}' has nothing to compare with: its export was given no rows "
            "(kanserve export --baseline)"
        )
    rows = kan.rows(model.info, request.rows, request.row_count)
    nodes, classes = await model.statistics(manifest, rows, deadline=request.deadline, caller=request.caller)
    return Found(model.info, request.id, request.row_count, nodes, classes)


def described(kan: Kan, name: str, version: str) -> tuple[Model, object]:
    """As `Kan.describe`; of a version that serves no more it is said which one does."""
    try:
        return kan.describe(name, version)
    except (NotFound, Unavailable) as error:
        default = kan.registry.default(name)
        if not version or default is None:
            raise
        raise type(error)(
            f"{error}; version {default} of model '{name}' answers now, and statistics are of versions that serve"
        ) from error


def live_statistics(model: Model) -> TrafficSampler:
    """Raises FailedPrecondition."""
    if model.live is None:
        raise FailedPrecondition(f"{model.blind or 'the version is on its way out'}: send rows")
    return model.live


@dataclass(frozen=True, slots=True)
class Kept:
    """Of the latest rows that a version was asked, `rows`, the newest first: `most` of them, or in `note` why there are
    none. `counted`: whether there are statistics of them."""

    info: ModelInfo
    most: int
    rows: Sequence[KeptRow]
    counted: bool
    note: str


def kept(kan: Kan, name: str, version: str) -> Kept:
    """Raises NotFound, FailedPrecondition, BadRequest, Unavailable."""
    model, _ = described(kan, name, version)
    sampler = model.live
    if sampler is None:
        return Kept(model.info, 0, (), counted=False, note=model.blind or "the version is on its way out")
    note = "" if sampler.most_rows else NONE_KEPT
    return Kept(model.info, sampler.most_rows, sampler.rows(), counted=True, note=note)


async def counted(sampler: TrafficSampler, source: str) -> TrafficStatistics:
    """Raises BadRequest."""
    if source not in ("", LIVE, TOTAL):
        raise BadRequest(f"statistics are over '{LIVE}' or '{TOTAL}', '{source[:32]}' was asked for")
    return await asyncio.to_thread(sampler.counted, lately=source != TOTAL)


def found(info: ModelInfo, id: str, source: str, what: TrafficStatistics) -> Found:
    """What was counted, as an answer."""
    return Found(
        info,
        id,
        what.rows,
        what.nodes,
        what.classes,
        source or LIVE,
        what.seen,
        what.seconds,
        what.since,
        what.processes,
    )


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores over counted rows: `over` names the counts, with the number of rows and notes for the reader."""

    info: ModelInfo
    source: str
    rows: int
    layers: tuple[LayerScores, ...]
    notes: tuple[str, ...]


def best(kan: Kan, request: EdgeRequest) -> str:
    """The rows that give a model the most useful scores: BASELINE if its export has one and its edges are curves.
    Otherwise "", which means the reference rows. Raises what `Kan.describe` does."""
    _, manifest = kan.describe(request.model, request.version)
    try:
        _counted_of(kan, manifest, edge_scores.baseline_counts(manifest))
    except (FailedPrecondition, ResourceExhausted):
        return ""
    return BASELINE


async def counted_scores(kan: Kan, request: EdgeRequest, source: str) -> Scored:
    """The importance of each edge over counted rows. LIVE: the traffic of a version since its counts began. BASELINE:
    the rows that its export was given. Raises BadRequest, ResourceExhausted, FailedPrecondition, and what `Model.edges`
    does."""
    if source not in (LIVE, BASELINE):
        raise BadRequest(
            f"scores are over the rows that come with them, or over '{LIVE}', '{BASELINE}' or '{BEST}'; "
            f"'{source[:32]}' was asked for"
        )
    if request.row_count:
        of = "the model's traffic" if source == LIVE else "the rows that the export was given"
        raise BadRequest(f"scores over '{source}' are of {of}: send no rows with it")
    described(kan, request.model, request.version)
    model, manifest = kan.scored(request)
    tally = (
        (await counted(live_statistics(model), TOTAL)).tally
        if source == LIVE
        else edge_scores.baseline_counts(manifest)
    )
    _counted_of(kan, manifest, tally, LITTLE[source])
    result = await model.live_scores(manifest, tally, deadline=request.deadline, caller=request.caller)
    return Scored(model.info, source, tally.rows, result.layers, (*NOTES[source], *result.notes))


def _counted_of(kan: Kan, manifest: Manifest, tally: NodeCounts, little: str = "{name}: {rows} rows") -> None:
    """Raises FailedPrecondition for edges that are not curves and for too few rows, ResourceExhausted for too much
    work."""
    for at in range(len(manifest.layers)):
        alone(manifest, at)
    if tally.rows < 2:
        raise FailedPrecondition(little.format(name=manifest.name, rows=tally.rows))
    most = 2 * max(window.cells.shape[1] for window in tally.windows)
    kan.bound_work([dataclasses.replace(layer, positions=()) for layer in manifest.layers], most, "points")


def reset(kan: Kan, name: str, version: str) -> tuple[ModelInfo, float]:
    """Count anew what a version is asked, from now on, which is told in seconds since the epoch. Raises what
    `statistics` does."""
    model, _ = described(kan, name, version)
    return model.info, live_statistics(model).anew()


LEAST, USUAL, LONGEST = 1.0, 2.0, 3600.0  # seconds between two updates
MOST = 10_000  # updates of one watch
FRESH = LEAST / 2  # seconds for which all watches share the same counts
SHARE = 4  # one caller may have this part of all watches


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Which version, "" for the one that answers, and over which rows, as of `statistics`; seconds between two updates
    (0: as usual), and how many of them (0: as many as there may be)."""

    model: str
    version: str
    id: str = ""
    source: str = ""
    interval: float = 0.0
    updates: int = 0
    caller: str = ""


@dataclass(slots=True)
class _Counted:
    """The last counts for `users` watches of the same statistics, and the time when they were made."""

    users: int = 0
    task: asyncio.Task[TrafficStatistics] | None = None
    at: float = 0.0

    async def latest(self, live: TrafficSampler, source: str) -> TrafficStatistics:
        """The latest counts. All watches share one count within FRESH seconds. Raises BadRequest."""
        now = time.monotonic()
        if self.task is None or (self.task.done() and now - self.at > FRESH):
            self.task, self.at = asyncio.ensure_future(counted(live, source)), now
            self.task.add_done_callback(_seen)
        return await asyncio.shield(self.task)


class Watches:
    """The watches of one server: at most `most` at once, and a quarter of these for one caller with a known name. All
    watches of the same statistics share their counts. `closing`: set when the server rejects all requests."""

    def __init__(self, kan: Kan, closing: asyncio.Event, most: int) -> None:
        self._kan, self._closing, self.most = kan, closing, most
        self._open: dict[asyncio.Event, str] = {}  # with the name of the caller
        self._counted: dict[tuple[TrafficSampler, str], _Counted] = {}
        kan.registry.tell(self._wake)

    def _wake(self) -> None:
        for event in self._open:
            event.set()

    async def watch(self, request: WatchRequest) -> AsyncGenerator[tuple[Found, str]]:
        """Statistics now and after each interval; with the last of them why there are no more. Raises BadRequest,
        WatchesLimited, and what `statistics` does."""
        interval, most = _in_reason(request)
        self._bound(request.caller)
        model, _ = described(self._kan, request.model, request.version)
        info, live = model.info, live_statistics(model)
        del model  # nobody here keeps it from being freed
        woken = asyncio.Event()
        self._open[woken] = request.caller
        shared = self._counted.setdefault((live, request.source), _Counted())
        shared.users += 1
        try:
            for sent in range(1, most + 1):
                counted = await shared.latest(live, request.source)
                ended = self._ended(info, live, request.version)
                if not ended and sent == most:
                    ended = f"{most} updates were sent"
                yield found(info, request.id, request.source, counted), ended
                if ended:
                    return
                await self._pause(woken, interval, info, live, request.version)
        finally:
            del self._open[woken]
            shared.users -= 1
            if not shared.users:
                self._counted.pop((live, request.source), None)

    def forget(self) -> None:
        """Forget the last counts: counting starts again."""
        for shared in self._counted.values():
            shared.task = None

    def _bound(self, caller: str) -> None:
        """Raises WatchesLimited."""
        if len(self._open) >= self.most:
            raise WatchesLimited(
                f"{self.most} watches of statistics are open, which is as many as there may be (max_watch_streams)"
            )
        own, most = list(self._open.values()).count(caller), max(1, self.most // SHARE)
        if caller and own >= most:
            raise WatchesLimited(
                f"{caller} has {own} watches of statistics open, which is as many as one caller may have (a quarter of "
                "max_watch_streams)"
            )

    async def _pause(
        self, woken: asyncio.Event, seconds: float, info: ModelInfo, live: TrafficSampler, version: str
    ) -> None:
        """So long, or until there is a reason to end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._ended(info, live, version):
            woken.clear()
            waiting = [asyncio.ensure_future(event.wait()) for event in (woken, self._closing)]
            try:
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for waiter in waiting:
                    waiter.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await waiter

    def _ended(self, info: ModelInfo, live: TrafficSampler, version: str) -> str:
        """Why there is nothing more to tell, or ""."""
        if self._closing.is_set():
            return "the server is on its way out"
        registry = self._kan.registry
        model, default = registry.model(info.name, info.version), registry.default(info.name)
        now = "none answers now" if default is None else f"version {default} answers now"
        if model is None:
            return f"version {info.version} serves no more, {now}"
        if model.live is not live:
            return f"version {info.version} was replaced by another of that number"
        return "" if version or default == info.version else now


def _seen(task: asyncio.Task[TrafficStatistics]) -> None:
    """Read the error of a task that no watch waits for any more, because asyncio would log an unread error."""
    if not task.cancelled():
        task.exception()


def _in_reason(request: WatchRequest) -> tuple[float, int]:
    """Raises BadRequest."""
    interval = request.interval or USUAL
    if not (math.isfinite(interval) and LEAST <= interval <= LONGEST):
        raise BadRequest(
            f"{interval:g} seconds between two updates were asked for, {LEAST:g} to {LONGEST:g} were expected"
        )
    if request.updates > MOST:
        raise BadRequest(f"{request.updates} updates were asked for, one watch has {MOST} at most")
    return interval, request.updates or MOST
