"""What a model's numbers are, beside what they were: bounds first, then the work."""

from __future__ import annotations

from dataclasses import dataclass

from kanserve.errors import NotPossible
from kanserve.handlers.kan import Kan
from kanserve.models.statistics import NodeStatistics
from kanserve.nouns import EdgeRequest, ModelInfo


@dataclass(frozen=True, slots=True)
class Found:
    """The answer."""

    info: ModelInfo
    id: str
    rows: int
    nodes: tuple[NodeStatistics, ...]


async def over_rows(kan: Kan, request: EdgeRequest) -> Found:
    """Over the caller's rows. Raises BadRequest, Exhausted, NotPossible, and what `Model.edges` does."""
    model, manifest = kan.describe(request.model, request.version)
    if not manifest.baseline.rows:
        raise NotPossible(
            f"model '{model.info.name}' has nothing to compare with: its export was given no rows "
            "(kanserve export --reference)"
        )
    if not request.row_count:
        raise NotPossible("this server does not keep what models were asked: send rows")
    rows = kan.rows(model.info, request.rows, request.row_count)
    found = await model.statistics(manifest, rows, deadline=request.deadline, caller=request.caller)
    return Found(model.info, request.id, request.row_count, found)
