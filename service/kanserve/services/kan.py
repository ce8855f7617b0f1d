"""Use cases of KAN models: descriptions, curves, edge scores and edge queries. Each checks the limits first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.contract.manifest import HYBRID, LayerInfo, Manifest
from kanserve.analysis import curves, query_plan, reduce
from kanserve.analysis.query_plan import LayerPlan, LayerShape
from kanserve.errors import BadRequest, FailedPrecondition, ResourceExhausted
from kanserve.insight import edge_scores
from kanserve.insight.edge_queries import missing
from kanserve.models.model import Model
from kanserve.models.registry import Registry
from kanserve.types import (
    DTYPES,
    ONLY,
    Array,
    CurveBlock,
    CurveRequest,
    EdgeOptions,
    EdgeRequest,
    EdgeResponse,
    Estimate,
    LayerScores,
    ModelInfo,
    TensorInfo,
)

FARTHEST = 1e30  # from one end of a curve to the other; float32 ends at 3e38


@dataclass(frozen=True, slots=True)
class Kan:
    """Use cases of KAN models; one object per server.

    registry                    loaded models
    max_edge_query_rows         rows of one query
    max_edge_query_evaluations  edge evaluations of one query
    max_response_bytes          bytes of one response
    """

    registry: Registry
    max_edge_query_rows: int
    max_edge_query_evaluations: int
    max_response_bytes: int

    def describe(self, name: str, version: str) -> tuple[Model, Manifest]:
        """A version and its manifest. Raises FailedPrecondition without one."""
        model = self.registry.resolve(name, version)
        return model, self.manifest(model)

    def manifest(self, model: Model) -> Manifest:
        """The manifest of a model. Raises FailedPrecondition for a model without one."""
        if model.info.manifest is None:
            raise missing(model.info.name)
        return model.info.manifest

    def curves(self, request: CurveRequest) -> tuple[ModelInfo, AsyncGenerator[CurveBlock]]:
        """The model, and curves of its edges, a block at a time. Raises BadRequest, ResourceExhausted,
        FailedPrecondition; both raise what `Model.edges` does."""
        model, manifest = self.describe(request.model, request.version)
        request = _in_reason(request)
        plans = tuple(
            dataclasses.replace(plan, positions=())
            for plan in query_plan.plan(
                shapes(model.info, manifest),
                layers=request.layers,
                sources=request.sources,
                destinations=request.destinations,
            )
        )
        for plan in plans:
            alone(manifest, plan.layer)
        self._bound_curves(plans, request.points * (1 + request.derivative + 3 * request.parts) + 6 * request.extrema)
        self.bound_work(
            [dataclasses.replace(manifest.layers[plan.layer], positions=()) for plan in plans],
            request.points * (3 if request.derivative else 1) + _closer(plans, request),
            "points",
        )
        return model.info, model.curves(manifest, plans, request)

    async def scores(self, request: EdgeRequest) -> tuple[ModelInfo, str, int, tuple[LayerScores, ...]]:
        """The model, what the scores are over, how many rows these were, and the scores. Raises BadRequest,
        ResourceExhausted, FailedPrecondition, and what `Model.edges` does."""
        model, manifest = self.scored(request)
        over, rows = self._batch(model.info, manifest, request)
        count = len(next(iter(rows.values())))
        self.bound_work(manifest.layers, count)
        layers = await model.scores(manifest, rows, deadline=request.deadline, caller=request.caller)
        return model.info, over, count, layers

    def scored(self, request: EdgeRequest) -> tuple[Model, Manifest]:
        """A version whose scores can be told. Raises ResourceExhausted, FailedPrecondition."""
        model, manifest = self.describe(request.model, request.version)
        if manifest.source.family == HYBRID:
            raise FailedPrecondition(
                f"model '{manifest.name}' is a module with KAN layers in it; what stands between passes no scores on"
            )
        needed = sum(2 * query_plan.VALUE_BYTES * layer.sources * layer.destinations for layer in manifest.layers)
        if needed > self.max_response_bytes:
            raise ResourceExhausted(f"the scores take {needed} bytes, the limit is {self.max_response_bytes}")
        return model, manifest

    def _batch(self, info: ModelInfo, manifest: Manifest, request: EdgeRequest) -> tuple[str, dict[str, Array]]:
        """The caller's rows, or those of the export. Raises BadRequest, FailedPrecondition."""
        if request.row_count == 1:
            raise BadRequest("1 row was sent: scores are of what moves from row to row, and take two or more")
        if request.row_count:
            return "rows", self.rows(info, request.rows, request.row_count)
        return "reference", edge_scores.reference(manifest)

    def rows(self, info: ModelInfo, packed: Sequence[tuple[str, bytes]], count: int) -> dict[str, Array]:
        """Packed rows by the input's name -> [B, ...] by input, shaped as each. Raises BadRequest,
        ResourceExhausted."""
        self.bound_rows(count)
        named = _named(info, packed)
        return {tensor.name: _unpacked(tensor, named[tensor.name], count) for tensor in info.inputs}

    def bound_rows(self, count: int) -> None:
        """Raises ResourceExhausted for more rows than a query may have."""
        if count > self.max_edge_query_rows:
            raise ResourceExhausted(
                f"{count} rows asked for, one query may have {self.max_edge_query_rows}; send fewer rows, in several "
                "queries"
            )

    def _bound_curves(self, plans: tuple[LayerPlan, ...], numbers: int) -> None:
        count = sum(math.prod(plan.shape(1)) for plan in plans)
        if (needed := count * numbers * query_plan.VALUE_BYTES) > self.max_response_bytes:
            raise ResourceExhausted(
                f"the answer takes {needed} bytes ({count} edges x {numbers} numbers), the limit is "
                f"{self.max_response_bytes}; ask for fewer layers, sources, destinations or points"
            )

    def bound_work(self, layers: Sequence[LayerInfo], rows: int, what: str = "rows") -> None:
        """A layer computes all its edges, whichever are asked for. Raises ResourceExhausted."""
        each = evaluations(layers)
        most = self.max_edge_query_evaluations
        if rows * each > most:
            advice = f"send at most {most // each} {what}" if each <= most else f"not one of the {what} fits"
            raise ResourceExhausted(
                f"the query takes {rows * each} edge evaluations ({rows} {what} x {each} edges of the layers that are "
                f"asked for, counted at each position), the limit is {most}; {advice}, or ask for fewer layers"
            )


def evaluations(layers: Sequence[LayerInfo]) -> int:
    """The number of edge evaluations for one row."""
    return sum(math.prod(layer.positions) * layer.sources * layer.destinations for layer in layers)


def shapes(info: ModelInfo, manifest: Manifest) -> list[LayerShape]:
    """The shapes of all layers."""
    widths = {tensor.name: tensor.shape[-1] for tensor in (*info.inputs, *info.node_tensors)}
    return [
        LayerShape(
            layer.sources,
            layer.destinations,
            layer.positions,
            layer.name,
            max(widths.get(layer.node_tensor, 0), layer.sources),
        )
        for layer in manifest.layers
    ]


def _closer(plans: Sequence[LayerPlan], request: CurveRequest) -> int:
    """The number of additional points per edge for its extremes."""
    wide = max((len(plan.destinations) for plan in plans), default=0)
    return 2 * curves.ROUNDS * curves.ZOOM * wide if request.extrema else 0


def _in_reason(request: CurveRequest) -> CurveRequest:
    """Raises BadRequest."""
    request = dataclasses.replace(request, points=request.points or curves.POINTS)
    if not 2 <= request.points <= curves.MOST_POINTS:
        raise BadRequest(f"a curve has 2 to {curves.MOST_POINTS} points, {request.points} were asked for")
    if request.span is not None:
        low, high = request.span
        if not (math.isfinite(low) and math.isfinite(high) and low < high and high - low < FARTHEST):
            raise BadRequest(f"curves go from low to a higher high, finite numbers; {low:g} to {high:g} were asked for")
    return request


def alone(manifest: Manifest, at: int) -> None:
    """Raises FailedPrecondition for a layer whose edges have no curve of their own."""
    layer = manifest.layers[at]
    edge_class = layer.edge_class or manifest.edge_class
    if edge_class != "A":
        raise FailedPrecondition(
            f"layer {at} of model '{manifest.name}' is of edge class {edge_class}: what an edge gives depends on the "
            "other nodes of its row too, so that it is no curve over its source; ask for the values of edges for rows "
            "(QueryEdges), or name other layers"
        )


def _named(info: ModelInfo, packed: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """Bytes by input; a model with one need not name it. Raises BadRequest."""
    names = [tensor.name for tensor in info.inputs]
    input_names = [names[0] if name == ONLY and len(names) == 1 else name for name, _ in packed]
    if input_names == [ONLY]:
        raise BadRequest(f"model '{info.name}' has the inputs {', '.join(names)}: each needs rows, in `inputs`")
    if sorted(input_names) != sorted(names):
        got = ", ".join(input_names)[:200]
        raise BadRequest(f"model '{info.name}' has the inputs {', '.join(names)}, each to be given once; got {got}")
    return dict(zip(input_names, (rows for _, rows in packed), strict=True))


def _unpacked(tensor: TensorInfo, rows: bytes, count: int) -> Array:
    """[count, ...] of an input. Raises BadRequest."""
    needed = count * tensor.row_bytes
    if len(rows) != needed:
        raise BadRequest(
            f"rows holds {len(rows)} bytes, but {count} rows of input "
            f"'{tensor.name}' ({tensor.datatype}, {tensor.row_bytes} bytes a row) take {needed}"
        )
    return np.frombuffer(rows, DTYPES[tensor.datatype]).reshape(count, *tensor.shape[1:])


MOST_QUANTILES = 101


@dataclass(frozen=True, slots=True)
class EdgeQueries:
    """Use case of edge queries; one object per server."""

    kan: Kan

    async def edges(self, request: EdgeRequest) -> EdgeResponse:
        """Edge values for rows. Raises BadRequest, ResourceExhausted, FailedPrecondition, and what `Model.edges`
        does."""
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
        model.metrics.edge_values.inc(sum(layer.nbytes // query_plan.VALUE_BYTES for layer in layers))
        return EdgeResponse(info.name, info.version, request.id, info.digest, layers)

    def estimate(self, request: EdgeRequest) -> tuple[ModelInfo, Estimate]:
        """The cost of a query for the given number of rows, which need not be sent. Raises BadRequest,
        FailedPrecondition."""
        model, manifest = self.kan.describe(request.model, request.version)
        plans = _plans(model.info, manifest, request)
        each = evaluations([manifest.layers[plan.layer] for plan in plans])
        needed = sum(max(plan.response_bytes(request.row_count), _kept(plan, request.row_count)) for plan in plans)
        limits = self.kan.max_response_bytes, self.kan.max_edge_query_evaluations
        return model.info, Estimate(needed, limits[0], each * request.row_count, limits[1])


def _plans(info: ModelInfo, manifest: Manifest, request: EdgeRequest) -> tuple[LayerPlan, ...]:
    """Raises BadRequest, FailedPrecondition."""
    options = _edges_in_reason(request.options)
    plans = query_plan.plan(
        shapes(info, manifest),
        layers=request.layers,
        sources=request.sources,
        destinations=request.destinations,
        wanted=options,
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
    """Sources and destinations of each layer. Raises BadRequest, FailedPrecondition."""
    layers = manifest.layers
    if manifest.source.family == HYBRID or any(layer.positions for layer in layers):
        raise FailedPrecondition(
            f"model '{manifest.name}' is a module with KAN layers in it; what stands between them does not say which "
            "nodes lead where, name layers, sources and destinations instead"
        )
    widths = [shape.nodes for shape in shapes(info, manifest)]
    ends = widths[0], query_plan.results(layers[-1]).shape[1]
    for what, at, count in zip(("input", "output"), path, ends, strict=True):
        if not 0 <= at < count:
            raise BadRequest(f"{what} {at} does not exist: the model has {count} {what}s, numbered 0 to {count - 1}")
    return query_plan.on_the_way(layers, widths, *path)


def _edges_in_reason(options: EdgeOptions) -> EdgeOptions:
    """The options with defaults filled in. Raises BadRequest."""
    _of_picking(options)
    _of_reductions(options)
    if options.quantiles and reduce.QUANTILES not in options.reductions:
        raise BadRequest(f"quantiles go with the reduction '{reduce.QUANTILES}', which was not asked for")
    if len(options.quantiles) > MOST_QUANTILES or not all(0 <= level <= 1 for level in options.quantiles):
        raise BadRequest(f"quantiles are at most {MOST_QUANTILES} numbers from 0 to 1")
    if options.bins > reduce.MOST_BINS:
        raise BadRequest(f"a histogram has 1 to {reduce.MOST_BINS} bins, {options.bins} were asked for")
    levels = options.quantiles or (reduce.USUAL if reduce.QUANTILES in options.reductions else ())
    return dataclasses.replace(options, quantiles=levels, bins=options.bins or reduce.BINS)


def _of_reductions(options: EdgeOptions) -> None:
    """Raises BadRequest."""
    for name in options.reductions:
        if name not in reduce.ALL:
            raise BadRequest(f"reduction {name[:40]!r} is not known; there are {', '.join(reduce.ALL)}")
    if len(set(options.reductions)) != len(options.reductions):
        raise BadRequest("a reduction is named twice; name each once")
    if options.reductions and (options.residual or options.nodes or options.per_row):
        raise BadRequest(
            "residual, nodes and per_row apply to each row, reductions combine all rows; request one of them"
        )


def _of_picking(options: EdgeOptions) -> None:
    """Raises BadRequest."""
    if not (math.isfinite(options.min_magnitude) and options.min_magnitude >= 0):
        raise BadRequest(f"min_magnitude is a number of 0 or more, {options.min_magnitude:g} was given")
    if options.per_row and not options.top_k:
        raise BadRequest("per_row needs top_k, the number of edges per row")
    if options.per_row and options.min_magnitude:
        raise BadRequest(
            "min_magnitude applies to all rows together, per_row selects edges for each row; use one of them"
        )


def _bound(plans: Sequence[LayerPlan], rows: int, most: int) -> None:
    """Raises ResourceExhausted."""
    needed = sum(plan.response_bytes(rows) for plan in plans)
    if needed > most:
        values = sum(math.prod(plan.shape(1)) for plan in plans)
        raise ResourceExhausted(
            f"the answer takes {needed} bytes ({rows} rows x {values} edge values a row), "
            f"the limit is {most}; ask for fewer layers, sources or destinations, "
            "set top_k, or send fewer rows"
        )
    if (total := sum(_kept(plan, rows) for plan in plans)) > most:
        raise ResourceExhausted(
            f"quantiles and histograms are made of all values at once, {total} bytes, the limit is {most}; ask for "
            "fewer layers, sources or destinations, for other reductions, set top_k, or send fewer rows"
        )


def _kept(plan: LayerPlan, rows: int) -> int:
    """Bytes of the values that reductions need at once."""
    if not reduce.KEPT & set(plan.options.reductions):
        return 0
    return math.prod(plan.shape(rows)) * query_plan.VALUE_BYTES
