"""Codec of KanService messages: protobuf to plain types and back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.sections import LAC
from kanserve.grpc_api import infer_codec, model_codec
from kanserve.grpc_api.infer_codec import LENGTH_DELIMITED
from kanserve.insight.statistics import NodeStatistics
from kanserve.pb import kan_pb2
from kanserve.pb.wire import varint
from kanserve.services.control import ShadowReport, VersionChoice
from kanserve.services.edits import EdgeChange, Edited, EditRequest
from kanserve.services.error_bars import RowErrorBars
from kanserve.services.explain import Explained
from kanserve.services.intervals import RowIntervals
from kanserve.services.statistics import StatisticsResult, WatchRequest
from kanserve.services.validation import COUNT_LIMITS, at_most
from kanserve.types import (
    ONLY,
    CurveBlock,
    CurveRequest,
    EdgeOptions,
    EdgeRequest,
    EdgeResponse,
    Estimate,
    ExplainRequest,
    LayerEdges,
    LayerPath,
    LayerScores,
    ModelInfo,
)

RowsRequest = (
    kan_pb2.QueryEdgesRequest | kan_pb2.EdgeScoresRequest | kan_pb2.GetStatisticsRequest | kan_pb2.ExplainRequest
)


def packed_rows(message: RowsRequest) -> tuple[tuple[str, bytes], ...]:
    """Packed rows by input. Raises BadRequest for too many inputs."""
    at_most("inputs", message.inputs, COUNT_LIMITS["inputs"])
    return tuple((part.name, part.rows) for part in message.inputs) or ((ONLY, message.rows),)


def curves_from_pb(message: kan_pb2.GetCurvesRequest, *, deadline: float | None, caller: str = "") -> CurveRequest:
    """GetCurvesRequest -> CurveRequest. Raises BadRequest for lists that are too long, and for half a span."""
    for name in ("layers", "layer_names", "sources", "destinations"):
        at_most(name, getattr(message, name), infer_codec.INDEX_LIMIT)
    return CurveRequest(
        model=message.model_name,
        version=message.model_version,
        points=message.points,
        layers=(*message.layers, *message.layer_names),
        sources=tuple(message.sources),
        destinations=tuple(message.destinations),
        span=infer_codec.both(message, "low", "high"),
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
    info: ModelInfo, id: str, source: str, rows: int, layers: Sequence[LayerScores]
) -> kan_pb2.EdgeScoresResponse:
    """Scores as a message."""
    answer = kan_pb2.EdgeScoresResponse(
        model_name=info.name, model_version=str(info.version), digest=info.digest, id=id, source=source, row_count=rows
    )
    for layer in layers:
        sources, destinations = layer.edges.shape
        answer.layers.add(
            layer=layer.layer,
            sources=sources,
            destinations=destinations,
            edges=layer.edges.astype("<f4").tobytes(),
            std=layer.std.astype("<f4").tobytes(),
            nodes=layer.nodes.astype("<f4").tobytes(),
        )
    return answer


def statistics_to_pb(result: StatisticsResult) -> kan_pb2.GetStatisticsResponse:
    """Statistics as a message."""
    info, manifest = result.info, result.info.manifest
    assert manifest is not None  # a version with statistics has one
    answer = kan_pb2.GetStatisticsResponse(
        model_name=info.name,
        model_version=str(info.version),
        digest=info.digest,
        id=result.id,
        source=result.source,
        row_count=result.rows,
        rows_seen=result.rows_seen,
        seconds=result.seconds,
        since=result.since,
        processes=result.processes,
        classes=result.classes.tolist(),
        baseline=manifest.baseline.name,
        baseline_rows=manifest.baseline.rows,
    )
    for nodes in result.nodes:
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
        min=_float64(window.min),
        max=_float64(window.max),
    )
    if drift is not None:
        last = answer.nodes[-1]
        last.psi, last.js, last.wasserstein = _float64(drift.psi), _float64(drift.js), _float64(drift.wasserstein)
        last.psi_threshold = _float64(drift.psi_threshold)
        last.out_of_range, last.baseline_out_of_range = (
            _float64(drift.out_of_range),
            _float64(drift.baseline_out_of_range),
        )
    if part.baseline is not None:
        answer.nodes[-1].baseline_counts = b"".join(np.array(row, "<u8").tobytes() for row in part.baseline.counts)


def watch_from_pb(message: kan_pb2.WatchStatisticsRequest, caller: str = "") -> WatchRequest:
    """WatchStatisticsRequest -> WatchRequest, unchecked."""
    return WatchRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        source=message.source,
        interval=message.interval,
        updates=message.updates,
        caller=caller,
    )


def _float64(values: NDArray[np.float64]) -> bytes:
    return values.astype("<f8").tobytes()


def explain_from_pb(message: kan_pb2.ExplainRequest, *, deadline: float | None, caller: str = "") -> ExplainRequest:
    """ExplainRequest of protobuf -> ExplainRequest. Raises BadRequest for lists that are too long."""
    at_most("outputs", message.outputs, infer_codec.INDEX_LIMIT)
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
        path_top_k=message.path_top_k,
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
        nodes_are_inputs=what.nodes_are_inputs,
        outputs=answer.outputs,
        nodes=what.contributions.shape[1],
        contributions=what.contributions.astype("<f8").tobytes(),
        base=what.base.astype("<f8").tobytes(),
        predictions=what.predictions.astype("<f8").tobytes(),
        completeness_error=what.completeness_error.astype("<f8").tobytes(),
        notes=answer.notes,
        path=map(_path_to_pb, what.path),
        intervals=None if answer.intervals is None else _intervals_to_pb(answer.intervals),
        error_bars=None if answer.error_bars is None else _error_bars_to_pb(answer.error_bars),
        out_of_range=b"" if answer.outside is None else answer.outside.astype("<u1").tobytes(),
    )


def _intervals_to_pb(rows: RowIntervals) -> kan_pb2.RowIntervals:
    sets = rows.method == LAC
    return kan_pb2.RowIntervals(
        method=rows.method,
        coverage=rows.coverage,
        numbers=rows.values.shape[1],
        bounds=b"" if sets else rows.values.astype("<f8").tobytes(),
        sets=rows.values.astype("<u1").tobytes() if sets else b"",
        reliable=rows.state.reliable,
        note=rows.state.note,
    )


def _error_bars_to_pb(rows: RowErrorBars) -> kan_pb2.RowErrorBars:
    return kan_pb2.RowErrorBars(
        numbers=rows.values.shape[1],
        bars=rows.values.astype("<f4").tobytes(),
        assumption=rows.assumption,
        contradicted=rows.contradicted,
        note=rows.note,
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
        residual=_float64(path.residual),
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


N = TypeVar("N", bound=np.generic)

PIECE = 2**16  # values
PART = 2**20  # bytes of a part of a response
LAYERS, VALUES = (
    bytes([message.DESCRIPTOR.fields_by_name[name].number << 3 | LENGTH_DELIMITED])
    for message, name in ((kan_pb2.QueryEdgesResponse, "layers"), (kan_pb2.LayerEdges, "values"))
)


def from_pb(message: kan_pb2.QueryEdgesRequest, *, deadline: float | None, caller: str = "") -> EdgeRequest:
    """QueryEdgesRequest -> EdgeRequest. Raises BadRequest for lists that are too long, and for half a path."""
    for name in ("layers", "layer_names", "sources", "destinations", "reductions", "quantiles"):
        at_most(name, getattr(message, name), infer_codec.INDEX_LIMIT)
    return EdgeRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        rows=packed_rows(message),
        row_count=message.row_count,
        layers=(*message.layers, *message.layer_names),
        sources=tuple(message.sources),
        destinations=tuple(message.destinations),
        path=infer_codec.both(message, "path_from", "path_to"),
        options=EdgeOptions(
            top_k=message.top_k,
            per_row=message.per_row,
            min_magnitude=message.min_magnitude,
            residual=message.residual,
            nodes=message.nodes,
            reductions=tuple(message.reductions),
            quantiles=tuple(message.quantiles),
            bins=message.bins,
        ),
        deadline=deadline,
        caller=caller,
    )


def estimated(request: EdgeRequest, info: ModelInfo, estimate: Estimate) -> kan_pb2.QueryEdgesResponse:
    """The cost estimate of a query, as a message."""
    return kan_pb2.QueryEdgesResponse(
        model_name=info.name,
        model_version=str(info.version),
        digest=info.digest,
        id=request.id,
        estimate=kan_pb2.EdgeEstimate(
            response_bytes=estimate.response_bytes,
            max_response_bytes=estimate.max_response_bytes,
            evaluations=estimate.evaluations,
            max_evaluations=estimate.max_evaluations,
            within_limits=estimate.within_limits,
        ),
    )


def packed(response: EdgeResponse) -> bytes:
    """The bytes of a QueryEdgesResponse, copied in pieces, because no other thread runs while Python copies
    megabytes."""
    whole = kan_pb2.QueryEdgesResponse(
        model_name=response.model, model_version=str(response.version), digest=response.digest, id=response.id
    )
    pieces = [whole.SerializeToString()]
    for layer in response.layers:
        head, size = _layer(layer).SerializeToString(), layer.values.nbytes
        head += VALUES + varint(size)
        pieces += [LAYERS + varint(len(head) + size) + head]
        flat = layer.values.reshape(-1)
        pieces += [flat[at : at + PIECE].tobytes() for at in range(0, flat.size, PIECE)]
    return b"".join(pieces)  # other threads run meanwhile


def _layer(layer: LayerEdges) -> kan_pb2.LayerEdges:
    """The layer as a message without its values."""
    message = kan_pb2.LayerEdges(
        layer=layer.layer,
        shape=layer.values.shape,
        sources=layer.sources,
        destinations=layer.destinations,
        first_row=layer.first_row,
    )
    if layer.per_row is not None:
        message.per_row_sources, message.per_row_destinations = (part.astype("<u4").tobytes() for part in layer.per_row)
    if layer.residual is not None:
        message.residual, message.residual_destinations[:] = (
            layer.residual.astype("<f4").tobytes(),
            layer.residual_destinations,
        )
    if layer.nodes is not None:
        message.nodes, message.node_count = layer.nodes.astype("<f4").tobytes(), layer.nodes.shape[-1]
    for kind, values in layer.reductions:
        message.reductions.add(kind=kind, shape=values.shape, values=values.astype("<f4").tobytes())
    return message


def parts(response: EdgeResponse, most: int = PART) -> Iterator[EdgeResponse]:
    """The response in parts of at most about `most` bytes. Each has some rows of a layer, or some edges of one row.
    A response without layers is one part."""
    if not response.layers:
        yield response
    for layer in response.layers:
        for part in divided(layer, most):
            yield dataclasses.replace(response, layers=(part,))


def divided(layer: LayerEdges, most: int) -> Iterator[LayerEdges]:
    """Parts of a layer by rows, otherwise by sources or by edges of a list, otherwise by destinations."""
    rows = len(layer.values)
    if layer.nbytes <= most:
        yield layer
    elif rows > 1:
        step = max(1, rows * most // layer.nbytes)
        for at in range(0, rows, step):
            yield from divided(_rows(layer, at, at + step), most)
    else:
        yield from _by_edges(layer, most)


def _rows(layer: LayerEdges, start: int, end: int) -> LayerEdges:
    def some(array: NDArray[N]) -> NDArray[N]:
        return array[start:end]

    return dataclasses.replace(
        layer,
        values=some(layer.values),
        per_row=None if layer.per_row is None else (some(layer.per_row[0]), some(layer.per_row[1])),
        residual=None if layer.residual is None else some(layer.residual),
        nodes=None if layer.nodes is None else some(layer.nodes),
        first_row=layer.first_row + start,
    )


def _by_edges(layer: LayerEdges, most: int) -> Iterator[LayerEdges]:
    """Divide one row, or the reductions over all rows, by its edges. The other fields go with the first part."""
    axes = (-1,) if layer.picked else (-2, -1)
    axis = next((axis for axis in axes if layer.values.shape[axis] > 1), 0)
    if not axis:
        yield layer
        return
    count = layer.values.shape[axis]
    step = max(1, min(count - 1, count * most // layer.nbytes))
    for at in range(0, count, step):
        yield from divided(_edges(layer, axis, slice(at, at + step)), most)
        layer = dataclasses.replace(layer, residual=None, residual_destinations=(), nodes=None)


def _edges(layer: LayerEdges, axis: int, which: slice) -> LayerEdges:
    """A part of a layer along an axis of the edges: -2 sources, -1 destinations, or pairs of both if they are a
    list."""

    def some(array: NDArray[N]) -> NDArray[N]:
        return array[..., which] if axis == -1 else array[..., which, :]

    return dataclasses.replace(
        layer,
        sources=layer.sources[which] if axis == -2 or layer.picked else layer.sources,
        destinations=layer.destinations[which] if axis == -1 else layer.destinations,
        values=some(layer.values),
        per_row=None if layer.per_row is None else (some(layer.per_row[0]), some(layer.per_row[1])),
        reductions=tuple((kind, some(array)) for kind, array in layer.reductions),
    )


STATISTICS = bytes([kan_pb2.StatisticsUpdate.DESCRIPTOR.fields_by_name["statistics"].number << 3 | LENGTH_DELIMITED])


class UpdateCache:
    """Cache of encoded statistics updates, and a context for each watch. It is empty while there are no watches."""

    def __init__(self) -> None:
        self._users = 0
        self._written: dict[tuple[str, int, str], tuple[object, asyncio.Task[bytes]]] = {}

    def __enter__(self) -> UpdateCache:
        self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if not self._users:
            self._written.clear()

    async def update(self, result: StatisticsResult, ended: str) -> bytes:
        """A StatisticsUpdate. If the nodes are the same object, the statistics are the same."""
        key = result.info.name, result.info.version, result.source
        nodes, task = self._written.get(key, (None, None))
        if task is None or nodes is not result.nodes:
            task = asyncio.ensure_future(asyncio.to_thread(_written, dataclasses.replace(result, id="")))
            self._written[key] = result.nodes, task
        # In the protobuf encoding, concatenated messages are merged.
        own = kan_pb2.GetStatisticsResponse(id=result.id).SerializeToString()
        statistics = await asyncio.shield(task)
        last = kan_pb2.StatisticsUpdate(end_reason=ended).SerializeToString()
        return b"".join((STATISTICS, varint(len(statistics) + len(own)), statistics, own, last))


def _written(result: StatisticsResult) -> bytes:
    return statistics_to_pb(result).SerializeToString()


def edits_from_pb(message: kan_pb2.EditEdgesRequest, *, author: str) -> EditRequest:
    """A request of EditEdges by a caller of this name."""
    changes = [
        EdgeChange(edit.layer, edit.source, edit.destination, edit.operation, edit.text, tuple(edit.numbers))
        for edit in message.edits
    ]
    return EditRequest(message.model_name, message.model_version, changes, message.preview, author)


def edited_to_pb(result: Edited) -> kan_pb2.EditEdgesResponse:
    """The message EditEdgesResponse."""
    message = kan_pb2.EditEdgesResponse(
        model_name=result.model,
        model_version=str(result.version or ""),
        edit=model_codec.edit_to_pb(result.edit),
        notes=result.notes,
    )
    for curve in result.curves:
        layer, source, destination = curve.edge
        message.curves.add(
            layer=layer,
            source=source,
            destination=destination,
            x=curve.x,
            phi_before=curve.before,
            phi_after=curve.after,
        )
    return message


def version_choice(chosen: VersionChoice) -> bytes:
    """The message VersionChoice."""
    answer = kan_pb2.VersionChoice(
        model_name=chosen.model, model_version=str(chosen.version), previous_version=str(chosen.previous_version or "")
    )
    return answer.SerializeToString()


def shadow_report(report: ShadowReport) -> bytes:
    """The message ShadowReport."""
    answer = kan_pb2.ShadowReport(
        model_name=report.model,
        model_version=str(report.version),
        baseline_version=str(report.baseline_version),
        running=report.running,
        share=report.share,
        tolerance=report.tolerance,
        requests=report.requests,
        rows=report.rows,
        rows_out_of_tolerance=report.rows_out_of_tolerance,
        requests_dropped=report.requests_dropped,
        requests_failed=report.requests_failed,
        largest_difference=report.largest_difference,
        rows_with_other_class=report.rows_with_other_class,
    )
    return answer.SerializeToString()
