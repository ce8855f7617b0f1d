"""Edge queries over gRPC: values and their options, compared with the toy model's definition, whole and in chunks."""

from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanserve.analysis import query_plan
from kanserve.client import chunking
from kanserve.client.sync import Client
from kanserve.pb import kan_pb2
from tests.support import toy_model
from tests.support.server_process import KAN, TRANSPORTS, Server

ROWS = np.random.default_rng(5).normal(size=(6, 3)).astype("<f4")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def asked(**fields: Any) -> bytes:
    rows = fields.pop("rows", ROWS)
    given = {"model_name": "toy", "rows": rows.tobytes(), "row_count": len(rows), **fields}
    return kan_pb2.QueryEdgesRequest(**given).SerializeToString()


def query(server: Server, **fields: Any) -> kan_pb2.QueryEdgesResponse:
    return kan_pb2.QueryEdgesResponse.FromString(server.call(f"{KAN}QueryEdges", asked(**fields)))


def floats(data: bytes, *shape: int) -> np.ndarray:
    return np.frombuffer(data, "<f4").reshape(shape)


def values(layer: kan_pb2.LayerEdges) -> np.ndarray:
    return floats(layer.values, *layer.shape)


def test_every_row_has_its_own_strongest_and_what_is_left_adds_up(server: Server) -> None:
    for at, layer in enumerate(query(server, top_k=2, per_row=True, residual=True).layers):
        full = toy_model.edges(ROWS, at)
        result, rest = values(layer), floats(layer.residual, len(ROWS), -1)
        sources, destinations = (
            np.frombuffer(part, "<u4").reshape(result.shape)
            for part in (layer.per_row_sources, layer.per_row_destinations)
        )
        assert list(layer.residual_destinations) == list(range(full.shape[2]))
        assert not layer.sources
        for row in range(len(ROWS)):
            chosen = full[row, sources[row], destinations[row]]
            np.testing.assert_allclose(result[row], chosen, **CLOSE)
            assert np.abs(chosen).min() >= np.sort(np.abs(full[row]).ravel())[-2] - 1e-6
            total = rest[row].copy()
            np.add.at(total, destinations[row], result[row])
            np.testing.assert_allclose(total, full[row].sum(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"top_k": 3}, {"min_magnitude": 0.5}, {"sources": [2], "destinations": [1, 0]}])
def test_values_and_the_rest_add_up_to_the_sums(server: Server, fields: dict[str, Any]) -> None:
    (layer,) = query(server, layers=[1], residual=True, **fields).layers
    full, rest = toy_model.edges(ROWS, 1), floats(layer.residual, len(ROWS), -1)
    total, result = rest.copy(), values(layer)
    if result.ndim == 3:
        total += result.sum(axis=1)
    else:
        for column, destination in enumerate(layer.destinations):
            total[:, list(layer.residual_destinations).index(destination)] += result[:, column]
    np.testing.assert_allclose(total, full.sum(axis=1)[:, list(layer.residual_destinations)], rtol=1e-4, atol=1e-5)


def test_edges_of_a_magnitude(server: Server) -> None:
    for at, layer in enumerate(query(server, min_magnitude=0.7).layers):
        strength = np.abs(toy_model.edges(ROWS, at)).max(axis=0)
        pairs = list(zip(layer.sources, layer.destinations, strict=True))
        assert set(pairs) == set(zip(*np.nonzero(strength >= 0.7), strict=True))
        assert [strength[pair] for pair in pairs] == sorted((strength[pair] for pair in pairs), reverse=True)
    assert values(query(server, layers=[0], min_magnitude=1e9).layers[0]).shape == (6, 0)


def test_nodes_are_what_the_layers_are_given(server: Server) -> None:
    first, second = query(server, nodes=True, top_k=1).layers
    np.testing.assert_array_equal(floats(first.nodes, -1, first.node_count), ROWS)
    np.testing.assert_allclose(
        floats(second.nodes, -1, second.node_count), toy_model.edges(ROWS, 0).sum(axis=1), **CLOSE
    )
    empty = query(server, rows=ROWS[:0], nodes=True).layers[0]
    assert (empty.node_count, empty.nodes) == (3, b"")


def test_figures_instead_of_values(server: Server) -> None:
    names = ["mean", "mean_magnitude", "std", "min", "max", "quantiles", "histogram"]
    for at, layer in enumerate(query(server, reductions=names, bins=3, quantiles=[0.5, 1]).layers):
        result = {item.kind: floats(item.values, *item.shape) for item in layer.reductions}
        assert (list(result), layer.values) == ([*names, "histogram_bounds"], b"")
        np.testing.assert_allclose(result["quantiles"], np.quantile(toy_model.edges(ROWS, at), [0.5, 1], 0), **CLOSE)
    (layer,) = query(server, layers=[0], reductions=["max"], top_k=2).layers
    strongest = toy_model.edges(ROWS, 0)[:, list(layer.sources), list(layer.destinations)]
    np.testing.assert_allclose(floats(layer.reductions[0].values, 2), strongest.max(axis=0), **CLOSE)


def test_an_estimate_computes_nothing_and_is_right(server: Server) -> None:
    result = query(server, rows=ROWS[:0], row_count=1000, estimate_only=True)
    assert not result.layers
    assert result.estimate.evaluations == 1000 * 20
    assert 80_000 <= result.estimate.response_bytes <= 81_000
    assert (result.estimate.max_response_bytes, result.estimate.within_limits) == (65536, False)
    assert query(server, rows=ROWS[:0], row_count=100, estimate_only=True).estimate.within_limits


def test_edges_of_a_magnitude_that_are_too_many_are_refused_when_they_are_known(server: Server) -> None:
    rows = np.ones((1500, 3), "<f4")
    with pytest.raises(grpc.RpcError, match="edges of layer 0 have a magnitude of 1e-09 or more") as caught:
        query(server, rows=rows, layers=[0], min_magnitude=1e-9)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError, match="need all values at the same time"):
        query(server, rows=rows, layers=[0], reductions=["histogram"])
    assert query(server, rows=rows, layers=[0], reductions=["mean"]).layers[0].reductions


def test_a_stream_is_the_response_in_parts(server: Server) -> None:
    fields = {"nodes": True, "residual": True, "id": "s1"}
    whole = query(server, **fields)
    got = server.channel.unary_stream(f"{KAN}StreamEdges")(asked(**fields), timeout=60)
    streamed = [kan_pb2.QueryEdgesResponse.FromString(item) for item in got]
    assert {(item.id, item.digest, item.model_version) for item in streamed} == {
        ("s1", whole.digest, whole.model_version)
    }
    assert [layer for item in streamed for layer in item.layers] == list(whole.layers)
    (estimate,) = server.channel.unary_stream(f"{KAN}StreamEdges")(asked(estimate_only=True), timeout=60)
    assert kan_pb2.QueryEdgesResponse.FromString(estimate).estimate.evaluations == 120


@pytest.mark.parametrize("server", TRANSPORTS, indirect=True)
def test_the_client_has_it_all_as_arrays(server: Server) -> None:
    with Client(server.address) as client:
        described = client.describe("toy")
        first, second = client.edges(described, ROWS, top_k=2, per_row=True, residual=True, nodes=True)
        assert first.sources.shape == first.destinations.shape == first.values.shape == (6, 2)
        assert first.residual is not None
        np.testing.assert_array_equal(first.nodes, ROWS)
        total = first.residual.astype(np.float64)
        np.add.at(total, (np.arange(6)[:, None], first.destinations), first.values)
        np.testing.assert_allclose(total, second.nodes, rtol=1e-4, atol=1e-5)
        (figures,) = client.edges(described, ROWS, layers=[1], reductions=("mean", "histogram"), bins=4)
        np.testing.assert_allclose(figures.reductions["mean"], toy_model.edges(ROWS, 1).mean(axis=0), **CLOSE)
        assert figures.reductions["histogram"].shape == (4, 4, 2)
        ways = client.edges(described, ROWS, path=(0, 1))
        assert [(list(item.sources), list(item.destinations)) for item in ways] == [
            ([0], [0, 1, 2, 3]),
            ([0, 1, 2, 3], [1]),
        ]
        result = list(chunking.edges(client, described, ROWS, path=(0, 1)))
        for item, same in zip(result, ways, strict=True):
            np.testing.assert_array_equal(item.values, same.values)
        assert client.estimate(described, 10, layers=[0]).evaluations == 120


@given(st.data())
def test_the_strongest_of_each_are_those_of_each_alone(data: st.DataObject) -> None:
    n, s, d, k = (data.draw(st.integers(low, 4)) for low in (0, 1, 1, 1))
    numbers = st.sampled_from([0.0, 1.0, -1.0, 2.0, float("nan"), -3.0])
    cube = np.array(data.draw(st.lists(numbers, min_size=n * s * d, max_size=n * s * d)), np.float32).reshape(n, s, d)
    k = min(k, s * d)
    result = query_plan.strongest_each(cube, k)
    assert result.shape == (n, k)
    for row, chosen in zip(cube, result, strict=True):
        i, j = query_plan.strongest(query_plan.strengths(row[None]), k)
        assert chosen.tolist() == (i * d + j).tolist()
