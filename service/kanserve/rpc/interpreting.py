"""KanService's messages to plain data and back, as `convert` does for inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kanserve.handlers.explain import Explained
from kanserve.handlers.statistics import Found
from kanserve.handlers.watching import WatchRequest
from kanserve.models.statistics import NodeStatistics
from kanserve.nouns import (
    ONLY,
    CurveBlock,
    CurveRequest,
    EdgeRequest,
    ExplainRequest,
    LayerPath,
    LayerScores,
    ModelInfo,
)
from kanserve.pb import kan_pb2
from kanserve.rpc import convert

Asked = kan_pb2.QueryEdgesRequest | kan_pb2.EdgeScoresRequest | kan_pb2.GetStatisticsRequest | kan_pb2.ExplainRequest


def packed_rows(message: Asked) -> tuple[tuple[str, bytes], ...]:
    """Packed rows by input. Raises BadRequest for too many inputs."""
    convert.at_most("inputs", message.inputs, convert.COUNT_LIMITS["inputs"])
    return tuple((part.name, part.rows) for part in message.inputs) or ((ONLY, message.rows),)


def curves_from_pb(message: kan_pb2.GetCurvesRequest, *, deadline: float | None, caller: str = "") -> CurveRequest:
    """GetCurvesRequest -> CurveRequest. Raises BadRequest for lists longer than any layer, and for half a span."""
    for name in ("layers", "layer_names", "sources", "destinations"):
        convert.at_most(name, getattr(message, name), convert.INDEX_LIMIT)
    return CurveRequest(
        model=message.model_name,
        version=message.model_version,
        points=message.points,
        layers=(*message.layers, *message.layer_names),
        sources=tuple(message.sources),
        destinations=tuple(message.destinations),
        span=convert.both(message, "low", "high"),
        derivative=message.derivative,
        parts=message.parts,
        extrema=message.extrema,
        deadline=deadline,
        caller=caller,
    )


def batch_from_pb(
    message: kan_pb2.EdgeScoresRequest | kan_pb2.GetStatisticsRequest, *, deadline: float | None, caller: str = ""
) -> EdgeRequest:
    """EdgeScoresRequest or GetStatisticsRequest -> EdgeRequest, of all edges. Raises BadRequest for too many inputs."""
    return EdgeRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        rows=packed_rows(message),
        row_count=message.row_count,
        deadline=deadline,
        caller=caller,
    )


def scores_to_pb(
    info: ModelInfo, id: str, over: str, rows: int, layers: Sequence[LayerScores]
) -> kan_pb2.EdgeScoresResponse:
    """Scores as a message."""
    answer = kan_pb2.EdgeScoresResponse(
        model_name=info.name, model_version=str(info.version), digest=info.digest, id=id, over=over, row_count=rows
    )
    for layer in layers:
        sources, destinations = layer.edges.shape
        answer.layers.add(
            layer=layer.layer,
            sources=sources,
            destinations=destinations,
            edges=layer.edges.astype("<f4").tobytes(),
            spread=layer.spread.astype("<f4").tobytes(),
            nodes=layer.nodes.astype("<f4").tobytes(),
        )
    return answer


def statistics_to_pb(found: Found) -> kan_pb2.GetStatisticsResponse:
    """Statistics as a message."""
    info, manifest = found.info, found.info.manifest
    assert manifest is not None  # what has statistics has one
    answer = kan_pb2.GetStatisticsResponse(
        model_name=info.name,
        model_version=str(info.version),
        digest=info.digest,
        id=found.id,
        over=found.over,
        row_count=found.rows,
        rows_seen=found.seen,
        seconds=found.seconds,
        since=found.since,
        processes=found.processes,
        classes=found.classes.tolist(),
        baseline=manifest.baseline.name,
        baseline_rows=manifest.baseline.rows,
    )
    for nodes in found.nodes:
        _add_nodes(answer, nodes)
    return answer


def _add_nodes(answer: kan_pb2.GetStatisticsResponse, nodes: NodeStatistics) -> None:
    window, part, drift = nodes.window, nodes.part, nodes.drift
    counted = zip(window.counts, window.lengths.tolist(), strict=True)
    mean, std = window.moments()
    answer.nodes.add(
        layer=nodes.layer,
        nonfinite=window.nonfinite.astype("<u8").tobytes(),
        bounds=b"".join(_float64(np.array(row)) for row in part.bounds),
        bound_counts=map(len, part.bounds),
        counts=b"".join(row[:length].astype("<u8").tobytes() for row, length in counted),
        zones=nodes.zones.astype("<u8").tobytes(),
        origins=part.origins if len(set(part.origins)) > 1 else part.origins[:1],
        mean=_float64(mean),
        std=_float64(std),
        low=_float64(window.low),
        high=_float64(window.high),
    )
    if drift is not None:
        last = answer.nodes[-1]
        last.psi, last.js, last.wasserstein = _float64(drift.psi), _float64(drift.js), _float64(drift.wasserstein)
        last.psi_chance = _float64(drift.chance)
        last.outside, last.outside_before = _float64(drift.outside), _float64(drift.before)
    if part.baseline is not None:
        answer.nodes[-1].counts_before = b"".join(np.array(row, "<u8").tobytes() for row in part.baseline.counts)


def watch_from_pb(message: kan_pb2.WatchStatisticsRequest, caller: str = "") -> WatchRequest:
    """WatchStatisticsRequest, as it came."""
    return WatchRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        over=message.over,
        interval=message.interval,
        updates=message.updates,
        caller=caller,
    )


def _float64(values: NDArray[np.float64]) -> bytes:
    return values.astype("<f8").tobytes()


def explain_from_pb(message: kan_pb2.ExplainRequest, *, deadline: float | None, caller: str = "") -> ExplainRequest:
    """ExplainRequest, as it came. Raises BadRequest for lists that are too long."""
    convert.at_most("outputs", message.outputs, convert.INDEX_LIMIT)
    return ExplainRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        rows=packed_rows(message),
        row_count=message.row_count,
        reference=message.reference,
        reference_rows=((ONLY, message.reference_rows),),
        reference_count=message.reference_count,
        outputs=tuple(message.outputs),
        method=message.method,
        path=message.path_top_k,
        deadline=deadline,
        caller=caller,
    )


def explained_to_pb(answer: Explained) -> kan_pb2.ExplainResponse:
    """An explanation as a message."""
    what = answer.what
    return kan_pb2.ExplainResponse(
        model_name=answer.info.name,
        model_version=str(answer.info.version),
        digest=answer.info.digest,
        id=answer.id,
        method=answer.method,
        reference=answer.reference,
        layer=what.layer,
        of_inputs=what.of_inputs,
        outputs=answer.outputs,
        nodes=what.contributions.shape[1],
        contributions=what.contributions.astype("<f8").tobytes(),
        base=what.base.astype("<f8").tobytes(),
        predictions=what.predictions.astype("<f8").tobytes(),
        completeness_error=what.completeness_error.astype("<f8").tobytes(),
        notes=answer.notes,
        path=map(_path_to_pb, what.path),
    )


def _path_to_pb(path: LayerPath) -> kan_pb2.LayerPath:
    _, outputs, edges = path.values.shape
    return kan_pb2.LayerPath(
        layer=path.layer,
        outputs=outputs,
        edges=edges,
        sources=path.sources.astype("<u4").tobytes(),
        destinations=path.destinations.astype("<u4").tobytes(),
        values=_float64(path.values),
        rest=_float64(path.rest),
    )


def curves_to_pb(info: ModelInfo, block: CurveBlock) -> kan_pb2.CurveBlock:
    """CurveBlock as a message."""
    return kan_pb2.CurveBlock(
        model_name=info.name,
        model_version=str(info.version),
        digest=info.digest,
        layer=block.layer,
        sources=block.sources,
        destinations=block.destinations,
        points=block.x.shape[1],
        x=block.x.astype("<f8").tobytes(),
        phi=block.phi.astype("<f4").tobytes(),
        derivative=b"" if block.derivative is None else block.derivative.astype("<f4").tobytes(),
        domains=block.domains,
        parts=[kan_pb2.CurvePart(kind=kind, phi=phi.astype("<f4").tobytes()) for kind, phi in block.parts],
        extrema_x=b"" if block.extrema is None else block.extrema[0].astype("<f8").tobytes(),
        extrema=b"" if block.extrema is None else block.extrema[1].astype("<f4").tobytes(),
    )
