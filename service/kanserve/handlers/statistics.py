"""What a model's numbers are, beside what they were: bounds first, then the work."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from kanexport.manifest import Manifest
from kanserve.errors import BadRequest, Exhausted, NotFound, NotPossible, Unavailable
from kanserve.handlers.kan import Kan, alone
from kanserve.interpret.window import Counts
from kanserve.models import live_scores
from kanserve.models.kept_rows import KeptRow
from kanserve.models.live import Counted, Live
from kanserve.models.model import Model
from kanserve.models.statistics import NodeStatistics, Tally
from kanserve.nouns import EdgeRequest, LayerScores, ModelInfo

ROWS, LIVE, TOTAL, BASELINE, BEST = "rows", "live", "total", "baseline", "best"
# The reasons why there are no scores over so few rows, and the notes on existing scores.
LITTLE = {
    LIVE: "model '{name}' was asked too little: {rows} rows were looked into since it is counted, scores are of what "
    "moves from row to row, and take two or more",
    BASELINE: "model '{name}' has a baseline of {rows} rows, scores take two or more: its export is given some by "
    "`kanserve export --reference`",
}
NOTES: dict[str, tuple[str, ...]] = {
    LIVE: (),
    BASELINE: ("the export keeps counts of these rows, not the rows: scores are over the counts",),
}
NONE_KEPT = (
    "no rows of what models are asked are kept: they are callers' data, and `kanserve serve --keep-rows N` (keep_rows) "
    "says that some may be"
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
    over: str = ROWS
    seen: int = 0
    seconds: float = 0.0
    since: float = 0.0
    processes: int = 0


async def statistics(kan: Kan, request: EdgeRequest, over: str = "") -> Found:
    """Over the caller's rows, or where there are none over the model's traffic. Raises BadRequest, Exhausted,
    NotPossible, and what `Model.edges` does."""
    if request.row_count:
        return await _of_rows(kan, request, over)
    model, _ = described(kan, request.model, request.version)
    return found(model.info, request.id, over, await counted(live(model), over))


async def _of_rows(kan: Kan, request: EdgeRequest, over: str) -> Found:
    model, manifest = kan.describe(request.model, request.version)
    if over not in ("", ROWS):
        raise BadRequest(f"statistics over '{over[:32]}' are of the model's traffic: send no rows with it")
    if not manifest.baseline.rows:
        raise NotPossible(
            f"model '{model.info.name}' has nothing to compare with: its export was given no rows "
            "(kanserve export --reference)"
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


def live(model: Model) -> Live:
    """Raises NotPossible."""
    if model.live is None:
        raise NotPossible(f"{model.blind or 'the version is on its way out'}: send rows")
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
    """Raises NotFound, NotPossible, BadRequest, Unavailable."""
    model, _ = described(kan, name, version)
    one = model.live
    if one is None:
        return Kept(model.info, 0, (), counted=False, note=model.blind or "the version is on its way out")
    note = "" if one.most_rows else NONE_KEPT
    return Kept(model.info, one.most_rows, one.rows(), counted=True, note=note)


async def counted(one: Live, over: str) -> Counted:
    """Raises BadRequest."""
    if over not in ("", LIVE, TOTAL):
        raise BadRequest(f"statistics are over '{LIVE}' or '{TOTAL}', '{over[:32]}' was asked for")
    return await asyncio.to_thread(one.counted, lately=over != TOTAL)


def found(info: ModelInfo, id: str, over: str, what: Counted) -> Found:
    """What was counted, as an answer."""
    return Found(
        info,
        id,
        what.rows,
        what.nodes,
        what.classes,
        over or LIVE,
        what.seen,
        what.seconds,
        what.since,
        what.processes,
    )


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores over counted rows: `over` names the counts, with the number of rows and notes for the reader."""

    info: ModelInfo
    over: str
    rows: int
    layers: tuple[LayerScores, ...]
    notes: tuple[str, ...]


def best(kan: Kan, request: EdgeRequest) -> str:
    """The rows that give a model the most useful scores: BASELINE if its export has one and its edges are curves.
    Otherwise "", which means the reference rows. Raises what `Kan.describe` does."""
    _, manifest = kan.describe(request.model, request.version)
    try:
        _counted_of(kan, manifest, live_scores.before(manifest))
    except (NotPossible, Exhausted):
        return ""
    return BASELINE


async def counted_scores(kan: Kan, request: EdgeRequest, over: str) -> Scored:
    """The importance of each edge over counted rows. LIVE: the traffic of a version since its counts began. BASELINE:
    the rows that its export was given. Raises BadRequest, Exhausted, NotPossible, and what `Model.edges` does."""
    if over not in (LIVE, BASELINE):
        raise BadRequest(
            f"scores are over the rows that come with them, or over '{LIVE}', '{BASELINE}' or '{BEST}'; "
            f"'{over[:32]}' was asked for"
        )
    if request.row_count:
        of = "the model's traffic" if over == LIVE else "the rows that the export was given"
        raise BadRequest(f"scores over '{over}' are of {of}: send no rows with it")
    described(kan, request.model, request.version)
    model, manifest = kan.scored(request)
    tally = (await counted(live(model), TOTAL)).tally if over == LIVE else live_scores.before(manifest)
    _counted_of(kan, manifest, tally, LITTLE[over])
    found = await model.live_scores(manifest, tally, deadline=request.deadline, caller=request.caller)
    return Scored(model.info, over, tally.rows, found.layers, (*NOTES[over], *found.notes))


def _counted_of(kan: Kan, manifest: Manifest, tally: Tally, little: str = "{name}: {rows} rows") -> None:
    """Raises NotPossible for edges that are not curves and for too few rows, Exhausted for too much work."""
    for at in range(len(manifest.layers)):
        alone(manifest, at)
    if tally.rows < 2:
        raise NotPossible(little.format(name=manifest.name, rows=tally.rows))
    most = 2 * max(window.cells.shape[1] for window in tally.windows)
    kan.bound_work([dataclasses.replace(layer, positions=()) for layer in manifest.layers], most, "points")


def reset(kan: Kan, name: str, version: str) -> tuple[ModelInfo, float]:
    """Count anew what a version is asked, from now on, which is told in seconds since the epoch. Raises what
    `statistics` does."""
    model, _ = described(kan, name, version)
    return model.info, live(model).anew()
