"""Tests of `grpc_api/kan_codec.py`."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.analysis import query_plan
from kanserve.grpc_api import kan_codec
from kanserve.pb import kan_pb2
from kanserve.types import EdgeOptions, EdgeResponse, LayerEdges


def test_the_pieces_of_a_response_are_the_message() -> None:
    shapes = ((2, 3, 4), (0, 3, 4), (1, 1, 3 * kan_codec.PIECE + 1))
    layers = tuple(
        LayerEdges(at, (at, 300), (7,), np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
        for at, shape in enumerate(shapes)
    )
    message = kan_pb2.QueryEdgesResponse(model_name="m", model_version="3", digest="d", id="i")
    for layer in layers:
        message.layers.add(
            layer=layer.layer,
            shape=layer.values.shape,
            sources=layer.sources,
            destinations=layer.destinations,
            values=layer.values.tobytes(),
        )
    assert kan_pb2.QueryEdgesResponse.FromString(kan_codec.packed(EdgeResponse("m", 3, "i", "d", layers))) == message


@st.composite
def responses(draw: st.DrawFn) -> LayerEdges:
    rows, s, d, k = (draw(st.integers(low, 4)) for low in (0, 1, 1, 1))
    positions = draw(st.sampled_from([(), (2,), (2, 1)]))
    lead, picked = (rows, *positions), draw(st.booleans())
    edges = (k,) if picked else (s, d)
    each = draw(st.booleans()) and picked
    index = np.arange(np.prod((*lead, k)), dtype=np.uint32).reshape(*lead, k)
    named = ((), ()) if each else (tuple(range(k)),) * 2 if picked else (tuple(range(s)), tuple(range(d)))
    layer = LayerEdges(
        3,
        *named,
        np.arange(np.prod((*lead, *edges)), dtype=np.float32).reshape(*lead, *edges),
        per_row=(index, index + 1) if each else None,
        residual=np.ones((*lead, d), np.float32) if draw(st.booleans()) else None,
        residual_destinations=tuple(range(d)),
        nodes=np.ones((*lead, 3), np.float32) if draw(st.booleans()) else None,
        picked=picked,
    )
    if draw(st.booleans()) and not each:
        figures = np.arange(np.prod((2, *edges)), dtype=np.float32).reshape(2, *edges)
        empty = np.empty((0, *edges), np.float32)
        layer = dataclasses.replace(
            layer, values=empty, residual=None, nodes=None, reductions=(("quantiles", figures),)
        )
    return layer


@settings(max_examples=settings.default.max_examples // 5)
@given(responses(), st.integers(1, 300))
def test_parts_are_small_and_hold_everything_once(layer: LayerEdges, most: int) -> None:
    parts = list(kan_codec.divided(layer, most))
    arrays = [part.values for part in parts] + [array for part in parts for _, array in part.reductions]
    whole = [layer.values, *(array for _, array in layer.reductions)]
    assert sorted(np.concatenate([item.ravel() for item in arrays])) == sorted(
        np.concatenate([item.ravel() for item in whole])
    )
    for part in parts:
        least = part.values.shape[0] <= 1 and all(n == 1 for n in part.values.shape[-1 if part.picked else -2 :])
        assert part.nbytes <= most or least
        for name in ("residual", "nodes"):
            result = getattr(part, name)
            assert result is None or len(result) == len(part.values)
        if not part.picked:
            assert part.values.shape[-2:] == (len(part.sources), len(part.destinations))
            assert all(array.shape[-2:] == part.values.shape[-2:] for _, array in part.reductions)
    for name in ("residual", "nodes"):
        held = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        expected = getattr(layer, name)
        assert sum(item.size for item in held) == (0 if expected is None else expected.size)
    rows = [(part.first_row, len(part.values)) for part in parts]
    assert not len(layer.values) or {at for start, n in rows for at in range(start, start + n)} == set(
        range(len(layer.values))
    )


@settings(max_examples=settings.default.max_examples // 5)
@given(responses())
def test_a_message_holds_the_arrays(layer: LayerEdges) -> None:
    data = kan_codec.packed(EdgeResponse("m", 1, "i", "d", (layer,)))
    (sent,) = kan_pb2.QueryEdgesResponse.FromString(data).layers
    assert sent.values == layer.values.tobytes()
    assert tuple(sent.shape) == layer.values.shape
    assert sent.residual == (b"" if layer.residual is None else layer.residual.tobytes())
    assert [(item.kind, item.values) for item in sent.reductions] == [(k, a.tobytes()) for k, a in layer.reductions]
    if layer.per_row is not None:
        assert (sent.per_row_sources, sent.per_row_destinations) == tuple(part.tobytes() for part in layer.per_row)


@settings(max_examples=settings.default.max_examples // 5)
@given(responses())
def test_no_response_is_larger_than_its_bound(layer: LayerEdges) -> None:
    positions = layer.values.shape[1:-1] if layer.picked else layer.values.shape[1:-2]
    names = tuple(kind for kind, _ in layer.reductions)
    wanted = EdgeOptions(
        top_k=layer.values.shape[-1] if layer.picked else 0,
        per_row=layer.per_row is not None,
        residual=layer.residual is not None,
        nodes=layer.nodes is not None,
        reductions=names,
        quantiles=(0.1, 0.9) if names else (),
    )
    sources, destinations = layer.sources, layer.destinations
    if layer.picked:
        sources, destinations = tuple(range(4)), tuple(range(max(1, len(layer.residual_destinations))))
    plan = query_plan.LayerPlan(3, sources, destinations, positions, 3, wanted)
    data = kan_codec.packed(EdgeResponse("", 0, "", "", (layer,)))
    rows = 0 if names else len(layer.values)
    assert plan.response_bytes(rows) + 60 >= len(data)
