"""Codec of KanService messages: protobuf to plain types and back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from kanexport.shared.sections import LAC
from kanserve.grpc_api import infer_codec, model_codec
from kanserve.grpc_api.infer_codec import INDEX_LIMIT, LENGTH_DELIMITED, at_most
from kanserve.grpc_api.model_codec import filled, identity
from kanserve.models.registry import Choice
from kanserve.pb import kan_pb2
from kanserve.pb.wire import varint
from kanserve.services.control import ShadowReport
from kanserve.services.edits import EdgeChange, Edited, EditRequest
from kanserve.services.explain import Explained
from kanserve.services.statistics import StatisticsResult
from kanserve.services.validation import COUNT_LIMITS
from kanserve.types import (
    ONLY,
    Array,
    CurveBlock,
    CurveRequest,
    EdgeOptions,
    EdgeRequest,
    EdgeResponse,
    Estimate,
    ExplainRequest,
    LayerEdges,
    ModelInfo,
    Scores,
)

RowsRequest = (
    kan_pb2.QueryEdgesRequest | kan_pb2.EdgeScoresRequest | kan_pb2.GetStatisticsRequest | kan_pb2.ExplainRequest
)


def packed_rows(message: RowsRequest) -> tuple[tuple[str, bytes], ...]:
    """Packed rows by input. Raises BadRequest for too many inputs."""
    at_most("inputs", message.inputs, COUNT_LIMITS["inputs"])
    return tuple((part.name, part.rows) for part in message.inputs) or ((ONLY, message.rows),)


R = TypeVar("R")


def read(kind: type[R], message: Message, **fields: Any) -> R:
    """A request of this dataclass with these fields. Each other field has the value of the message's field with its
    name."""
    repeated = {field.name for field in message.DESCRIPTOR.fields if field.is_repeated}
    for field in dataclasses.fields(cast(Any, kind)):
        name = {"model": "model_name", "version": "model_version"}.get(field.name, field.name)
        if field.name not in fields:
            value = getattr(message, name)
            fields[field.name] = tuple(value) if name in repeated else value
    return kind(**fields)


def curves_from_pb(message: kan_pb2.GetCurvesRequest, *, deadline: float | None, caller: str = "") -> CurveRequest:
    """GetCurvesRequest -> CurveRequest. Raises BadRequest for lists that are too long, and for half a span."""
    for name in ("layers", "layer_names", "sources", "destinations"):
        at_most(name, getattr(message, name), INDEX_LIMIT)
    layers, span = (*message.layers, *message.layer_names), infer_codec.both(message, "low", "high")
    return read(CurveRequest, message, layers=layers, span=span, deadline=deadline, caller=caller)


def batch_from_pb(
    message: kan_pb2.EdgeScoresRequest | kan_pb2.GetStatisticsRequest, *, deadline: float | None, caller: str = ""
) -> EdgeRequest:
    """EdgeScoresRequest or GetStatisticsRequest -> EdgeRequest, of all edges. Raises BadRequest for too many inputs."""
    named = message.model_name, message.model_version, message.id
    return EdgeRequest(*named, packed_rows(message), message.row_count, deadline=deadline, caller=caller)


def scores_to_pb(info: ModelInfo, id: str, scores: Scores) -> kan_pb2.EdgeScoresResponse:
    """Scores as a message."""
    message = filled(kan_pb2.EdgeScoresResponse, scores, **identity(info), id=id, layers=())
    for layer in scores.layers:
        sources, destinations = layer.edges.shape
        message.layers.add(
            layer=layer.layer,
            sources=sources,
            destinations=destinations,
            edges=_float32(layer.edges),
            std=_float32(layer.std),
            nodes=_float32(layer.nodes),
        )
    return message


def statistics_to_pb(result: StatisticsResult) -> kan_pb2.GetStatisticsResponse:
    """Statistics as a message."""
    manifest = result.info.manifest
    assert manifest is not None  # a version with statistics has one
    packed_nodes = []
    for nodes in result.over.nodes:
        window, part = nodes.window, nodes.part
        counted = zip(window.counts, window.lengths.tolist(), strict=True)
        mean, std = window.moments()
        message = kan_pb2.NodeStatistics(
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
        if nodes.drift is not None:
            for name in ("psi", "js", "wasserstein", "psi_threshold", "out_of_range", "baseline_out_of_range"):
                setattr(message, name, _float64(getattr(nodes.drift, name)))
        if part.baseline is not None:
            message.baseline_counts = b"".join(np.array(row, "<u8").tobytes() for row in part.baseline.counts)
        packed_nodes.append(message)
    return filled(
        kan_pb2.GetStatisticsResponse,
        result.over,
        **identity(result.info),
        id=result.id,
        source=result.source,
        row_count=result.over.tally.rows,
        classes=result.over.tally.classes.tolist(),
        baseline=manifest.baseline.name,
        baseline_rows=manifest.baseline.rows,
        nodes=packed_nodes,
    )


def _float32(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4").tobytes()


def _float64(values: Array) -> bytes:
    return values.astype("<f8").tobytes()


def explain_from_pb(message: kan_pb2.ExplainRequest, *, deadline: float | None, caller: str = "") -> ExplainRequest:
    """ExplainRequest of protobuf -> ExplainRequest. Raises BadRequest for lists that are too long."""
    at_most("outputs", message.outputs, INDEX_LIMIT)
    rows, reference = packed_rows(message), ((ONLY, message.reference_rows),)
    return read(ExplainRequest, message, rows=rows, reference_rows=reference, deadline=deadline, caller=caller)


def explained_to_pb(result: Explained) -> kan_pb2.ExplainResponse:
    """An explanation as a message."""
    what, bars, rows = result.what, result.error_bars, result.intervals
    sets = rows is not None and rows.method == LAC
    return kan_pb2.ExplainResponse(
        **identity(result.info),
        id=result.id,
        method=result.method,
        reference=result.reference,
        layer=what.layer,
        nodes_are_inputs=what.nodes_are_inputs,
        outputs=result.outputs,
        nodes=what.contributions.shape[1],
        contributions=_float64(what.contributions),
        base=_float64(what.base),
        predictions=_float64(what.predictions),
        completeness_error=_float64(what.completeness_error),
        notes=result.notes,
        path=[
            kan_pb2.LayerPath(
                layer=path.layer,
                outputs=path.values.shape[1],
                edges=path.values.shape[2],
                sources=path.sources.astype("<u4").tobytes(),
                destinations=path.destinations.astype("<u4").tobytes(),
                values=_float64(path.values),
                residual=_float64(path.residual),
            )
            for path in what.path
        ],
        intervals=None
        if rows is None
        else kan_pb2.RowIntervals(
            method=rows.method,
            coverage=rows.coverage,
            numbers=rows.values.shape[1],
            bounds=b"" if sets else _float64(rows.values),
            sets=rows.values.astype("<u1").tobytes() if sets else b"",
            reliable=rows.state.reliable,
            note=rows.state.note,
        ),
        error_bars=None
        if bars is None
        else filled(kan_pb2.RowErrorBars, bars, numbers=bars.values.shape[1], bars=_float32(bars.values)),
        out_of_range=b"" if result.outside is None else result.outside.astype("<u1").tobytes(),
    )


def curves_to_pb(info: ModelInfo, block: CurveBlock) -> kan_pb2.CurveBlock:
    """CurveBlock as a message."""
    return kan_pb2.CurveBlock(
        **identity(info),
        layer=block.layer,
        sources=block.sources,
        destinations=block.destinations,
        points=block.x.shape[1],
        x=_float64(block.x),
        phi=_float32(block.phi),
        derivative=b"" if block.derivative is None else _float32(block.derivative),
        domains=block.domains,
        parts=[kan_pb2.CurvePart(kind=kind, phi=_float32(phi)) for kind, phi in block.parts],
        extrema_x=b"" if block.extrema is None else _float64(block.extrema[0]),
        extrema=b"" if block.extrema is None else _float32(block.extrema[1]),
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
        at_most(name, getattr(message, name), INDEX_LIMIT)
    return read(
        EdgeRequest,
        message,
        rows=packed_rows(message),
        layers=(*message.layers, *message.layer_names),
        path=infer_codec.both(message, "path_from", "path_to"),
        options=read(EdgeOptions, message),
        deadline=deadline,
        caller=caller,
    )


def estimated(request: EdgeRequest, info: ModelInfo, estimate: Estimate) -> kan_pb2.QueryEdgesResponse:
    """The cost estimate of a query, as a message."""
    cost = filled(kan_pb2.EdgeEstimate, estimate)
    return kan_pb2.QueryEdgesResponse(**identity(info), id=request.id, estimate=cost)


def packed(response: EdgeResponse) -> bytes:
    """The bytes of a QueryEdgesResponse, copied in pieces, because no other thread runs while Python copies
    megabytes."""
    whole = kan_pb2.QueryEdgesResponse(
        model_name=response.model, model_version=str(response.version), digest=response.digest, id=response.id
    )
    pieces = [whole.SerializeToString()]
    for layer in response.layers:
        message = kan_pb2.LayerEdges(
            layer=layer.layer,
            shape=layer.values.shape,
            sources=layer.sources,
            destinations=layer.destinations,
            first_row=layer.first_row,
        )
        if layer.per_row is not None:
            message.per_row_sources, message.per_row_destinations = (
                part.astype("<u4").tobytes() for part in layer.per_row
            )
        if layer.residual is not None:
            message.residual, message.residual_destinations[:] = _float32(layer.residual), layer.residual_destinations
        if layer.nodes is not None:
            message.nodes, message.node_count = _float32(layer.nodes), layer.nodes.shape[-1]
        for kind, values in layer.reductions:
            message.reductions.add(kind=kind, shape=values.shape, values=_float32(values))
        head, size = message.SerializeToString(), layer.values.nbytes
        head += VALUES + varint(size)
        pieces += [LAYERS + varint(len(head) + size) + head]
        flat = layer.values.reshape(-1)
        pieces += [flat[at : at + PIECE].tobytes() for at in range(0, flat.size, PIECE)]
    return b"".join(pieces)  # other threads run meanwhile


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
    else:  # one row, or the reductions over all rows; the fields that are not divided go with the first part
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

    def __exit__(self, *raised: object) -> None:
        self._users -= 1
        if not self._users:
            self._written.clear()

    async def update(self, result: StatisticsResult, ended: str) -> bytes:
        """A StatisticsUpdate. If the nodes are the same object, the statistics are the same."""
        key = result.info.name, result.info.version, result.source
        nodes, task = self._written.get(key, (None, None))
        if task is None or nodes is not result.over.nodes:
            task = asyncio.ensure_future(asyncio.to_thread(_written, dataclasses.replace(result, id="")))
            self._written[key] = result.over.nodes, task
        # In the protobuf encoding, concatenated messages are merged.
        own = kan_pb2.GetStatisticsResponse(id=result.id).SerializeToString()
        statistics = await asyncio.shield(task)
        last = kan_pb2.StatisticsUpdate(end_reason=ended).SerializeToString()
        return b"".join((STATISTICS, varint(len(statistics) + len(own)), statistics, own, last))


def _written(result: StatisticsResult) -> bytes:
    return statistics_to_pb(result).SerializeToString()


def edits_from_pb(message: kan_pb2.EditEdgesRequest, *, author: str) -> EditRequest:
    """A request of EditEdges by a caller of this name."""
    return read(EditRequest, message, edits=[read(EdgeChange, edit) for edit in message.edits], author=author)


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


def version_choice(model: str, choice: Choice) -> bytes:
    """The message VersionChoice."""
    previous = str(choice.previous_version or "")
    message = kan_pb2.VersionChoice(model_name=model, model_version=str(choice.version), previous_version=previous)
    return message.SerializeToString()


def shadow_report(report: ShadowReport) -> bytes:
    """The message ShadowReport."""
    message = filled(
        kan_pb2.ShadowReport,
        report,
        model_name=report.model,
        model_version=str(report.version),
        baseline_version=str(report.baseline_version),
    )
    return message.SerializeToString()
