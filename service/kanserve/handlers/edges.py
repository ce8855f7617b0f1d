"""What the edges of a model did with rows: bounds first, then the work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from kanexport.manifest import HYBRID, Manifest
from kanserve.errors import BadRequest, Exhausted, NotPossible
from kanserve.handlers.kan import Kan, evaluations, shapes
from kanserve.interpret import paths, reduce, select
from kanserve.interpret.select import LayerPlan
from kanserve.nouns import EdgeRequest, EdgeResponse, Estimate, ModelInfo, Wanted

MOST_QUANTILES = 101


@dataclass(frozen=True, slots=True)
class EdgeQueries:
    """The use case; one per server."""

    kan: Kan

    async def edges(self, request: EdgeRequest) -> EdgeResponse:
        """Edge values for rows. Raises BadRequest, Exhausted, NotPossible, and what `Model.edges` does."""
        model, manifest = self.kan.describe(request.model, request.version)
        info = model.info
        rows = self.kan.rows(info, request.rows, request.row_count)
        plans = _plans(info, manifest, request)
        _bound(plans, request.row_count, self.kan.max_response_bytes)
        self.kan.bound_work([manifest.layers[plan.layer] for plan in plans], request.row_count)
        layers = await model.edges(
            plans,
            rows,
            deadline=request.deadline,
            caller=request.caller,
            most_bytes=self.kan.max_response_bytes,
        )
        model.metrics.edge_values.inc(sum(layer.nbytes // select.VALUE_BYTES for layer in layers))
        return EdgeResponse(info.name, info.version, request.id, info.digest, layers)

    def estimate(self, request: EdgeRequest) -> tuple[ModelInfo, Estimate]:
        """What the query would take, of so many rows, which need not be sent. Raises BadRequest, NotPossible."""
        model, manifest = self.kan.describe(request.model, request.version)
        plans = _plans(model.info, manifest, request)
        each = evaluations([manifest.layers[plan.layer] for plan in plans])
        needed = sum(max(plan.response_bytes(request.row_count), _kept(plan, request.row_count)) for plan in plans)
        limits = self.kan.max_response_bytes, self.kan.max_query_evaluations
        return model.info, Estimate(needed, limits[0], each * request.row_count, limits[1])


def _plans(info: ModelInfo, manifest: Manifest, request: EdgeRequest) -> tuple[LayerPlan, ...]:
    """Raises BadRequest, NotPossible."""
    wanted = _in_reason(request.wanted)
    plans = select.plan(
        shapes(info, manifest),
        layers=request.layers,
        sources=request.sources,
        destinations=request.destinations,
        wanted=wanted,
    )
    if request.path is None:
        return plans
    if request.sources or request.destinations:
        raise BadRequest("a path has its own sources and destinations; name layers beside it, or no path")
    ways = _ways(info, manifest, request.path)
    chosen = [(plan, *ways[plan.layer]) for plan in plans]
    return tuple(
        dataclasses.replace(plan, sources=sources, destinations=destinations) for plan, sources, destinations in chosen
    )


def _ways(info: ModelInfo, manifest: Manifest, path: tuple[int, int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Sources and destinations of each layer. Raises BadRequest, NotPossible."""
    layers = manifest.layers
    if manifest.source.family == HYBRID or any(layer.positions for layer in layers):
        raise NotPossible(
            f"model '{manifest.name}' is a module with KAN layers in it; what stands between them does not say which "
            "nodes lead where, name layers, sources and destinations instead"
        )
    widths = [shape.nodes for shape in shapes(info, manifest)]
    ends = widths[0], paths.results(layers[-1]).shape[1]
    for what, at, count in zip(("input", "output"), path, ends, strict=True):
        if not 0 <= at < count:
            raise BadRequest(f"{what} {at} does not exist: the model has {count} {what}s, numbered 0 to {count - 1}")
    return paths.on_the_way(layers, widths, *path)


def _in_reason(wanted: Wanted) -> Wanted:
    """With what is usual where nothing was said. Raises BadRequest."""
    _of_picking(wanted)
    _of_reductions(wanted)
    if wanted.quantiles and reduce.QUANTILES not in wanted.reductions:
        raise BadRequest(f"quantiles go with the reduction '{reduce.QUANTILES}', which was not asked for")
    if len(wanted.quantiles) > MOST_QUANTILES or not all(0 <= level <= 1 for level in wanted.quantiles):
        raise BadRequest(f"quantiles are at most {MOST_QUANTILES} numbers from 0 to 1")
    if wanted.bins > reduce.MOST_BINS:
        raise BadRequest(f"a histogram has 1 to {reduce.MOST_BINS} bins, {wanted.bins} were asked for")
    levels = wanted.quantiles or (reduce.USUAL if reduce.QUANTILES in wanted.reductions else ())
    return dataclasses.replace(wanted, quantiles=levels, bins=wanted.bins or reduce.BINS)


def _of_reductions(wanted: Wanted) -> None:
    """Raises BadRequest."""
    for name in wanted.reductions:
        if name not in reduce.ALL:
            raise BadRequest(f"reduction {name[:40]!r} is not known; there are {', '.join(reduce.ALL)}")
    if len(set(wanted.reductions)) != len(wanted.reductions):
        raise BadRequest("a reduction is named twice; name each once")
    if wanted.reductions and (wanted.rest or wanted.nodes or wanted.each_row):
        raise BadRequest("rest, nodes and each_row are of every row, reductions are over them; ask for either")


def _of_picking(wanted: Wanted) -> None:
    """Raises BadRequest."""
    if not (math.isfinite(wanted.min_magnitude) and wanted.min_magnitude >= 0):
        raise BadRequest(f"min_magnitude is a number of 0 or more, {wanted.min_magnitude:g} was given")
    if wanted.each_row and not wanted.top_k:
        raise BadRequest("each_row goes with top_k: so many edges of every row")
    if wanted.each_row and wanted.min_magnitude:
        raise BadRequest("min_magnitude is over all rows, each_row picks of every row by itself; take one")


def _bound(plans: Sequence[LayerPlan], rows: int, most: int) -> None:
    """Raises Exhausted."""
    needed = sum(plan.response_bytes(rows) for plan in plans)
    if needed > most:
        values = sum(math.prod(plan.shape(1)) for plan in plans)
        raise Exhausted(
            f"the answer takes {needed} bytes ({rows} rows x {values} edge values a row), "
            f"the limit is {most}; ask for fewer layers, sources or destinations, "
            "set top_k, or send fewer rows"
        )
    if (held := sum(_kept(plan, rows) for plan in plans)) > most:
        raise Exhausted(
            f"quantiles and histograms are made of all values at once, {held} bytes, the limit is {most}; ask for "
            "fewer layers, sources or destinations, for other reductions, set top_k, or send fewer rows"
        )


def _kept(plan: LayerPlan, rows: int) -> int:
    """Bytes of the values that reductions need at once."""
    if not reduce.KEPT & set(plan.wanted.reductions):
        return 0
    return math.prod(plan.shape(rows)) * select.VALUE_BYTES
