"""A served model with multi-axis rows and layers at positions, requested by real clients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from kanexport.contract import manifest as contract
from kanserve.analysis import query_plan
from kanserve.client import chunking
from kanserve.client.errors import ClientError
from kanserve.client.sync import Client
from kanserve.config.settings import Settings
from kanserve.errors import BackendError, LoadError, LoadReason
from kanserve.insight import edge_queries
from kanserve.models import tuning
from kanserve.models.loader import Loader
from kanserve.observability.metrics import Metrics
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from kanserve.runtime import base
from kanserve.runtime.base import SessionOptions
from kanserve.types import Array, EdgeOptions
from tests.support import bad_requests, toy_grid_model, toy_model
from tests.support.reload_tools import shown
from tests.support.server_process import INFERENCE, KAN, Server, serving
from tests.support.wait import until

ROWS = np.random.default_rng(7).normal(size=(9, 2, 3)).astype(np.float32)
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("grid")
    toy_grid_model.write(root)
    with serving(root, max_response_bytes=16384) as server:
        yield server


def query(server: Server, rows: np.ndarray, **fields: object) -> Sequence[kan_pb2.LayerEdges]:
    message = kan_pb2.QueryEdgesRequest(model_name="grid", rows=rows.tobytes(), row_count=len(rows), **fields)
    return kan_pb2.QueryEdgesResponse.FromString(server.call(f"{KAN}QueryEdges", message.SerializeToString())).layers


def values(layer: kan_pb2.LayerEdges) -> np.ndarray:
    return np.frombuffer(layer.values, "<f4").reshape(tuple(layer.shape))


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


def test_another_shape_is_refused_even_of_the_same_size(grid: Server) -> None:
    for shape in ((4, 6), (4, 3, 2), (4, 2, 3, 1), (2, 3), (4, 2, 0)):
        with pytest.raises(grpc.RpcError, match=r"Expected \[-1,2,3\]") as caught:
            grid.infer(np.zeros(shape, np.float32), "grid")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


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


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_top_k_is_over_rows_and_positions(grid: Server, layer: int) -> None:
    (result,) = query(grid, ROWS, layers=[layer], top_k=3)
    everything = toy_grid_model.edges(ROWS, layer)
    strength = np.abs(everything).reshape(-1, *everything.shape[-2:]).max(axis=0)
    order = np.argsort(-strength.ravel())[:3]
    pairs = list(zip(result.sources, result.destinations, strict=True))
    assert pairs == list(zip(*map(list, np.unravel_index(order, strength.shape)), strict=True))
    assert values(result).shape == (9, *toy_grid_model.POSITIONS[layer], 3)
    for column, (i, j) in enumerate(pairs):
        np.testing.assert_allclose(values(result)[..., column], everything[..., i, j], **TOLERANCE)


def test_layers_are_chosen_by_name(grid: Server) -> None:
    result = query(grid, ROWS, layers=[2], layer_names=["token.kan"], sources=[3], destinations=[1, 0])
    assert [layer.layer for layer in result] == [2, 1]
    for layer in result:
        expected = toy_grid_model.edges(ROWS, layer.layer)[..., [3], :][..., [1, 0]]
        np.testing.assert_allclose(values(layer), expected, **TOLERANCE)
    with pytest.raises(grpc.RpcError) as caught:
        query(grid, ROWS, layer_names=["tail"])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad_requests.code(caught.value) == "layer-unknown"
    assert "unknown layer 'tail'" in caught.value.details()
    assert "'pixels', 'token.kan', 'head.layers.0'" in caught.value.details()


def test_the_bound_counts_positions(grid: Server) -> None:
    rows = np.zeros((12, 2, 3), np.float32)  # 12 x 192 values are 9 KiB, at two positions 18 KiB
    with pytest.raises(grpc.RpcError) as caught:
        query(grid, rows, layers=[1])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "(12 rows x 384 edge values per row)" in caught.value.details()
    assert values(query(grid, rows, layers=[1], top_k=3)[0]).shape == (12, 2, 3)
    with pytest.raises(grpc.RpcError) as caught:
        query(grid, np.zeros((4, 3), np.float32))
    assert "rows has 48 bytes, expected 96 for 4 rows of input 'x' (FP32, 24 bytes per row)" in caught.value.details()


def test_the_description_has_names_classes_and_positions(grid: Server) -> None:
    with Client(grid.address) as client:
        result = client.describe("grid")
    assert (result.edge_class, result.input.shape, result.output.shape) == ("B", (-1, 2, 3), (-1, 2, 1))
    assert contract.arrows(result.shapes) == "2x3 → 2x3x1 → 2x12 → 32 → 2x1"
    facts = [(layer.name, layer.edge_class, layer.positions) for layer in result.layers]
    assert facts == [("pixels", "A", (2, 3)), ("token.kan", "B", (2,)), ("head.layers.0", "A", ())]
    assert result.layers[1].pre_steps[0].epsilon == toy_grid_model.EPSILON


def test_the_client_asks_for_any_number_of_rows(grid: Server) -> None:
    rows = np.random.default_rng(9).normal(size=(100, 2, 3)).astype(np.float32)
    with Client(grid.address) as client:
        answer = chunking.infer(client, client.model("grid"), rows)
        np.testing.assert_allclose(answer.outputs["y"], toy_grid_model.outputs(rows), **TOLERANCE)
        described = client.describe("grid")
        for result in chunking.edges(client, described, rows, layers=("head.layers.0", 0, "token.kan")):
            np.testing.assert_allclose(result.values, toy_grid_model.edges(rows, result.layer), **TOLERANCE)
        (result,) = chunking.edges(client, described, rows, layers=("token.kan",), top_k=4)
        expected = toy_grid_model.edges(rows, 1)
        strength = np.abs(expected).max(axis=(0, 1))
        assert strength[result.sources, result.destinations].tolist() == sorted(strength.ravel(), reverse=True)[:4]
        np.testing.assert_allclose(result.values, expected[..., result.sources, result.destinations], **TOLERANCE)
        with pytest.raises(ClientError, match=r"model 'grid': unknown layer 'tail'") as caught:
            next(chunking.edges(client, described, rows, layers=("tail",)))
        assert caught.value.error_code == "layer-unknown"
        assert caught.value.input_is_wrong


def test_one_row_beyond_an_answer_comes_in_groups_of_destinations(tmp_path: Path) -> None:
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

    def __init__(self, session: base.Session) -> None:
        self.inner = session
        self.inputs, self.outputs = session.inputs, session.outputs
        self.given: list[int] = []

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        self.given += [len(array) for array in feeds.values()]
        return self.inner.run(outputs, feeds)


def bundled(root: Path) -> tuple[Bundle, contract.Manifest]:
    bundle = layout.load(layout.scan(root, plain_onnx=False)[0], 2**30)
    assert bundle.manifest is not None
    return bundle, bundle.manifest


def loader(root: Path) -> Loader:
    return Loader(base.load("ort"), Settings(repository=root), 1, Metrics())


@pytest.mark.parametrize(
    ("top_k", "layer", "piece_rows"), [(0, 0, 2), (5, 0, 0), (0, 1, 0), (5, 1, 2), (0, 2, 2), (5, 2, 0)]
)
def test_memory_is_bounded_in_rows_and_positions(tmp_path: Path, top_k: int, layer: int, piece_rows: int) -> None:
    toy_grid_model.write(tmp_path)
    bundle, manifest = bundled(tmp_path)
    backend = base.load("ort")

    def create(name: str) -> Watched:
        return Watched(backend.create(bundle.files[name], SessionOptions("cpu", 1)))

    shapes = [query_plan.LayerShape(i.sources, i.destinations, i.positions) for i in manifest.layers]
    plans = query_plan.plan(shapes, layers=[layer], sources=[], destinations=[], wanted=EdgeOptions(top_k=top_k))
    model = create("model.onnx")
    session = create(f"edges_l{layer}.onnx")
    graphs = tuple(edge_queries.LayerGraph(info, lambda: session) for info in manifest.layers)
    *_, answer = edge_queries.compute(model, graphs, plans, {"x": ROWS}, chunk_bytes=1000, piece_rows=piece_rows)
    assert answer is not None
    (result,) = answer
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
    bundle, manifest = bundled(tmp_path)
    graphs = loader(tmp_path)._graphs(bundle, manifest)
    session = base.load("ort").create(bundle.files["model.onnx"], SessionOptions("cpu", 1))
    plans = (query_plan.LayerPlan(1, (0,), (0,), (3,)),)
    with pytest.raises(BackendError, match=r"tokens_in has shape \(9, 2, 12\), expected \(9, 3, 'n'\)"):
        list(edge_queries.compute(session, graphs, plans, {"x": ROWS}, chunk_bytes=2**20))


def tensor(name: str, *shape: int) -> contract.TensorSpec:
    return contract.TensorSpec(name=name, datatype="FP32", shape=shape)


def reference(inputs: int, outputs: int) -> contract.Reference:
    return contract.Reference(inputs=((0.5,) * inputs,), outputs=((0.5,) * outputs,), tolerance=1.0)


# A field of the manifest, of a layer or of all, that its graphs contradict.
OTHER_GRAPHS: list[tuple[dict[str, Any], str]] = [
    ({"layer": 1, "positions": (3,)}, "positions [3]"),
    ({"layer": 1, "positions": ()}, "'tokens_in' is FP32 [-1, 2, 12]"),
    ({"layer": 2, "node_tensor": "x"}, "layer 2: 'x' is FP32"),
    ({"inputs": [tensor("x", -1, 3, 2)]}, "the inputs of the graph differ from those of the manifest: 'x'"),
    ({"outputs": [tensor("y", -1, 2)]}, "does not have the output 'y'"),
]
IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"layer": 1, "positions": (0,)}, "no positions"),
    ({"edge_class": "C"}, "the model is of edge class C"),
    ({"layer": 1, "edge_class": "C"}, "layer 1 is of edge class"),
    ({"edge_class": "a"}, "class 'a', expected A or B"),
    ({"inputs": [tensor("x", -1, -1, 3)]}, "'x' has shape [-1, -1, 3], expected [-1, ...] with known extents"),
    ({"reference": reference(3, 2)}, "'x' has 3 numbers, expected 6"),
    ({"reference": reference(6, 3)}, "'y' has 3 numbers"),
]


def test_a_manifest_that_is_not_its_graphs(tmp_path: Path) -> None:
    cases = [(*case, LoadReason.MISMATCH) for case in OTHER_GRAPHS] + [
        (*case, LoadReason.MANIFEST) for case in IMPOSSIBLE
    ]
    for at, (fields, text, reason) in enumerate(cases):
        root, changes = tmp_path / str(at), dict(fields)
        folder = toy_grid_model.write(root)
        if "layer" in changes:
            toy_grid_model.edit_layer(folder, changes.pop("layer"), **changes)
        else:
            toy_model.edit(folder, **changes)
        with pytest.raises(LoadError) as caught:
            loader(root).load(bundled(root)[0])
        assert (caught.value.reason, text in str(caught.value)) == (reason, True), f"{fields}: {caught.value}"


def test_class_c_is_refused_by_a_server_and_the_index_says_why(tmp_path: Path) -> None:
    toy_model.edit(toy_grid_model.write(tmp_path, "batchwise"), edge_class="C")
    toy_model.write(tmp_path)
    with serving(tmp_path) as server:
        index = pb.RepositoryIndexResponse.FromString(server.call(f"{INFERENCE}RepositoryIndex", b""))
        states = {result.name: (result.state, result.reason) for result in index.models}
    assert states["toy"] == ("READY", "")
    assert states["batchwise"][0] == "UNAVAILABLE"
    assert "depends on the other rows of its batch" in states["batchwise"][1]


def test_pieces_of_inference_count_positions(tmp_path: Path) -> None:
    manifest = contract.load(toy_grid_model.write(tmp_path))  # the widest basis makes 32 numbers of a row
    assert tuning.piece_rows(manifest, 2**21) == 2**21 // (4 * 32)
    assert tuning.piece_rows(manifest, 1) == 16 // 6
