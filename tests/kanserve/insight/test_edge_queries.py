"""Edge queries compared with the toy model's definition, over the wire and in chunks."""

from pathlib import Path

import numpy as np
import pytest

from kanserve.analysis import query_plan
from kanserve.config.settings import Settings
from kanserve.insight import edge_queries
from kanserve.models.loader import VersionGraphs
from kanserve.pb import kan_pb2
from kanserve.repository import layout
from kanserve.runtime import ort
from kanserve.runtime.base import SessionOptions
from kanserve.types import EdgeOptions, EdgeRequest, LayerEdges
from tests.support import toy_model
from tests.support.server_process import KAN, Server

ROWS = np.random.default_rng(0).normal(size=(7, 3))


def query(server: Server, rows: np.ndarray, **fields: object) -> kan_pb2.QueryEdgesResponse:
    supplied = {"model_name": "toy", "rows": rows.tobytes(), "row_count": len(rows), **fields}
    message = kan_pb2.QueryEdgesRequest(**supplied)
    return kan_pb2.QueryEdgesResponse.FromString(server.call(f"{KAN}QueryEdges", message.SerializeToString()))


def values(layer: kan_pb2.LayerEdges) -> np.ndarray:
    return np.frombuffer(layer.values, "<f4").reshape(tuple(layer.shape))


@pytest.mark.parametrize(("model", "dtype"), [("toy", "<f4"), ("toy64", "<f8")])
def test_every_edge_of_every_layer(server: Server, model: str, dtype: str) -> None:
    rows = ROWS.astype(dtype)
    response = query(server, rows, model_name=model, id="q1")
    assert (response.model_name, response.id, len(response.digest)) == (model, "q1", 64)
    assert [layer.layer for layer in response.layers] == [0, 1]
    for layer in response.layers:
        np.testing.assert_allclose(values(layer), toy_model.edges(rows, layer.layer), rtol=1e-5, atol=1e-6)


def test_a_selection_in_the_order_asked_for(server: Server) -> None:
    rows = ROWS.astype("<f4")
    (layer,) = query(server, rows, layers=[0], sources=[2, 0], destinations=[3, 1]).layers
    expected = toy_model.edges(rows, 0)[:, [2, 0]][:, :, [3, 1]]
    np.testing.assert_allclose(values(layer), expected, rtol=1e-5, atol=1e-6)
    assert (list(layer.sources), list(layer.destinations)) == ([2, 0], [3, 1])


@pytest.mark.parametrize("top_k", [0, 3])
def test_chunks_change_nothing(tmp_path: Path, top_k: int) -> None:
    toy_model.write(tmp_path)
    bundle = layout.load(layout.scan(tmp_path, plain_onnx=False)[0], 2**30)
    assert bundle.manifest is not None
    session = ort.create(bundle.files["model.onnx"], SessionOptions("cpu", 1))
    graphs = VersionGraphs(bundle, Settings(repository=tmp_path), 1).layers()
    request = EdgeRequest("toy", "", id="", rows=(), row_count=0, sources=(2, 1))
    plans = query_plan.plan(bundle.manifest.layers, [3, 4], request, EdgeOptions(top_k=top_k))
    rows = ROWS.astype(np.float32)

    def compute(chunk_bytes: int) -> tuple[LayerEdges, ...]:
        *steps, response = edge_queries.compute(session, graphs, plans, {"x": rows}, chunk_bytes=chunk_bytes)
        assert set(steps) == {None}
        assert response is not None
        return response

    # 100 bytes: two rows of layer 0, three of layer 1; nodes of three rows.
    for a, b in zip(compute(2**20), compute(100), strict=True):
        assert (a.sources, a.destinations) == (b.sources, b.destinations)
        np.testing.assert_allclose(a.values, b.values, rtol=1e-6)


def test_top_k_names_the_strongest(server: Server) -> None:
    rows = ROWS.astype("<f4")
    (layer,) = query(server, rows, layers=[0], top_k=3).layers
    full = toy_model.edges(rows, 0)
    strength = np.abs(full).max(axis=0)
    pairs = list(zip(layer.sources, layer.destinations, strict=True))
    assert [strength[pair] for pair in pairs] == sorted(strength.ravel(), reverse=True)[:3]
    for column, (i, j) in enumerate(pairs):
        np.testing.assert_allclose(values(layer)[:, column], full[:, i, j], rtol=1e-5, atol=1e-6)
    none = [values(query(server, rows[:0], layers=[0], top_k=k).layers[0]).shape for k in (0, 2)]
    assert none == [(0, 3, 4), (0, 2)]
