"""What a KAN is and what its edges did: bounds first, then the work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.manifest import HYBRID, LayerInfo, Manifest
from kanserve.errors import BadRequest, Exhausted, NotPossible
from kanserve.interpret import curves, select
from kanserve.interpret.select import LayerPlan, LayerShape
from kanserve.models import scores
from kanserve.models.edges import missing
from kanserve.models.model import Model
from kanserve.models.registry import Registry
from kanserve.nouns import (
    DTYPES,
    ONLY,
    Array,
    CurveBlock,
    CurveRequest,
    EdgeRequest,
    LayerScores,
    ModelInfo,
    TensorInfo,
)

FARTHEST = 1e30  # from one end of a curve to the other; float32 ends at 3e38


@dataclass(frozen=True, slots=True)
class Kan:
    """The use cases; one per server."""

    registry: Registry
    max_query_rows: int
    max_query_evaluations: int
    max_response_bytes: int

    def describe(self, name: str, version: str) -> tuple[Model, Manifest]:
        """A version and its manifest. Raises NotPossible without one."""
        model = self.registry.resolve(name, version)
        return model, self.manifest(model)

    def manifest(self, model: Model) -> Manifest:
        """What its export says. Raises NotPossible for a model without one."""
        if model.info.manifest is None:
            raise missing(model.info.name)
        return model.info.manifest

    def curves(self, request: CurveRequest) -> tuple[ModelInfo, AsyncGenerator[CurveBlock]]:
        """The model, and curves of its edges, a block at a time. Raises BadRequest, Exhausted, NotPossible; both raise
        what `Model.edges` does."""
        model, manifest = self.describe(request.model, request.version)
        request = _in_reason(request)
        plans = tuple(
            dataclasses.replace(plan, positions=())
            for plan in select.plan(
                shapes(model.info, manifest),
                layers=request.layers,
                sources=request.sources,
                destinations=request.destinations,
            )
        )
        for plan in plans:
            alone(manifest, plan.layer)
        times = 3 if request.derivative else 1
        self._bound_curves(plans, request.points * (1 + request.derivative + 3 * request.parts))
        self.bound_work(
            [dataclasses.replace(manifest.layers[plan.layer], positions=()) for plan in plans],
            times * request.points,
            "points",
        )
        return model.info, model.curves(manifest, plans, request)

    async def scores(self, request: EdgeRequest) -> tuple[ModelInfo, str, int, tuple[LayerScores, ...]]:
        """The model, what the scores are over, how many rows these were, and the scores. Raises BadRequest, Exhausted,
        NotPossible, and what `Model.edges` does."""
        model, manifest = self.scored(request)
        over, rows = self._batch(model.info, manifest, request)
        count = len(next(iter(rows.values())))
        self.bound_work(manifest.layers, count)
        found = await model.scores(manifest, rows, deadline=request.deadline, caller=request.caller)
        return model.info, over, count, found

    def scored(self, request: EdgeRequest) -> tuple[Model, Manifest]:
        """A version whose scores can be told. Raises Exhausted, NotPossible."""
        model, manifest = self.describe(request.model, request.version)
        if manifest.source.family == HYBRID:
            raise NotPossible(
                f"model '{manifest.name}' is a module with KAN layers in it; what stands between passes no scores on"
            )
        needed = sum(2 * select.VALUE_BYTES * layer.sources * layer.destinations for layer in manifest.layers)
        if needed > self.max_response_bytes:
            raise Exhausted(f"the scores take {needed} bytes, the limit is {self.max_response_bytes}")
        return model, manifest

    def _batch(self, info: ModelInfo, manifest: Manifest, request: EdgeRequest) -> tuple[str, dict[str, Array]]:
        """The caller's rows, or those of the export. Raises BadRequest, NotPossible."""
        if request.row_count == 1:
            raise BadRequest("1 row was sent: scores are of what moves from row to row, and take two or more")
        if request.row_count:
            return "rows", self.rows(info, request.rows, request.row_count)
        return "reference", scores.reference(manifest)

    def rows(self, info: ModelInfo, given: Sequence[tuple[str, bytes]], count: int) -> dict[str, Array]:
        """Packed rows by the input's name -> [B, ...] by input, shaped as each. Raises BadRequest, Exhausted."""
        self.bound_rows(count)
        named = _named(info, given)
        return {tensor.name: _unpacked(tensor, named[tensor.name], count) for tensor in info.inputs}

    def bound_rows(self, count: int) -> None:
        """Raises Exhausted for more rows than a query may have."""
        if count > self.max_query_rows:
            raise Exhausted(
                f"{count} rows asked for, one query may have {self.max_query_rows}; send fewer rows, in several queries"
            )

    def _bound_curves(self, plans: tuple[LayerPlan, ...], numbers: int) -> None:
        count = sum(math.prod(plan.shape(1)) for plan in plans)
        if (needed := count * numbers * select.VALUE_BYTES) > self.max_response_bytes:
            raise Exhausted(
                f"the answer takes {needed} bytes ({count} edges x {numbers} numbers), the limit is "
                f"{self.max_response_bytes}; ask for fewer layers, sources, destinations or points"
            )

    def bound_work(self, layers: Sequence[LayerInfo], rows: int, what: str = "rows") -> None:
        """A layer computes all its edges, whichever are asked for. Raises Exhausted."""
        each = evaluations(layers)
        most = self.max_query_evaluations
        if rows * each > most:
            advice = f"send at most {most // each} {what}" if each <= most else f"not one of the {what} fits"
            raise Exhausted(
                f"the query takes {rows * each} edge evaluations ({rows} {what} x {each} edges of the layers that are "
                f"asked for, counted at each position), the limit is {most}; {advice}, or ask for fewer layers"
            )


def evaluations(layers: Sequence[LayerInfo]) -> int:
    """Of edges, for one row."""
    return sum(math.prod(layer.positions) * layer.sources * layer.destinations for layer in layers)


def shapes(info: ModelInfo, manifest: Manifest) -> list[LayerShape]:
    """Of all layers."""
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
    """Raises NotPossible for a layer whose edges have no curve of their own."""
    layer = manifest.layers[at]
    edge_class = layer.edge_class or manifest.edge_class
    if edge_class != "A":
        raise NotPossible(
            f"layer {at} of model '{manifest.name}' is of edge class {edge_class}: what an edge gives depends on the "
            "other nodes of its row too, so that it is no curve over its source; ask for the values of edges for rows "
            "(QueryEdges), or name other layers"
        )


def _named(info: ModelInfo, packed: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """Bytes by input; a model with one need not name it. Raises BadRequest."""
    names = [tensor.name for tensor in info.inputs]
    given = [names[0] if name == ONLY and len(names) == 1 else name for name, _ in packed]
    if given == [ONLY]:
        raise BadRequest(f"model '{info.name}' has the inputs {', '.join(names)}: each needs rows, in `inputs`")
    if sorted(given) != sorted(names):
        got = ", ".join(given)[:200]
        raise BadRequest(f"model '{info.name}' has the inputs {', '.join(names)}, each to be given once; got {got}")
    return dict(zip(given, (rows for _, rows in packed), strict=True))


def _unpacked(tensor: TensorInfo, rows: bytes, count: int) -> Array:
    """[count, ...] of an input. Raises BadRequest."""
    needed = count * tensor.row_bytes
    if len(rows) != needed:
        raise BadRequest(
            f"rows holds {len(rows)} bytes, but {count} rows of input "
            f"'{tensor.name}' ({tensor.datatype}, {tensor.row_bytes} bytes a row) take {needed}"
        )
    return np.frombuffer(rows, DTYPES[tensor.datatype]).reshape(count, *tensor.shape[1:])
