"""What a KAN is and what its edges did: bounds first, then the work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kanexport.manifest import Manifest
from kanserve.errors import BadRequest, Exhausted
from kanserve.interpret import select
from kanserve.interpret.select import LayerPlan, LayerShape
from kanserve.models.edges import missing
from kanserve.models.registry import Registry
from kanserve.nouns import DTYPES, Array, EdgeRequest, EdgeResponse, ModelInfo


@dataclass(frozen=True, slots=True)
class Kan:
    """The use cases; one per server."""

    registry: Registry
    max_query_rows: int
    max_response_bytes: int

    def describe(self, name: str, version: str) -> tuple[ModelInfo, Manifest]:
        """A version and its manifest. Raises NotPossible without one."""
        info = self.registry.resolve(name, version).info
        if info.manifest is None:
            raise missing(name)
        return info, info.manifest

    async def edges(self, request: EdgeRequest) -> EdgeResponse:
        """Edge values for rows. Raises BadRequest, Exhausted, and what `Model.edges` does."""
        model = self.registry.resolve(request.model, request.version)
        info, manifest = self.describe(request.model, str(model.info.version))
        rows = self._rows(info, request)
        plans = select.plan(
            [LayerShape(layer.sources, layer.destinations, layer.positions, layer.name) for layer in manifest.layers],
            layers=request.layers,
            sources=request.sources,
            destinations=request.destinations,
            top_k=request.top_k,
        )
        self._bound(plans, request.row_count)
        layers = await model.edges(plans, rows, deadline=request.deadline)
        model.metrics.edge_values.inc(sum(layer.values.size for layer in layers))
        return EdgeResponse(info.name, info.version, request.id, info.digest, layers)

    def _rows(self, info: ModelInfo, request: EdgeRequest) -> Array:
        """Packed rows -> [B, ...], shaped as the input. Raises BadRequest, Exhausted."""
        if request.row_count > self.max_query_rows:
            raise Exhausted(
                f"{request.row_count} rows asked for, one query may have {self.max_query_rows}; "
                "send fewer rows, in several queries"
            )
        tensor = info.inputs[0]
        needed = request.row_count * tensor.row_bytes
        if len(request.rows) != needed:
            raise BadRequest(
                f"rows holds {len(request.rows)} bytes, but {request.row_count} rows of input "
                f"'{tensor.name}' ({tensor.datatype}, {tensor.row_bytes} bytes a row) take {needed}"
            )
        shape = (request.row_count, *tensor.shape[1:])
        return np.frombuffer(request.rows, DTYPES[tensor.datatype]).reshape(shape)

    def _bound(self, plans: tuple[LayerPlan, ...], rows: int) -> None:
        needed = sum(plan.response_bytes(rows) for plan in plans)
        if needed > self.max_response_bytes:
            values = sum(math.prod(plan.shape(1)) for plan in plans)
            raise Exhausted(
                f"the answer takes {needed} bytes ({rows} rows x {values} edge values a row), "
                f"the limit is {self.max_response_bytes}; ask for fewer layers, sources or destinations, "
                "set top_k, or send fewer rows"
            )
