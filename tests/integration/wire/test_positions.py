"""A served model with multi-axis rows and layers at positions, requested by real clients."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from kanexport.shared import manifest as manifests
from kanserve.analysis import query_plan
from kanserve.client import chunking
from kanserve.client.errors import ClientError
from kanserve.client.sync import Client
from kanserve.config.settings import Settings
from kanserve.errors import BackendError, LoadError, LoadReason
from kanserve.insight import edge_queries
from kanserve.models import tuning
from kanserve.models.loader import Loader, VersionGraphs
from kanserve.observability.metrics import Metrics
from kanserve.pb import kan_pb2
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from kanserve.runtime import ort
from kanserve.runtime.base import Session, SessionOptions
from kanserve.types import Array, EdgeOptions, EdgeRequest
from tests.integration.wire.test_edge_queries import values
from tests.support import chunked, toy_grid_model, toy_model
from tests.support.http_client import served
from tests.support.reload_tools import shown
from tests.support.server_process import KAN, Server, serving
from tests.support.wait import until

ROWS = np.random.default_rng(7).normal(size=(9, 2, 3)).astype(np.float32)
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


grid = served(write=toy_grid_model.write, max_response_bytes=16384)


def query(server: Server, rows: np.ndarray, **fields: object) -> Sequence[kan_pb2.LayerEdges]:
    message = kan_pb2.QueryEdgesRequest(model_name="grid", rows=rows.tobytes(), row_count=len(rows), **fields)
    return kan_pb2.QueryEdgesResponse.FromString(server.call(f"{KAN}QueryEdges", message.SerializeToString())).layers


def test_inference_keeps_the_axes(grid: Server) -> None:
    with triton.InferenceServerClient(grid.address) as client:
        metadata = client.get_model_metadata("grid")
        assert [list(map(int, t.shape)) for t in (*metadata.inputs, *metadata.outputs)] == [[-1, 2, 3], [-1, 2, 1]]
        config = client.get_model_config("grid").config
        assert [list(t.dims) for t in (*config.input, *config.output)] == [[2, 3], [2, 1]]
        assert (config.max_batch_size, config.parameters["kan.widths"].string_value) == (32, "2x3,2x3x1,2x12,32,2x1")
        tensor = triton.InferInput("x", ROWS.shape, "FP32")
        tensor.set_data_from_numpy(ROWS)
        result = client.infer("grid", [tensor]).as_numpy("y")
    np.testing.assert_allclose(result, toy_grid_model.outputs(ROWS), **TOLERANCE)


def test_the_batch_is_counted_in_rows(grid: Server) -> None:
    series = 'nv_inference_count{model="grid",version="1"}'
    before = shown(grid, series)
    assert grid.infer(np.zeros((0, 2, 3), np.float32), "grid").shape == (0, 2, 1)
    with pytest.raises(grpc.RpcError) as caught:
        grid.infer(np.zeros((33, 2, 3), np.float32), "grid")
    assert "batch-size must be <= 32" in caught.value.details()
    grid.infer(ROWS, "grid")
    until(lambda: shown(grid, series) - before == len(ROWS))


def test_every_edge_at_every_position(grid: Server) -> None:
    result = query(grid, ROWS[:4])
    assert [list(layer.shape) for layer in result] == [[4, 2, 3, 1, 4], [4, 2, 12, 16], [4, 32, 2]]
    for layer in result:
        np.testing.assert_allclose(values(layer), toy_grid_model.edges(ROWS[:4], layer.layer), **TOLERANCE)
    none = ROWS[:0]
    assert [list(layer.shape) for layer in query(grid, none)] == [[0, 2, 3, 1, 4], [0, 2, 12, 16], [0, 32, 2]]
    assert [list(layer.shape) for layer in query(grid, none, top_k=3)] == [[0, 2, 3, 3], [0, 2, 3], [0, 3]]
    np.testing.assert_allclose(values(result[2]).sum(axis=-2)[..., None], grid.infer(ROWS[:4], "grid"), **TOLERANCE)


def test_the_client_asks_for_any_number_of_rows(grid: Server) -> None:
    rows = np.random.default_rng(9).normal(size=(100, 2, 3)).astype(np.float32)
    with Client(grid.address) as client:
        response = chunked.infer(client, client.model("grid"), rows)
        np.testing.assert_allclose(response.outputs["y"], toy_grid_model.outputs(rows), **TOLERANCE)
        described = client.describe("grid")
        done: list[tuple[int, int]] = []
        every = {"layers": ("head.layers.0", 0, "token.kan"), "progress": lambda *parts: done.append(parts)}
        for result in chunking.edges(client, described, rows, **every):
            np.testing.assert_allclose(result.values, toy_grid_model.edges(rows, result.layer), **TOLERANCE)
        assert (done[-1], sorted(done)) == ((300, 300), done)
        (result,) = chunking.edges(client, described, rows, layers=("token.kan",), top_k=4)
        expected = toy_grid_model.edges(rows, 1)
        strength = np.abs(expected).max(axis=(0, 1))
        assert strength[result.sources, result.destinations].tolist() == sorted(strength.ravel(), reverse=True)[:4]
        np.testing.assert_allclose(result.values, expected[..., result.sources, result.destinations], **TOLERANCE)
        with pytest.raises(ClientError, match=r"model 'grid': unknown layer 'tail'") as caught:
            next(chunking.edges(client, described, rows, layers=("tail",)))
        assert caught.value.error_code == "layer-unknown"
        assert caught.value.input_is_wrong


def test_one_row_beyond_a_response_comes_in_groups_of_destinations(tmp_path: Path) -> None:
    toy_grid_model.write(tmp_path)
    with serving(tmp_path, max_response_bytes=1024) as server, Client(server.address) as client:
        described = client.describe("grid")
        with pytest.raises(ClientError, match="takes 1"):
            client.edges(described, ROWS[:1], layers=("token.kan",))
        seen: list[tuple[int, int]] = []
        (result,) = chunking.edges(client, described, ROWS, layers=(1,), progress=lambda at, of: seen.append((at, of)))
        np.testing.assert_allclose(result.values, toy_grid_model.edges(ROWS, 1), **TOLERANCE)
        assert result.destinations.tolist() == list(range(16))
        assert seen == sorted(seen)
        assert seen[-1] == (18, 18)


class Watched:
    """A session that remembers how much it was given at once."""

    def __init__(self, session: Session) -> None:
        self.inner = session
        self.inputs, self.outputs = session.inputs, session.outputs
        self.given: list[int] = []

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        self.given += [len(array) for array in feeds.values()]
        return self.inner.run(outputs, feeds)


def bundled(root: Path) -> tuple[Bundle, manifests.Manifest]:
    bundle = layout.load(layout.scan(root, plain_onnx=False)[0], 2**30)
    assert bundle.manifest is not None
    return bundle, bundle.manifest


def loader(root: Path) -> Loader:
    return Loader(Settings(repository=root), 1, Metrics())


@pytest.mark.parametrize(
    ("top_k", "layer", "piece_rows"), [(0, 0, 2), (5, 0, 0), (0, 1, 0), (5, 1, 2), (0, 2, 2), (5, 2, 0)]
)
def test_memory_is_bounded_in_rows_and_positions(tmp_path: Path, top_k: int, layer: int, piece_rows: int) -> None:
    toy_grid_model.write(tmp_path)
    bundle, manifest = bundled(tmp_path)

    def create(name: str) -> Watched:
        return Watched(ort.create(bundle.files[name], SessionOptions("cpu", 1)))

    request = EdgeRequest("toy", "", id="", rows=(), row_count=0, layers=(layer,))
    widths = [info.sources for info in manifest.layers]
    plans = query_plan.plan(manifest.layers, widths, request, EdgeOptions(top_k=top_k))
    model = create("model.onnx")
    session = create(f"edges_l{layer}.onnx")
    graphs = tuple(edge_queries.LayerGraph(info, lambda: session) for info in manifest.layers)
    *_, response = edge_queries.compute(model, graphs, plans, {"x": ROWS}, chunk_bytes=1000, piece_rows=piece_rows)
    assert response is not None
    (result,) = response
    everything = toy_grid_model.edges(ROWS, layer)
    expected = everything[..., result.sources, result.destinations] if top_k else everything
    np.testing.assert_allclose(result.values, expected, **TOLERANCE)
    info = manifest.layers[layer]
    assert max(session.given) <= max(1, 1000 // (4 * info.sources * info.destinations))
    most = 1000 // (4 * info.sources * math.prod(info.positions))
    assert max(model.given) <= min(most, piece_rows or most)
    # Node vectors that fit are computed once, larger ones once a pass.
    assert sum(model.given) == len(ROWS) * (1 if most >= len(ROWS) or not top_k else 2)


def test_a_node_tensor_that_is_not_its_positions_is_found_when_it_runs(tmp_path: Path) -> None:
    toy_grid_model.write(tmp_path)
    bundle, _ = bundled(tmp_path)
    graphs = VersionGraphs(bundle, Settings(repository=tmp_path), 1).layers()
    graphs[1].layer = dataclasses.replace(graphs[1].layer, positions=(3,))
    session = ort.create(bundle.files["model.onnx"], SessionOptions("cpu", 1))
    plans = (query_plan.LayerPlan(1, (0,), (0,), (3,)),)
    with pytest.raises(BackendError, match=r"tokens_in has shape \(9, 2, 12\), expected \(9, 3, 'n'\)"):
        list(edge_queries.compute(session, graphs, plans, {"x": ROWS}, chunk_bytes=2**20))


def tensor(name: str, *shape: int) -> manifests.TensorSpec:
    return manifests.TensorSpec(name=name, datatype="FP32", shape=shape)


def reference(inputs: int, outputs: int) -> manifests.Reference:
    return manifests.Reference(inputs=((0.5,) * inputs,), outputs=((0.5,) * outputs,), tolerance=1.0)


# A field of the manifest, of a layer or of all, that its graphs or its other fields contradict.
OTHER_GRAPHS: list[tuple[dict[str, Any], str]] = [
    ({"layer": 1, "positions": (3,)}, "positions [3]"),
    ({"layer": 1, "positions": ()}, "'tokens_in' is FP32 [-1, 2, 12]"),
    ({"layer": 2, "node_tensor": "x"}, "layer 2: 'x' is FP32"),
    ({"inputs": [tensor("x", -1, 3, 2)]}, "the inputs of the graph differ from those of the manifest: 'x'"),
    ({"outputs": [tensor("y", -1, 2)]}, "does not have the output 'y'"),
    ({"reference": reference(3, 2)}, "'x' has 3 numbers, expected 6"),
    ({"reference": reference(6, 3)}, "'y' has 3 numbers"),
]


def test_a_manifest_that_is_not_its_graphs(tmp_path: Path) -> None:
    for at, (fields, text) in enumerate(OTHER_GRAPHS):
        reason = LoadReason.MANIFEST if "reference" in fields else LoadReason.MISMATCH
        root, changes = tmp_path / str(at), dict(fields)
        folder = toy_grid_model.write(root)
        if "layer" in changes:
            toy_grid_model.edit_layer(folder, changes.pop("layer"), **changes)
        else:
            toy_model.edit(folder, **changes)
        with pytest.raises(LoadError) as caught:
            loader(root).load(bundled(root)[0])
        assert (caught.value.reason, text in str(caught.value)) == (reason, True), f"{fields}: {caught.value}"


def test_pieces_of_inference_count_positions(tmp_path: Path) -> None:
    manifest = manifests.load(toy_grid_model.write(tmp_path))  # the widest basis makes 32 numbers of a row
    assert tuning.piece_rows(manifest) == 2**21 // (4 * 32)
