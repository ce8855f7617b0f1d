"""The content of a model's report, from the use cases: its description, its scores and its curves."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

from kanexport.shared.manifest import Manifest
from kanserve.analysis import curves
from kanserve.errors import FailedPrecondition, ResourceExhausted
from kanserve.report import selection
from kanserve.report.selection import Curves, Plan
from kanserve.services import statistics
from kanserve.services.kan import Kan
from kanserve.types import CurveRequest, Description, EdgeRequest, LayerCurves, ModelInfo


def description(kan: Kan, info: ModelInfo, manifest: Manifest) -> Description:
    """A version as `DescribeModel` describes it to a client."""
    return Description(
        name=info.name,
        version=str(info.version),
        digest=info.digest,
        family=manifest.source.family,
        edge_class=manifest.edge_class,
        inputs=info.inputs,
        outputs=info.outputs,
        layers=tuple(
            dataclasses.replace(layer, edge_class=layer.edge_class or manifest.edge_class) for layer in manifest.layers
        ),
        max_batch_size=info.max_batch_size,
        max_rows=kan.max_edge_query_rows,
        max_response_bytes=kan.max_response_bytes,
        notes=manifest.notes,
        intervals=dataclasses.replace(manifest.intervals, low=(), high=()),
        verification_basis=manifest.verification_basis,
        claim=manifest.claim,
        options_assumed=manifest.source.options_assumed,
        names=manifest.names,
        out_of_range_policy=manifest.out_of_range,
        zones=manifest.verification.zones,
        tolerances=(manifest.verification.outputs_tolerance, manifest.verification.edges_tolerance),
        files=manifest.source.files,
        exporter=manifest.exporter_version,
        options_given=manifest.source.options_given,
        scalers=manifest.scalers,
        certificate=manifest.certificate,
        error_bars=dataclasses.replace(manifest.error_bars, x=(), errors=()),
        edit=manifest.edit,
    )


async def gather(kan: Kan, info: ModelInfo, manifest: Manifest, caller: str) -> tuple[Plan, Curves]:
    """The plan of a report, and the responses to its requests. `caller`: as in EdgeRequest. Raises the errors of
    `Model.results`, except FailedPrecondition and ResourceExhausted: the report then has no scores, or no curves."""
    described, scores = description(kan, info, manifest), None
    request = EdgeRequest(described.name, described.version, id="", rows=(), row_count=0, caller=caller)
    # Over the baseline of the export, or over its reference rows. The model may have none, or too many.
    with contextlib.suppress(FailedPrecondition, ResourceExhausted):
        _, scores = await statistics.scores(kan, request, statistics.BEST)
    plan = await asyncio.to_thread(selection.plan, described, scores)
    responses: dict[CurveRequest, tuple[LayerCurves, ...]] = {}
    for curve_request in plan.requests:
        try:
            _, blocks = kan.curves(dataclasses.replace(curve_request, caller=caller))
            async with contextlib.aclosing(blocks):
                response = [block async for block in blocks]
        except (FailedPrecondition, ResourceExhausted):  # edges of class B have no curves; a response may be too large
            responses[curve_request] = ()
        else:
            responses[curve_request] = await asyncio.to_thread(curves.joined, response)
    return plan, responses
