"""What is told beside an answer, in the same round trip: where the nodes of its rows are, and why it came out.

Of a model with L layers and O outputs, for B rows:

    kan.coverage.counts               INT32 [B, L, 3]   nodes inside their grids, in the extension, outside
    kan.coverage.worst                INT32 [B, L]      the node that is the farthest beyond its grid; -1: none is
    kan.coverage.cells                FP64 [B, L]       by how many cells
    kan.coverage.zones.0, .1, ...     UINT8 [B, ..., n] of each layer: 0 unknown, 1 inside, 2 extension, 3 outside
    kan.explain.features              INT32 [B, O, k]   the inputs that have most to do with each output
    kan.explain.values                FP64 [B, O, k]    their contributions
    kan.explain.rest, .base           FP64 [B, O]       those of all others; the answer of the reference
    kan.explain.completeness_error    FP64 [B, O]       by how much base, values and rest miss the prediction

and parameters with what these were held against.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import Manifest
from kanserve.errors import BadRequest, Exhausted, NotPossible
from kanserve.handlers import tensors
from kanserve.handlers.explain import Explained, Explainer, Work
from kanserve.handlers.kan import Kan
from kanserve.interpret import select
from kanserve.models.coverage import LayerCoverage
from kanserve.models.model import Model
from kanserve.nouns import Array, EdgeRequest, ExplainRequest, InferRequest, Insight, ModelInfo, OutputTensor, Word

COVERAGE, EXPLAIN = "kan.coverage", "kan.explain"
LARGE = 2**12  # contributions; more are sorted off the event loop, for which they would take milliseconds
OF_A_LAYER = 24  # bytes of a row, beside its zones: counts, worst and cells

Told = tuple[list[OutputTensor], list[tuple[str, Word]]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was checked before its request runs. `work` None: no explanation."""

    model: Model
    manifest: Manifest
    request: InferRequest
    insight: Insight
    work: Work | None


@dataclass(frozen=True, slots=True)
class Insights:
    """The use case; one per server. It has the limits of edge queries and of explanations."""

    kan: Kan
    explainer: Explainer

    def check(self, model: Model, request: InferRequest, insight: Insight, rows: int) -> Plan:
        """Everything that can be said before. Raises BadRequest, Exhausted, NotPossible."""
        manifest = self.kan.manifest(model)
        if not rows:
            raise BadRequest("there are no rows to tell something of")
        if not manifest.layers:
            raise NotPossible(f"model '{model.info.name}' has no layers whose nodes are known")
        if insight.coverage:
            self._bound(manifest, rows)
        work = self.explainer.work(model, manifest, _explained(request, rows)) if insight.top_k else None
        return Plan(model, manifest, request, insight, work)

    async def covered(self, request: EdgeRequest) -> tuple[ModelInfo, tuple[LayerCoverage, ...]]:
        """Where the nodes of each layer are, of rows that are not inferred. Raises BadRequest, Exhausted, NotPossible,
        and what `Model.edges` does."""
        model, manifest = self.kan.describe(request.model, request.version)
        if not request.row_count:
            raise BadRequest("there are no rows to tell something of")
        if not manifest.layers:
            raise NotPossible(f"model '{model.info.name}' has no layers whose nodes are known")
        self._bound(manifest, request.row_count)
        rows = self.kan.rows(model.info, request.rows, request.row_count)
        layers = await model.coverage(manifest, rows, deadline=request.deadline, caller=request.caller)
        return model.info, layers

    async def told(self, plan: Plan, feeds: Mapping[str, Array]) -> Told:
        """Of the rows that are `feeds`. Raises what `Model.edges` does."""
        outputs: list[OutputTensor] = []
        words: list[tuple[str, Word]] = []
        if plan.insight.coverage:
            request = plan.request
            layers = await plan.model.coverage(plan.manifest, feeds, deadline=request.deadline, caller=request.caller)
            outputs += _covered(layers)
            words.append((f"{COVERAGE}.definition", ",".join(layer.definition for layer in layers)))
        if plan.work is not None:
            found = await self.explainer.done(plan.work)
            large = found.what.contributions.size > LARGE
            sparse = await asyncio.to_thread(_sparse, found, plan.insight.top_k) if large else None
            outputs += sparse or _sparse(found, plan.insight.top_k)
            words += _said(found)
        return outputs, words

    def _bound(self, manifest: Manifest, rows: int) -> None:
        self.kan.bound_rows(rows)
        each = [math.prod(layer.positions) * layer.sources for layer in manifest.layers]
        needed = rows * sum(nodes + OF_A_LAYER for nodes in each)
        if needed > self.kan.max_response_bytes:
            raise Exhausted(
                f"the coverage takes {needed} bytes ({rows} rows x {sum(each)} nodes), the limit is "
                f"{self.kan.max_response_bytes}; send fewer rows"
            )


def _explained(request: InferRequest, rows: int) -> ExplainRequest:
    return ExplainRequest(
        model=request.model,
        version=request.version,
        id=request.id,
        rows=tuple((tensor.name, tensor.data) for tensor in request.inputs),
        row_count=rows,
        deadline=request.deadline,
        caller=request.caller,
    )


def _covered(layers: tuple[LayerCoverage, ...]) -> Iterator[OutputTensor]:
    for what, datatype in (("counts", "INT32"), ("worst", "INT32"), ("cells", "FP64")):
        values = np.stack([getattr(layer, what) for layer in layers], axis=1)
        yield _tensor(f"{COVERAGE}.{what}", datatype, values)
    for at, layer in enumerate(layers):
        yield _tensor(f"{COVERAGE}.zones.{at}", "UINT8", layer.zones)


def _sparse(found: Explained, top_k: int) -> list[OutputTensor]:
    """The contributions [B, n, O] that are the largest, and the rest."""
    what = found.what
    rows, outputs = what.predictions.shape
    features = select.largest(what.contributions, top_k)
    each = what.contributions.transpose(0, 2, 1)
    values = np.take_along_axis(each, features.astype(np.intp), axis=2)
    others = np.ones(each.shape, np.bool_)
    np.put_along_axis(others, features.astype(np.intp), False, axis=2)
    arrays: dict[str, NDArray[np.float64]] = {
        "values": values,
        "rest": np.where(others, each, 0.0).sum(axis=2),
        "base": np.broadcast_to(what.base, (rows, outputs)),
        "completeness_error": what.completeness_error,
    }
    return [
        _tensor(f"{EXPLAIN}.features", "INT32", features),
        *(_tensor(f"{EXPLAIN}.{name}", "FP64", array) for name, array in arrays.items()),
    ]


def _said(found: Explained) -> Iterator[tuple[str, Word]]:
    yield f"{EXPLAIN}.method", found.method
    yield f"{EXPLAIN}.reference", found.reference
    yield f"{EXPLAIN}.layer", found.what.layer
    yield f"{EXPLAIN}.of_inputs", found.what.of_inputs
    if found.notes:
        yield f"{EXPLAIN}.notes", "; ".join(found.notes)


def _tensor(name: str, datatype: str, values: Array) -> OutputTensor:
    return OutputTensor(name, datatype, values.shape, tensors.packed(datatype, values))
