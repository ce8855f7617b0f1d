"""Use cases of KAN models: descriptions, curves, edge scores and edge queries. Each checks the limits first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.shared.cli.suggest import advice
from kanexport.shared.manifest import HYBRID, LayerInfo, Manifest
from kanserve.analysis import curves, query_plan, reduce
from kanserve.analysis.query_plan import LayerPlan
from kanserve.errors import BadRequest, FailedPrecondition, ResourceExhausted
from kanserve.insight import curves as insight_curves
from kanserve.insight import edge_queries, edge_scores
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
    ModelInfo,
    Scores,
)

FARTHEST = 1e30  # from one end of a curve to the other; float32 ends at 3e38
MOST_QUANTILES = 101
FEWER_LAYERS = "request fewer layers, or raise max_edge_query_evaluations on the server"


@dataclass(frozen=True, slots=True)
class Kan:
    """Use cases of KAN models; one object per server."""

    registry: Registry  # loaded models
    max_edge_query_rows: int  # rows of one query
    max_edge_query_evaluations: int  # edge evaluations of one query
    max_response_bytes: int  # bytes of one response

    def describe(self, name: str, version: str) -> tuple[Model, Manifest]:
        """A version and its manifest. Raises FailedPrecondition without one."""
        model = self.registry.resolve(name, version)
        return model, self.manifest(model)

    def manifest(self, model: Model) -> Manifest:
        """The manifest of a model. Raises FailedPrecondition for a model without one."""
        if model.info.manifest is None:
            raise edge_queries.missing(model.info.name)
        return model.info.manifest

    async def edges(self, request: EdgeRequest) -> EdgeResponse:
        """Edge values for rows. Raises BadRequest, ResourceExhausted, FailedPrecondition, and the errors of
        `Model.results`."""
        model, manifest = self.describe(request.model, request.version)
        info = model.info
        rows = self.rows(info, request.rows, request.row_count)
        plans = _plans(info, manifest, request)
        count, most = request.row_count, self.max_response_bytes
        needed = sum(plan.response_bytes(count) for plan in plans)
        if needed > most:
            values = sum(math.prod(plan.shape(1)) for plan in plans)
            raise ResourceExhausted(
                f"the response takes {needed} bytes ({count} rows x {values} edge values per row), the limit is {most}",
                code="response-too-large",
                hint="request fewer layers, sources or destinations, set top_k, or send fewer rows",
            )
        if (total := sum(_kept(plan, count) for plan in plans)) > most:
            raise ResourceExhausted(
                f"quantiles and histograms need all values at the same time, {total} bytes, the limit is {most}",
                code="reduction-too-large",
                hint="request fewer layers, sources or destinations, other reductions, or send fewer rows",
            )
        self.bound_work([manifest.layers[plan.layer] for plan in plans], request.row_count)
        pieces, graphs = model.serving.plan.piece_rows, model.edge_graphs
        steps = edge_queries.compute(model.session, graphs, plans, rows, piece_rows=pieces, most_bytes=most)
        layers = await model.result(steps, request)
        model.metrics.edge_values.inc(sum(layer.nbytes // query_plan.VALUE_BYTES for layer in layers))
        return EdgeResponse(info.name, info.version, request.id, info.digest, layers)

    def estimate(self, request: EdgeRequest) -> tuple[ModelInfo, Estimate]:
        """The cost of a query for the given number of rows, which need not be sent. Raises BadRequest,
        FailedPrecondition."""
        model, manifest = self.describe(request.model, request.version)
        plans = _plans(model.info, manifest, request)
        each = evaluations([manifest.layers[plan.layer] for plan in plans])
        needed = sum(max(plan.response_bytes(request.row_count), _kept(plan, request.row_count)) for plan in plans)
        limits = self.max_response_bytes, self.max_edge_query_evaluations
        return model.info, Estimate(needed, limits[0], each * request.row_count, limits[1])

    def curves(self, request: CurveRequest) -> tuple[ModelInfo, AsyncGenerator[CurveBlock]]:
        """The model, and curves of its edges, one block at a time. Raises BadRequest, ResourceExhausted,
        FailedPrecondition; the curves raise the errors of `Model.results`."""
        model, manifest = self.describe(request.model, request.version)
        request = _in_reason(request)
        selected = query_plan.plan(manifest.layers, _widths(model.info, manifest), request)
        plans = tuple(dataclasses.replace(plan, positions=()) for plan in selected)
        for plan in plans:
            alone(manifest, plan.layer)
        numbers = request.points * (1 + request.derivative + 3 * request.parts) + 6 * request.extrema
        count = sum(math.prod(plan.shape(1)) for plan in plans)
        if (needed := count * numbers * query_plan.VALUE_BYTES) > self.max_response_bytes:
            raise ResourceExhausted(
                f"the response takes {needed} bytes ({count} edges x {numbers} numbers), the limit is "
                f"{self.max_response_bytes}",
                code="response-too-large",
                hint="request fewer layers, sources, destinations or points",
            )
        # Each extreme needs additional points, around it.
        wide = max((len(plan.destinations) for plan in plans), default=0) if request.extrema else 0
        self.bound_work(
            [dataclasses.replace(manifest.layers[plan.layer], positions=()) for plan in plans],
            request.points * (3 if request.derivative else 1) + 2 * curves.ROUNDS * curves.ZOOM * wide,
            "points",
        )
        steps = insight_curves.compute(model.session, model.edge_graphs, manifest, plans, request)
        return model.info, model.results(steps, request)

    async def scores(self, request: EdgeRequest) -> tuple[ModelInfo, Scores]:
        """The model, and the scores over the rows of a request, or over the reference rows of the export. Raises
        BadRequest, ResourceExhausted, FailedPrecondition, and the errors of `Model.results`."""
        model, manifest = self.scored(request)
        if request.row_count == 1:
            raise BadRequest(
                "scores over 1 row, expected 2 or more rows",
                code="too-few-rows",
                hint="send at least two rows: scores measure the variation between rows",
            )
        over = "rows" if request.row_count else "reference"
        rows = (
            self.rows(model.info, request.rows, request.row_count)
            if request.row_count
            else edge_scores.reference(manifest)
        )
        count = len(next(iter(rows.values())))
        self.bound_work(manifest.layers, count)
        pieces, graphs = model.serving.plan.piece_rows, model.edge_graphs
        steps = edge_scores.edge_scores(model.session, graphs, manifest, rows, piece_rows=pieces)
        return model.info, Scores(str(model.info.version), over, count, await model.result(steps, request))

    def scored(self, request: EdgeRequest) -> tuple[Model, Manifest]:
        """A version that has scores. Raises ResourceExhausted, FailedPrecondition."""
        model, manifest = self.describe(request.model, request.version)
        if manifest.source.family == HYBRID:
            raise FailedPrecondition(
                f"model '{manifest.name}' is a PyTorch module export: scores do not pass its other layers",
                code="scores-of-module-export",
                hint="query edge values (QueryEdges) of its KAN layers instead",
            )
        needed = sum(2 * query_plan.VALUE_BYTES * layer.sources * layer.destinations for layer in manifest.layers)
        if needed > self.max_response_bytes:
            raise ResourceExhausted(
                f"the scores take {needed} bytes, the limit is {self.max_response_bytes}",
                code="response-too-large",
                hint="raise max_response_bytes on the server",
            )
        return model, manifest

    def rows(self, info: ModelInfo, packed: Sequence[tuple[str, bytes]], count: int) -> dict[str, Array]:
        """Packed rows by the input's name -> [B, ...] by input, shaped as each. Raises BadRequest,
        ResourceExhausted."""
        self.bound_rows(count)
        names = [tensor.name for tensor in info.inputs]
        input_names = [names[0] if name == ONLY and len(names) == 1 else name for name, _ in packed]
        if input_names == [ONLY]:
            raise BadRequest(
                f"model '{info.name}' has the inputs {', '.join(names)}, but the request has rows without a name",
                code="input-missing",
                hint="send the rows of each input in `inputs`",
            )
        if sorted(input_names) != sorted(names):
            got = ", ".join(input_names)[:200]
            raise BadRequest(
                f"the request has the inputs {got}, model '{info.name}' has {', '.join(names)}",
                code="input-unknown",
                hint="send each input of the model once",
            )
        named, arrays = dict(zip(input_names, (rows for _, rows in packed), strict=True)), {}
        for tensor in info.inputs:
            data, needed = named[tensor.name], count * tensor.row_bytes
            if len(data) != needed:
                raise BadRequest(
                    f"rows has {len(data)} bytes, expected {needed} for {count} rows of input '{tensor.name}' "
                    f"({tensor.datatype}, {tensor.row_bytes} bytes per row)",
                    code="rows-wrong-size",
                    hint=f"send the rows as {tensor.datatype} in C order, and their number in row_count",
                )
            shape = (count, *tensor.shape[1:])
            arrays[tensor.name] = np.frombuffer(data, DTYPES[tensor.datatype]).reshape(shape)
        return arrays

    def bound_rows(self, count: int) -> None:
        """Raises ResourceExhausted for more rows than a query may have."""
        if count > self.max_edge_query_rows:
            raise ResourceExhausted(
                f"the query has {count} rows, expected at most {self.max_edge_query_rows}",
                code="too-many-rows",
                hint="send the rows in several queries",
            )

    def bound_work(self, layers: Sequence[LayerInfo], rows: int, what: str = "rows") -> None:
        """Raises ResourceExhausted for too many edge evaluations. A layer computes all its edges, also those that are
        not requested."""
        each = evaluations(layers)
        most = self.max_edge_query_evaluations
        if rows * each > most:
            fewer = f"send at most {most // each} {what}, or request fewer layers" if each <= most else FEWER_LAYERS
            raise ResourceExhausted(
                f"the query takes {rows * each} edge evaluations ({rows} {what} x {each} edges of the requested "
                f"layers at all positions), the limit is {most}",
                code="too-many-edge-evaluations",
                hint=fewer,
            )


def evaluations(layers: Sequence[LayerInfo]) -> int:
    """The number of edge evaluations for one row."""
    return sum(math.prod(layer.positions) * layer.sources * layer.destinations for layer in layers)


def _widths(info: ModelInfo, manifest: Manifest) -> list[int]:
    """The number of input nodes of each layer."""
    known = {tensor.name: tensor.shape[-1] for tensor in (*info.inputs, *info.node_tensors)}
    return [max(known.get(layer.node_tensor, 0), layer.sources) for layer in manifest.layers]


def _in_reason(request: CurveRequest) -> CurveRequest:
    """The request with the default number of points filled in. Raises BadRequest."""
    request = dataclasses.replace(request, points=request.points or curves.POINTS)
    if not 2 <= request.points <= curves.MOST_POINTS:
        raise BadRequest(
            f"points is {request.points}, expected 2 to {curves.MOST_POINTS}",
            code="curve-points-invalid",
            hint="send a number of points in this range, or 0 for the default",
        )
    if request.span is not None:
        low, high = request.span
        if not (math.isfinite(low) and math.isfinite(high) and low < high and high - low < FARTHEST):
            raise BadRequest(
                f"the range of the curves is {low:g} to {high:g}, expected two finite numbers, the lower one first",
                code="curve-range-invalid",
                hint="send a range such as -2 to 2, or no range for the range of each grid",
            )
    return request


def alone(manifest: Manifest, at: int) -> None:
    """Raises FailedPrecondition for a layer whose edges are not functions of one source."""
    layer = manifest.layers[at]
    edge_class = layer.edge_class or manifest.edge_class
    if edge_class != "A":
        raise FailedPrecondition(
            f"layer {at} of model '{manifest.name}' is of edge class {edge_class}: its edges depend on the whole row "
            "and have no curves",
            code="edges-without-curves",
            hint="query edge values for rows (QueryEdges), or request other layers",
        )


def _plans(info: ModelInfo, manifest: Manifest, request: EdgeRequest) -> tuple[LayerPlan, ...]:
    """The plans of the requested layers. Raises BadRequest, FailedPrecondition."""
    layers, widths = manifest.layers, _widths(info, manifest)
    plans = query_plan.plan(layers, widths, request, _edges_in_reason(request.options))
    if request.path is None:
        return plans
    if request.sources or request.destinations:
        raise BadRequest(
            "a path cannot be combined with sources or destinations",
            code="query-options-conflict",
            hint="send a path with layers only, or send no path",
        )
    if manifest.source.family == HYBRID or any(layer.positions for layer in layers):
        raise FailedPrecondition(
            f"model '{manifest.name}' is a PyTorch module export, which has no paths between its KAN layers",
            code="path-of-module-export",
            hint="send layers, sources and destinations instead of a path",
        )
    ends = widths[0], query_plan.results(layers[-1]).shape[1]
    for what, at, count in zip(("input", "output"), request.path, ends, strict=True):
        if not 0 <= at < count:
            raise BadRequest(
                f"unknown {what} {at}: the model has {count} {what}s",
                code="path-end-unknown",
                hint=f"send a number from 0 to {count - 1}",
            )
    ways = query_plan.on_the_way(layers, widths, *request.path)
    chosen = [(plan, *ways[plan.layer]) for plan in plans]
    return tuple(
        dataclasses.replace(plan, sources=sources, destinations=destinations) for plan, sources, destinations in chosen
    )


def _edges_in_reason(options: EdgeOptions) -> EdgeOptions:
    """The options with defaults filled in. Raises BadRequest."""
    _of_picking(options)
    _of_reductions(options)
    if options.quantiles and reduce.QUANTILES not in options.reductions:
        raise BadRequest(
            f"quantiles without the reduction '{reduce.QUANTILES}'",
            code="query-options-conflict",
            hint=f"add '{reduce.QUANTILES}' to reductions, or remove quantiles",
        )
    if len(options.quantiles) > MOST_QUANTILES or not all(0 <= level <= 1 for level in options.quantiles):
        raise BadRequest(
            f"invalid quantiles, expected at most {MOST_QUANTILES} numbers from 0 to 1",
            code="quantiles-invalid",
            hint="send numbers such as 0.05, 0.5 and 0.95",
        )
    if options.bins > reduce.MOST_BINS:
        raise BadRequest(
            f"bins is {options.bins}, expected 1 to {reduce.MOST_BINS}",
            code="bins-invalid",
            hint="send a number of bins in this range, or 0 for the default",
        )
    levels = options.quantiles or (reduce.USUAL if reduce.QUANTILES in options.reductions else ())
    return dataclasses.replace(options, quantiles=levels, bins=options.bins or reduce.BINS)


def _of_reductions(options: EdgeOptions) -> None:
    """Check the reductions of a query. Raises BadRequest."""
    for name in options.reductions:
        if name not in reduce.ALL:
            raise BadRequest(
                f"unknown reduction {name[:40]!r}",
                code="reduction-unknown",
                hint=advice(name, reduce.ALL, what="reductions"),
            )
    if len(set(options.reductions)) != len(options.reductions):
        raise BadRequest("a reduction is named twice", code="reduction-duplicate", hint="name each reduction once")
    if options.reductions and (options.residual or options.nodes or options.per_row):
        raise BadRequest(
            "reductions cannot be combined with residual, nodes or per_row",
            code="query-options-conflict",
            hint="request reductions over all rows, or values of each row",
        )


def _of_picking(options: EdgeOptions) -> None:
    """Check the selection of edges by magnitude. Raises BadRequest."""
    if not (math.isfinite(options.min_magnitude) and options.min_magnitude >= 0):
        raise BadRequest(
            f"min_magnitude is {options.min_magnitude:g}, expected a number of 0 or more",
            code="min-magnitude-invalid",
            hint="send 0 for all edges",
        )
    if options.per_row and not options.top_k:
        raise BadRequest(
            "per_row without top_k",
            code="query-options-conflict",
            hint="set top_k to the number of edges per row",
        )
    if options.per_row and options.min_magnitude:
        raise BadRequest(
            "min_magnitude cannot be combined with per_row",
            code="query-options-conflict",
            hint="select edges over all rows (min_magnitude), or for each row (per_row)",
        )


def _kept(plan: LayerPlan, rows: int) -> int:
    """Bytes of the values that reductions need at the same time."""
    if not reduce.KEPT & set(plan.options.reductions):
        return 0
    return math.prod(plan.shape(rows)) * query_plan.VALUE_BYTES
