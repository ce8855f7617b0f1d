"""What a model's numbers are, beside what they were: bounds first, then the work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kanserve.errors import NotPossible
from kanserve.handlers.kan import Kan
from kanserve.models.statistics import NodeStatistics
from kanserve.nouns import EdgeRequest, ModelInfo

ROWS, LIVE = "rows", "live"


@dataclass(frozen=True, slots=True)
class Found:
    """The answer."""

    info: ModelInfo
    id: str
    rows: int
    nodes: tuple[NodeStatistics, ...]
    over: str = ROWS
    seen: int = 0
    seconds: float = 0.0


async def statistics(kan: Kan, request: EdgeRequest) -> Found:
    """Over the caller's rows, or where there are none over the latest that the model was asked. Raises BadRequest,
    Exhausted, NotPossible, and what `Model.edges` does."""
    model, manifest = kan.describe(request.model, request.version)
    if not manifest.baseline.rows:
        raise NotPossible(
            f"model '{model.info.name}' has nothing to compare with: its export was given no rows "
            "(kanserve export --reference)"
        )
    if not request.row_count:
        if model.live is None:
            raise NotPossible("this server does not look at what models are asked (statistics_rows is 0): send rows")
        latest = await asyncio.to_thread(model.live.latest)
        return Found(model.info, request.id, latest.rows, latest.nodes, LIVE, latest.seen, latest.seconds)
    rows = kan.rows(model.info, request.rows, request.row_count)
    found = await model.statistics(manifest, rows, deadline=request.deadline, caller=request.caller)
    return Found(model.info, request.id, request.row_count, found)
