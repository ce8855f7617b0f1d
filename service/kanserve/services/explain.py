"""Use case of explanations: check the limits, then compute."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.cli.suggest import advice
from kanexport.shared.manifest import Manifest
from kanserve.analysis import curves, query_plan
from kanserve.errors import BadRequest, FailedPrecondition, ResourceExhausted
from kanserve.insight import coverage, explain
from kanserve.insight.coverage import LayerCoverage
from kanserve.insight.explain import GRADIENT, METHODS, RESCALE
from kanserve.models.model import Model
from kanserve.services import error_bars, intervals, validation
from kanserve.services.error_bars import RowErrorBars
from kanserve.services.intervals import RowIntervals
from kanserve.services.kan import Kan
from kanserve.types import (
    DTYPES,
    Array,
    EdgeRequest,
    ExplainRequest,
    Explanation,
    InferRequest,
    Insight,
    LayerPath,
    ModelInfo,
    OutputTensor,
    ParameterValue,
)

MEAN, ZEROS, CENTRE, ROWS = "mean", "zeros", "grid_center", "rows"
REFERENCES = (MEAN, ZEROS, CENTRE, ROWS)
NUMBER = 8  # bytes
CANCELLED, INCOMPLETE = 100, 1e-3  # of what is explained
MOST_PATH = 256  # edges of a layer
COVERAGE, EXPLAIN = "kan.coverage", "kan.explain"
LARGE = 2**12  # contributions; more are sorted off the event loop, for which they would take milliseconds
OF_A_LAYER = 24  # bytes of a row, in addition to its zones: counts, worst and cells

Annotations = tuple[list[OutputTensor], list[tuple[str, ParameterValue]]]


@dataclass(frozen=True, slots=True)
class Explained:
    """Explanation of a request."""

    info: ModelInfo
    id: str
    method: str  # method of attribution
    reference: str  # name of the reference
    outputs: tuple[int, ...]  # explained outputs, by index
    what: Explanation  # contributions
    notes: tuple[str, ...]  # remarks for the reader
    intervals: RowIntervals | None = None  # prediction intervals of the rows; None if the model has none
    error_bars: RowErrorBars | None = None  # error bars of the rows; None if the model has none
    outside: NDArray[np.bool_] | None = None  # whether each row is out of range [B]; None if no range is known


@dataclass(frozen=True, slots=True)
class Work:
    """Explanation that passed the checks and is not computed yet."""

    model: Model
    manifest: Manifest
    request: ExplainRequest
    rows: dict[str, Array]  # rows [B, ...], by input
    method: str  # one of `insight/explain.METHODS`
    name: str  # name of the reference
    reference: dict[str, Array]  # rows of the reference [R, ...], by input
    outputs: tuple[int, ...]  # outputs to explain, by index


@dataclass(frozen=True, slots=True)
class Explainer:
    """Use cases of explanations, and of inference with insights; one object per server. They have the limits of edge
    queries."""

    kan: Kan

    async def explain(self, request: ExplainRequest) -> Explained:
        """The explanation of a request. Raises BadRequest, ResourceExhausted, FailedPrecondition, and the errors of
        `Model.results`."""
        work = self.work(*self.kan.describe(request.model, request.version), request)
        explained = await self.done(work)
        rows, outside = (work.model, work.rows, work.outputs), await intervals.out_of_range(work.model, work.rows)
        return dataclasses.replace(
            explained,
            intervals=await intervals.of_rows(*rows, outside),
            error_bars=await error_bars.of_rows(*rows),
            outside=outside,
        )

    def work(self, model: Model, manifest: Manifest, request: ExplainRequest) -> Work:
        """Check a request before it is computed. Raises BadRequest, ResourceExhausted, FailedPrecondition."""
        info = model.info
        _check_layers(info, manifest)
        if len(info.inputs) != 1 or info.inputs[0].datatype not in ("FP32", "FP64"):
            raise FailedPrecondition(
                f"model '{info.name}' has no explanations: they need exactly one floating-point input",
                code="model-not-explainable",
                hint="query edge values (QueryEdges) instead",
            )
        _check_rows(request.row_count)
        count = max(0, info.outputs[0].shape[-1])
        for at in request.outputs:
            if at >= count:
                raise BadRequest(
                    f"unknown output {at}: the model has {count} outputs",
                    code="output-number-unknown",
                    hint=f"send numbers from 0 to {count - 1}",
                )
        if len(set(request.outputs)) != len(request.outputs):
            raise BadRequest("an output is named twice", code="output-duplicate", hint="name each output once")
        outputs = request.outputs or tuple(range(count))
        rows = self.kan.rows(info, request.rows, request.row_count)
        if request.method not in ("", *METHODS):
            raise BadRequest(
                f"unknown method {request.method[:40]!r}",
                code="method-of-explanation-unknown",
                hint=advice(request.method, METHODS, what="methods"),
            )
        method = request.method or RESCALE
        if request.path_top_k > MOST_PATH:
            raise BadRequest(
                f"path_top_k is {request.path_top_k}, expected at most {MOST_PATH} edges per layer",
                code="path-too-large",
                hint="send a smaller path_top_k",
            )
        if request.path_top_k and method != RESCALE:
            raise BadRequest(
                f"path_top_k cannot be combined with the method '{method}'",
                code="query-options-conflict",
                hint=f"use the method '{RESCALE}', whose contributions add up, or remove path_top_k",
            )
        name, reference = self._reference(info, manifest, request)
        self._bound(info, manifest, request, len(next(iter(reference.values()))), len(outputs))
        return Work(model, manifest, request, rows, method, name, reference, outputs)

    async def done(self, work: Work) -> Explained:
        """Compute the explanation. Raises FailedPrecondition, and the errors of `Model.results`."""
        request, known = work.request, work.name if work.name != ROWS else ""
        steps = explain.compute(
            work.model.session,
            work.model.edge_graphs,
            work.manifest,
            work.model.prepared,
            work.rows,
            (known, work.reference),
            method=work.method,
            outputs=work.outputs,
            path=request.path_top_k,
        )
        async with contextlib.aclosing(work.model.results(steps, request)) as pieces:
            parts = [piece async for piece in pieces]
        names = ("sources", "destinations", "values", "residual")
        what = dataclasses.replace(
            parts[0],
            contributions=np.concatenate([part.contributions for part in parts]),
            predictions=np.concatenate([part.predictions for part in parts]),
            path=tuple(
                LayerPath(paths[0].layer, *(np.concatenate([getattr(path, name) for path in paths]) for name in names))
                for paths in zip(*(part.path for part in parts), strict=True)
            ),
        )
        numbers = (what.contributions, what.completeness_error, what.predictions, what.base)
        largest, missed, *outputs = (np.abs(part[np.isfinite(part)]).max(initial=0.0) for part in numbers)
        explained, notes = max(outputs), []
        if work.method == GRADIENT:
            notes.append(
                "contributions are slopes at each row, multiplied by the distance from the reference; they do not "
                "add up to the difference"
            )
        elif missed > INCOMPLETE * explained:
            notes.append(
                f"the largest residual of the contributions is {missed:.3g}; the largest prediction is {explained:.3g}"
            )
        if largest > CANCELLED * explained:
            notes.append(
                f"contributions of up to {largest:.3g} cancel to predictions of at most {explained:.3g}, because the "
                "model is steep at the reference, like a normalization of a row of equal numbers; use rows of your "
                "data as reference"
            )
        return Explained(work.model.info, request.id, work.method, work.name, work.outputs, what, tuple(notes))

    def check(self, model: Model, request: InferRequest, insight: Insight, rows: int) -> Work | None:
        """Check the insights of an inference before it runs. The explanation, if one is requested. Raises BadRequest,
        ResourceExhausted, FailedPrecondition."""
        manifest = self.kan.manifest(model)
        _check_rows(rows)
        _check_layers(model.info, manifest)
        if insight.coverage:
            self._bound_coverage(manifest, rows)
        if not insight.top_k:
            return None
        explained = ExplainRequest(
            model=request.model,
            version=request.version,
            id=request.id,
            rows=tuple((tensor.name, tensor.data) for tensor in request.inputs),
            row_count=rows,
            deadline=request.deadline,
            caller=request.caller,
        )
        return self.work(model, manifest, explained)

    async def covered(self, request: EdgeRequest) -> tuple[ModelInfo, tuple[LayerCoverage, ...]]:
        """The coverage of rows, without inference. Raises BadRequest, ResourceExhausted, FailedPrecondition, and the
        errors of `Model.results`."""
        model, manifest = self.kan.describe(request.model, request.version)
        _check_rows(request.row_count)
        _check_layers(model.info, manifest)
        self._bound_coverage(manifest, request.row_count)
        rows = self.kan.rows(model.info, request.rows, request.row_count)
        steps = coverage.compute(model.session, manifest, model.bounds, rows, step=model.step_rows)
        return model.info, await model.result(steps, request)

    async def annotate(
        self, model: Model, request: InferRequest, insight: Insight, work: Work | None, feeds: Mapping[str, Array]
    ) -> Annotations:
        """The coverage of the rows in `feeds` and their explanation `work`. Raises the errors of `Model.results`."""
        outputs: list[OutputTensor] = []
        words: list[tuple[str, ParameterValue]] = []
        if insight.coverage:
            manifest = self.kan.manifest(model)
            steps = coverage.compute(model.session, manifest, model.bounds, feeds, step=model.step_rows)
            layers = await model.result(steps, request)
            for what, datatype in (("counts", "INT32"), ("worst", "INT32"), ("cells", "FP64")):
                values = np.stack([getattr(layer, what) for layer in layers], axis=1)
                outputs.append(_tensor(f"{COVERAGE}.{what}", datatype, values))
            outputs += [_tensor(f"{COVERAGE}.zones.{at}", "UINT8", layer.zones) for at, layer in enumerate(layers)]
            words.append((f"{COVERAGE}.definition", ",".join(layer.definition for layer in layers)))
        if work is not None:
            explanation = await self.done(work)
            large = explanation.what.contributions.size > LARGE
            sparse = await asyncio.to_thread(_sparse, explanation, insight.top_k) if large else None
            outputs += sparse or _sparse(explanation, insight.top_k)
            words += [
                (f"{EXPLAIN}.method", explanation.method),
                (f"{EXPLAIN}.reference", explanation.reference),
                (f"{EXPLAIN}.layer", explanation.what.layer),
                (f"{EXPLAIN}.nodes_are_inputs", explanation.what.nodes_are_inputs),
            ]
            if explanation.notes:
                words.append((f"{EXPLAIN}.notes", "; ".join(explanation.notes)))
        return outputs, words

    def _bound_coverage(self, manifest: Manifest, rows: int) -> None:
        self.kan.bound_rows(rows)
        each = [math.prod(layer.positions) * layer.sources for layer in manifest.layers]
        needed = rows * sum(nodes + OF_A_LAYER for nodes in each)
        if needed > self.kan.max_response_bytes:
            raise ResourceExhausted(
                f"the coverage takes {needed} bytes ({rows} rows x {sum(each)} nodes), the limit is "
                f"{self.kan.max_response_bytes}",
                code="response-too-large",
                hint="send fewer rows",
            )

    def _reference(self, info: ModelInfo, manifest: Manifest, request: ExplainRequest) -> tuple[str, dict[str, Array]]:
        """The name of the reference, and its rows by input. Raises BadRequest, FailedPrecondition,
        ResourceExhausted."""
        reference, count = request.reference, request.reference_count
        if reference not in ("", *REFERENCES):
            raise BadRequest(
                f"unknown reference {reference[:40]!r}",
                code="reference-unknown",
                hint=advice(reference, REFERENCES, what="references"),
            )
        if reference and (reference == ROWS) != bool(count):
            raise BadRequest(
                f"the reference is '{reference}', but the request has {count} reference rows",
                code="reference-rows-conflict",
                hint=f"send reference rows with the reference '{ROWS}' only",
            )
        if count:
            return ROWS, self.kan.rows(info, request.reference_rows, count)
        name, values = export_reference(info, manifest, reference)
        tensor = info.inputs[0]
        return name, {tensor.name: values.astype(DTYPES[tensor.datatype]).reshape(1, *tensor.shape[1:])}

    def _bound(
        self, info: ModelInfo, manifest: Manifest, request: ExplainRequest, references: int, outputs: int
    ) -> None:
        rows, fewer = request.row_count, "send fewer rows, or request fewer outputs"
        width = max(math.prod(info.inputs[0].shape[1:]), *(layer.sources for layer in manifest.layers))
        k = request.path_top_k
        path = sum(min(k, layer.sources * layer.destinations) + 1 for layer in manifest.layers) if k else 0
        ends = (2 if manifest.intervals.method else 0) + bool(manifest.error_bars)
        if (needed := rows * outputs * (width + 2 + ends + 2 * path) * NUMBER) > self.kan.max_response_bytes:
            raise ResourceExhausted(
                f"the response takes {needed} bytes ({rows} rows x {outputs} outputs x {width} inputs), the limit is "
                f"{self.kan.max_response_bytes}",
                code="response-too-large",
                hint=fewer,
            )
        each = (
            references
            * (2 + outputs * (2 if request.path_top_k else 1))
            * sum(layer.sources * layer.destinations for layer in manifest.layers)
        )
        if rows * each > self.kan.max_edge_query_evaluations:
            raise ResourceExhausted(
                f"the explanation takes {rows * each} edge evaluations ({rows} rows, {references} reference rows, "
                f"{outputs} outputs), the limit is {self.kan.max_edge_query_evaluations}",
                code="too-many-edge-evaluations",
                hint=fewer,
            )


def _check_layers(info: ModelInfo, manifest: Manifest) -> None:
    if not manifest.layers:
        raise FailedPrecondition(
            f"model '{info.name}' has no KAN layers in its manifest",
            code="model-without-layers",
            hint="use a model with KAN layers; DescribeModel lists them",
        )


def _check_rows(count: int) -> None:
    if not count:
        raise BadRequest("the request has no rows", code="rows-missing", hint="send one row or more")


def export_reference(info: ModelInfo, manifest: Manifest, reference: str) -> tuple[str, Array]:
    """The name of a reference without rows in the request, and its numbers: `reference`, or the best available one if
    that is empty. Raises FailedPrecondition."""
    numbers = math.prod(info.inputs[0].shape[1:])
    if reference in ("", MEAN) and manifest.baseline.rows:
        return MEAN, np.array(manifest.baseline.mean)
    if reference == MEAN:
        raise FailedPrecondition(
            f"model '{info.name}' has no mean, because its export had no baseline rows",
            code="baseline-missing",
            hint="export the model with --baseline FILE, or use another reference",
        )
    tensor, middle = info.inputs[0], None
    gridded = len(tensor.shape) == 2 and manifest.layers and manifest.layers[0].node_tensor == tensor.name
    if reference != ZEROS and gridded:
        middle = curves.centre(manifest.layers[0], tensor.shape[1])
    if reference == CENTRE and middle is None:
        raise FailedPrecondition(
            f"model '{info.name}' has no grid center, because some inputs have no grid",
            code="grid-center-missing",
            hint=f"use the reference '{ZEROS}', or send reference rows",
        )
    return (ZEROS, np.zeros(numbers)) if middle is None else (CENTRE, middle)


def _sparse(explanation: Explained, top_k: int) -> list[OutputTensor]:
    """The largest contributions, from [B, n, O], and the sum of the others."""
    what = explanation.what
    rows, outputs = what.predictions.shape
    features = query_plan.largest(what.contributions, top_k)
    each = what.contributions.transpose(0, 2, 1)
    values = np.take_along_axis(each, features.astype(np.intp), axis=2)
    others = np.ones(each.shape, np.bool_)
    np.put_along_axis(others, features.astype(np.intp), False, axis=2)
    arrays: dict[str, NDArray[np.float64]] = {
        "values": values,
        "residual": np.where(others, each, 0.0).sum(axis=2),
        "base": np.broadcast_to(what.base, (rows, outputs)),
        "completeness_error": what.completeness_error,
    }
    return [
        _tensor(f"{EXPLAIN}.features", "INT32", features),
        *(_tensor(f"{EXPLAIN}.{name}", "FP64", array) for name, array in arrays.items()),
    ]


def _tensor(name: str, datatype: str, values: Array) -> OutputTensor:
    return OutputTensor(name, datatype, values.shape, validation.packed(datatype, values))
