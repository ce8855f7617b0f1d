"""The loader: versions that pass verification, versions that fail it, and their states on a server."""

import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from kanexport.shared import manifest as manifests
from kanexport.shared.sections import NO_BASELINE
from kanserve.config.settings import Settings
from kanserve.errors import LoadReason
from kanserve.execution.config import ExecutionPlan
from kanserve.insight import statistics
from kanserve.models import tuning
from kanserve.models.loader import Loader, ServingVersion
from kanserve.models.model import Model
from kanserve.observability.metrics import Metrics
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.repository import layout
from tests.kanserve.analysis.test_drift import seen
from tests.support import hostile_bundles, toy_model
from tests.support.bad_requests import not_loaded, refused
from tests.support.server_process import INFERENCE, KAN, Server, serving
from tests.support.toy_model import reference


def load(root: Path, *, plain: bool = False) -> Model:
    (candidate,) = layout.scan(root, plain_onnx=plain)
    settings = Settings(repository=root)
    return Loader(settings, 1, Metrics()).load(layout.load(candidate, settings.max_file_bytes))


def test_a_good_version_and_a_graph_without_a_manifest(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path)
    model = load(tmp_path)
    assert (model.info.name, model.info.version, model.info.max_batch_size) == ("toy", 1, toy_model.BATCH)
    model.close()
    (directory / manifests.FILE_NAME).unlink()
    model = load(tmp_path, plain=True)  # it is what the runtime says
    assert (model.info.manifest, model.info.max_batch_size > 0) == (None, True)
    assert [item.name for item in model.info.inputs] == ["x"]
    model.close()


def test_the_next_version_of_the_same_form_runs_as_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs would be measured during live traffic. Under another config, or in another form, they are."""
    toy_model.write(tmp_path, "toy", 1)
    toy_model.write(tmp_path, "toy", 2)
    settings = Settings(repository=tmp_path)
    loader = Loader(settings, 1, Metrics())
    item, two = (layout.load(result, settings.max_file_bytes) for result in layout.scan(tmp_path, plain_onnx=False))
    first = loader.load(item)
    plan = ExecutionPlan(3, 5, 7, 1)
    before = ServingVersion(first.info, plan, item.config)
    another = dataclasses.replace(first.info, manifest=dataclasses.replace(item.manifest, max_batch_size=1))
    graph = dataclasses.replace(first.info, manifest=None)
    others = dataclasses.replace(before, config=dataclasses.replace(item.config, instances=2))
    for like, same in (
        *((before, True), (None, False), (others, False)),
        *((dataclasses.replace(before, info=info), False) for info in (another, graph)),
    ):
        model = loader.load(two, like)
        assert (model.serving.plan == plan) is same
        model.close()
    first.close()
    monkeypatch.setattr(tuning, "session_on_all_threads", lambda info, session, create, **_: create(4))
    shared = Loader(settings, 4, Metrics()).load(item)
    assert (shared.serving.plan.threads, shared.serving.plan.instances) == (4, 4)
    shared.close()


def replace(data: bytes) -> Callable[[Path], None]:
    """Another graph, properly listed."""
    return lambda directory: hostile_bundles.replaced(directory, data)


def tensor(**fields: object) -> manifests.TensorSpec:
    return manifests.TensorSpec(**{"name": "x", "datatype": "FP32", "shape": (-1, 3), **fields})


MANIFEST: dict[str, Callable[[Path], None]] = {
    "have 4 inputs and 0 outputs": reference(outputs=()),
    "has 5 numbers, expected 3": reference(inputs=((1.0,) * 5,) * 4),
}
RUNTIME: dict[str, Callable[[Path], None]] = {
    "external data": replace(toy_model.graph(external=True)),
    "cannot load the graph": replace(b"not a graph"),
}
MISMATCH: dict[str, Callable[[Path], None]] = {
    "the graph does not have the output 'y' of the manifest": replace(toy_model.edge_graph(0)),
    "those of the manifest: 'x'": replace(toy_model.graph("FP64")),
    "those of the manifest: 'q'": lambda d: toy_model.edit(d, inputs=[tensor(name="q")]),
    "'x'": lambda d: toy_model.edit(d, inputs=[tensor(shape=(-1, 4))]),
}


@pytest.mark.parametrize(
    ("damage", "reason", "text"),
    [
        (reference(outputs=((1.0, 2.0),) * 4), LoadReason.REFERENCE, "reference outputs differ by"),
        *((damage, LoadReason.MANIFEST, text) for text, damage in MANIFEST.items()),
        *((damage, LoadReason.RUNTIME, text) for text, damage in RUNTIME.items()),
        *((damage, LoadReason.MISMATCH, text) for text, damage in MISMATCH.items()),
    ],
)
def test_a_graph_of_another_manifest(
    tmp_path: Path, damage: Callable[[Path], None], reason: LoadReason, text: str
) -> None:
    damage(toy_model.write(tmp_path))
    with not_loaded(reason, text):
        load(tmp_path)


def outside(directory: Path, place: Path) -> None:
    """The toy with its first weights in a file: `place`, which the graph names."""
    replace(toy_model.graph(external=True, location=place.name))(directory)
    place.write_bytes(toy_model.W0.astype(np.float32).tobytes())


def test_graphs_take_weights_from_the_versions_own_file(tmp_path: Path) -> None:
    """From the bytes that were checked: the file may be another as soon as they are read."""
    directory = toy_model.write(tmp_path)
    outside(directory, directory / manifests.WEIGHTS_FILE)
    hostile_bundles.replaced(directory, toy_model.W0.tobytes(), manifests.WEIGHTS_FILE)
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    bundle = layout.load(candidate, 2**20)
    (directory / manifests.WEIGHTS_FILE).write_bytes(b"")
    model = Loader(Settings(repository=tmp_path), 1, Metrics()).load(bundle)
    model.close()


def test_weights_that_are_not_the_manifests_are_refused(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path)
    path = directory / manifests.WEIGHTS_FILE
    outside(directory, path)
    with not_loaded(LoadReason.RUNTIME, "files that are not files of this version"):
        load(tmp_path)
    data = bytearray(path.read_bytes())
    hostile_bundles.replaced(directory, bytes(data), manifests.WEIGHTS_FILE)
    data[5] ^= 1
    path.write_bytes(data)
    with not_loaded(LoadReason.INTEGRITY, "weights.bin has sha256"):
        load(tmp_path)
    hostile_bundles.replaced(directory, bytes(12), manifests.WEIGHTS_FILE)
    with not_loaded(LoadReason.RUNTIME, "external data"):  # beyond the end of the file
        load(tmp_path)


@pytest.mark.parametrize("plain", [False, True])
def test_no_graph_gets_at_the_working_directory(tmp_path: Path, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = toy_model.write(tmp_path / "models")
    outside(directory, tmp_path / "elsewhere.bin")
    if plain:
        (directory / manifests.FILE_NAME).unlink()
    monkeypatch.chdir(tmp_path)
    with not_loaded(LoadReason.RUNTIME, "external data"):
        load(tmp_path / "models", plain=plain)


def test_one_broken_version_does_not_stop_the_others(tmp_path: Path) -> None:
    toy_model.write(tmp_path, version=1)
    os.truncate(toy_model.write(tmp_path, version=2) / "edges_l1.onnx", 10)
    toy_model.write(tmp_path, "broken", reference_scale=1.1)
    os.truncate(toy_model.write(tmp_path, "large") / "model.onnx", 9000)
    with serving(tmp_path, max_file_bytes=8192) as server:
        x = np.ones((1, 3), np.float32)
        np.testing.assert_allclose(server.infer(x), toy_model.outputs(x), rtol=1e-5)
        ready = pb.ServerReadyResponse.FromString(server.call(f"{INFERENCE}ServerReady", b""))
        assert ready.ready, "a bad version keeps nobody from becoming ready"
        index = pb.RepositoryIndexResponse.FromString(server.call(f"{INFERENCE}RepositoryIndex", b""))
        states = {(m.name, m.version): (m.state, m.reason) for m in index.models}
        assert states["toy", "1"] == ("READY", "")
        reason = "model.onnx has 9000 bytes, expected at most 8192; raise the setting max_file_bytes"
        assert states["large", "1"] == ("UNAVAILABLE", reason)
        assert states["toy", "2"][0] == states["broken", "1"][0] == "UNAVAILABLE"
        assert "edges_l1.onnx has 10 bytes" in states["toy", "2"][1]
        assert "reference outputs differ" in states["broken", "1"][1]
        for model, version, code in (
            ("toy", "2", grpc.StatusCode.FAILED_PRECONDITION),
            ("broken", "", grpc.StatusCode.NOT_FOUND),
        ):
            with refused(code):
                server.infer(x, model, model_version=version)
        text = server.metrics()
        assert 'kanserve_model_load_failures_total{reason="integrity"} 2.0' in text
        assert 'kanserve_model_load_failures_total{reason="reference"} 1.0' in text
        assert 'kanserve_model_loaded{model="broken",version="1"} 0.0' in text
        for path in (tmp_path / "toy" / "1").iterdir():  # files changed under a running server change nothing
            os.truncate(path, 0)
        np.testing.assert_allclose(server.infer(x), toy_model.outputs(x), rtol=1e-5)
        query = kan_pb2.QueryEdgesRequest(model_name="toy", rows=x.tobytes(), row_count=1)
        response = kan_pb2.QueryEdgesResponse.FromString(server.call(f"{KAN}QueryEdges", query.SerializeToString()))
        values = np.frombuffer(response.layers[1].values, "<f4").reshape(1, 4, 2)
        np.testing.assert_allclose(values, toy_model.edges(x, 1), rtol=1e-5)


def probe(server: Server, path: str) -> int:
    """The status of a probe on the metrics port, by HTTP/1.0 as HAProxy's check sends it."""
    with socket.create_connection(("127.0.0.1", server.metrics_port), timeout=60) as peer:
        peer.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return int(peer.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_empty_repository_is_ready_with_its_first_version(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, repository_poll_seconds=0.1, workers=workers, threads=2) as server:
        ready = pb.ServerReadyResponse.FromString(server.call(f"{INFERENCE}ServerReady", b""))
        live = pb.ServerLiveResponse.FromString(server.call(f"{INFERENCE}ServerLive", b""))
        assert (ready.ready, live.live) == (False, True)
        (line,) = server.logged("server_not_ready")
        assert line["reason"] == "the repository is empty"
        assert (probe(server, "/healthz"), probe(server, "/readyz")) == (200, 503)
        toy_model.write(tmp_path)
        (line,) = server.logged("server_ready")
        assert (probe(server, "/healthz"), probe(server, "/readyz")) == (200, 200)
        assert pb.ServerReadyResponse.FromString(server.call(f"{INFERENCE}ServerReady", b"")).ready
        assert line["grpc"] == server.address


def test_the_size_of_a_piece_follows_from_the_widest_layer(tmp_path: Path) -> None:
    manifest = manifests.load(toy_model.write(tmp_path))
    basis = manifests.BasisInfo(kind="bspline", functions=8, parameters={}, knots=())
    wide = dataclasses.replace(manifest.layers[1], bases=(basis,))  # four sources
    manifest = dataclasses.replace(manifest, layers=(manifest.layers[0], wide))
    assert tuning.piece_rows(manifest) == 2**21 // (4 * 8 * 4)
    assert tuning.piece_rows(None) == 0


def test_pieces_are_smaller_where_that_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_model.write(tmp_path)
    model = load(tmp_path)
    info = dataclasses.replace(model.info, max_batch_size=1024)
    costs: dict[int, float] = {}
    monkeypatch.setattr(tuning, "_best_seconds", lambda session, info, feeds: len(feeds["x"]) * costs[len(feeds["x"])])
    for most, costs, wanted in (
        (128, {128: 1.0, 64: 1.0, 32: 1.0}, 128),
        (128, {128: 1.0, 64: 0.96, 32: 0.97}, 128),  # no difference that would be seen again
        (128, {128: 1.0, 64: 0.5, 32: 0.7}, 64),
        (128, {128: 1.0, 64: 0.9, 32: 0.6}, 32),
        (40, {40: 1.0, 20: 0.1, 10: 0.2}, 20),
        (31, {31: 1.0, 15: 0.8, 7: 0.9}, 15),  # of edges without a matrix product, fewer rows can be faster
        (7, {7: 1.0}, 7),  # half of it is not measured
        (512, {}, 512),  # not looked at
        (0, {}, 0),
    ):
        assert tuning.fitting_rows(info, model.session, most) == wanted, (most, costs)


def test_executions_use_all_threads_only_if_one_chunk_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`costs`: microseconds per row, by the rows of a chunk. Both sessions are equally fast."""
    toy_model.write(tmp_path)
    model = load(tmp_path)
    info, session = dataclasses.replace(model.info, max_batch_size=1024), model.session
    costs: dict[int, float] = {}
    monkeypatch.setattr(
        tuning, "_best_seconds", lambda session, info, feeds: len(feeds["x"]) * costs[len(feeds["x"])] / 1e6
    )
    monkeypatch.setattr(tuning, "_rate", lambda session, info, feeds, *, at_once: 1.0)
    for costs, wanted in (
        ({64: 40, 32: 40, 16: 40}, True),  # no smaller chunk is faster, and 64 rows take 2.6 ms
        ({64: 40, 32: 30, 16: 35}, False),  # two threads share 64 rows, and each chunk takes 1 ms
        ({64: 400, 32: 300, 16: 350}, True),  # a chunk takes 9.6 ms
        ({64: 20, 32: 20, 16: 20}, False),
    ):
        found = tuning.session_on_all_threads(info, session, lambda threads: session, budget=2, piece_rows=64)
        assert (found is session) is wanted, costs


def test_a_model_with_too_many_nodes_is_served_without_insight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_model.write(tmp_path)
    monkeypatch.setattr(statistics, "MOST", 100)
    model = load(tmp_path)
    assert (model.live, model.observed) == (None, False)
    words = "its nodes have 450 histogram bins, expected at most 100"
    assert model.blind == f"the server does not analyze the traffic of model 'toy': {words}"
    model.close()


@pytest.mark.parametrize(("rows", "rate", "watched"), [(5, 200, True), (5, 0, False), (0, 200, True)])
async def test_a_version_is_looked_into_if_settings_say_so(tmp_path: Path, rows: int, rate: int, watched: bool) -> None:
    supplied = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    toy_model.edit(toy_model.write(tmp_path), baseline=seen(supplied) if rows else NO_BASELINE)
    loader = Loader(Settings(repository=tmp_path, statistics_rows_per_second=rate), 1, Metrics())
    models = [loader.load(layout.load(layout.scan(tmp_path, plain_onnx=False)[0], 2**30)) for _ in range(2)]
    for model in models:
        assert ((model.live is not None), model.observed) == (watched, watched)
        model.leave()
        assert (model.live, model.observed) == (None, False)
        model.close()
    assert (loader.pool is not None) == watched  # one thread for all
    for pool in filter(None, [loader.pool]):
        pool.shutdown()
