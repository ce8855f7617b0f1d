"""Edge queries as messages: to plain data and back, in one piece or in parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kanserve.nouns import EdgeRequest, EdgeResponse, Estimate, LayerEdges, ModelInfo, Wanted
from kanserve.pb import kan_pb2
from kanserve.rpc import convert
from kanserve.rpc.interpreting import packed_rows
from kanserve.rpc.known import varint

N = TypeVar("N", bound=np.generic)

PIECE = 2**16  # values
PART = 2**20  # bytes of a part of an answer
BYTES = 2  # the wire type of bytes and messages
LAYERS, VALUES = (
    bytes([message.DESCRIPTOR.fields_by_name[name].number << 3 | BYTES])
    for message, name in ((kan_pb2.QueryEdgesResponse, "layers"), (kan_pb2.LayerEdges, "values"))
)


def from_pb(message: kan_pb2.QueryEdgesRequest, *, deadline: float | None, caller: str = "") -> EdgeRequest:
    """QueryEdgesRequest -> EdgeRequest. Raises BadRequest for lists longer than any layer is wide, and for half a
    path."""
    for name in ("layers", "layer_names", "sources", "destinations", "reductions", "quantiles"):
        convert.at_most(name, getattr(message, name), convert.INDEX_LIMIT)
    return EdgeRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        rows=packed_rows(message),
        row_count=message.row_count,
        layers=(*message.layers, *message.layer_names),
        sources=tuple(message.sources),
        destinations=tuple(message.destinations),
        path=convert.both(message, "path_from", "path_to"),
        wanted=Wanted(
            top_k=message.top_k,
            each_row=message.each_row,
            min_magnitude=message.min_magnitude,
            rest=message.rest,
            nodes=message.nodes,
            reductions=tuple(message.reductions),
            quantiles=tuple(message.quantiles),
            bins=message.bins,
        ),
        deadline=deadline,
        caller=caller,
    )


def estimated(request: EdgeRequest, info: ModelInfo, estimate: Estimate) -> kan_pb2.QueryEdgesResponse:
    """What a query would take, as a message."""
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
            fits=estimate.fits,
        ),
    )


def packed(response: EdgeResponse) -> bytes:
    """As a message would be, but copied piece by piece: all else stands still while Python copies megabytes."""
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
    return b"".join(pieces)  # which lets others run meanwhile


def _layer(layer: LayerEdges) -> kan_pb2.LayerEdges:
    """Without its values."""
    message = kan_pb2.LayerEdges(
        layer=layer.layer,
        shape=layer.values.shape,
        sources=layer.sources,
        destinations=layer.destinations,
        first_row=layer.first_row,
    )
    if layer.each is not None:
        message.each_sources, message.each_destinations = (part.astype("<u4").tobytes() for part in layer.each)
    if layer.rest is not None:
        message.rest, message.rest_of[:] = layer.rest.astype("<f4").tobytes(), layer.rest_of
    if layer.nodes is not None:
        message.nodes, message.node_count = layer.nodes.astype("<f4").tobytes(), layer.nodes.shape[-1]
    for kind, values in layer.reductions:
        message.reductions.add(kind=kind, shape=values.shape, values=values.astype("<f4").tobytes())
    return message


def parts(response: EdgeResponse, most: int = PART) -> Iterator[EdgeResponse]:
    """The answer in parts of about so many bytes at most, each of some rows of a layer or, of one row, of some of its
    edges. An answer without layers is one part."""
    if not response.layers:
        yield response
    for layer in response.layers:
        for part in divided(layer, most):
            yield dataclasses.replace(response, layers=(part,))


def divided(layer: LayerEdges, most: int) -> Iterator[LayerEdges]:
    """By rows, or else by sources, or edges of a list, or else by destinations."""
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
        each=None if layer.each is None else (some(layer.each[0]), some(layer.each[1])),
        rest=None if layer.rest is None else some(layer.rest),
        nodes=None if layer.nodes is None else some(layer.nodes),
        first_row=layer.first_row + start,
    )


def _by_edges(layer: LayerEdges, most: int) -> Iterator[LayerEdges]:
    """Of a row, or of figures of all rows; what there is of it but its edges goes with the first part."""
    axes = (-1,) if layer.picked else (-2, -1)
    axis = next((axis for axis in axes if layer.values.shape[axis] > 1), 0)
    if not axis:
        yield layer
        return
    count = layer.values.shape[axis]
    step = max(1, min(count - 1, count * most // layer.nbytes))
    for at in range(0, count, step):
        yield from divided(_edges(layer, axis, slice(at, at + step)), most)
        layer = dataclasses.replace(layer, rest=None, rest_of=(), nodes=None)


def _edges(layer: LayerEdges, axis: int, which: slice) -> LayerEdges:
    """Some along an axis of the edges: -2 sources, -1 destinations, or pairs of both where they are a list."""

    def some(array: NDArray[N]) -> NDArray[N]:
        return array[..., which] if axis == -1 else array[..., which, :]

    return dataclasses.replace(
        layer,
        sources=layer.sources[which] if axis == -2 or layer.picked else layer.sources,
        destinations=layer.destinations[which] if axis == -1 else layer.destinations,
        values=some(layer.values),
        each=None if layer.each is None else (some(layer.each[0]), some(layer.each[1])),
        reductions=tuple((kind, some(array)) for kind, array in layer.reductions),
    )
