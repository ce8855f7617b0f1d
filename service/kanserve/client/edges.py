"""Values of edges as plain arrays: requests for QueryEdges and StreamEdges, and their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanserve.client.answers import LayerValues
from kanserve.client.description import Description
from kanserve.nouns import Estimate, Wanted
from kanserve.pb import kan_pb2 as kan


def request(
    described: Description,
    fields: Mapping[str, Any],
    *,
    layers: Sequence[int | str] = (),
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    path: tuple[int, int] | None = None,
    **wanted: Any,
) -> kan.QueryEdgesRequest:
    """`fields`: those of the rows; `wanted`: those of Wanted. Layers by index or by name."""
    what = Wanted(**wanted)
    message = kan.QueryEdgesRequest(
        model_name=described.name,
        model_version=described.version,
        **fields,
        layers=[layer for layer in layers if isinstance(layer, int)],
        layer_names=[layer for layer in layers if isinstance(layer, str)],
        sources=sources,
        destinations=destinations,
        **dataclasses.asdict(what),
    )
    if path is not None:
        message.path_from, message.path_to = path
    return message


def of(described: Description, answer: kan.QueryEdgesResponse) -> tuple[LayerValues, ...]:
    """The layers of an answer."""
    return tuple(_layer(described, layer) for layer in answer.layers)


def estimate(answer: kan.QueryEdgesResponse) -> Estimate:
    """What a query would take."""
    found = answer.estimate
    return Estimate(found.response_bytes, found.max_response_bytes, found.evaluations, found.max_evaluations)


def _layer(described: Description, layer: kan.LayerEdges) -> LayerValues:
    shape = tuple(layer.shape)
    lead = shape[: 1 + len(described.layers[layer.layer].positions)]
    sources, destinations = np.array(layer.sources, np.int64), np.array(layer.destinations, np.int64)
    if layer.each_sources:
        sources, destinations = (
            np.frombuffer(part, "<u4").astype(np.int64).reshape(shape)
            for part in (layer.each_sources, layer.each_destinations)
        )
    return LayerValues(
        layer=layer.layer,
        sources=sources,
        destinations=destinations,
        values=_floats(layer.values, shape),
        rest=_floats(layer.rest, (*lead, len(layer.rest_of))) if layer.rest_of else None,
        rest_of=tuple(layer.rest_of),
        nodes=_floats(layer.nodes, (*lead, layer.node_count)) if layer.node_count else None,
        reductions={one.kind: _floats(one.values, tuple(one.shape)) for one in layer.reductions},
    )


def _floats(data: bytes, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(data, "<f4").reshape(shape)
