"""Models with the custom operator: exported, verified, load-checked, served, and without the package."""

import asyncio
import collections
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from kanexport.bundle.publish import Result
from kanexport.cli import export_command
from kanexport.errors import OptionError, VerificationFailed
from kanexport.graph.builder import Graph, Value
from kanexport.lowering import lower
from kanexport.shared import custom_ops
from kanexport.shared import manifest as manifests
from kanexport.shared.custom_ops import KERNEL_FILE
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.models.admission import Sandbox
from kanserve.models.loader import Loader, ServingVersion
from kanserve.models.model import Model
from kanserve.observability.metrics import Metrics
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from tests.support import golden_cases, hostile_bundles
from tests.support import hostile_bundles as hostile
from tests.support.server_process import INFERENCE, serving
from tests.support.tiers import full, spread

DIGITS, ADAPTED = "efficient-kan-digits", "pykan-hello-adapted"
NAMES = (ADAPTED, DIGITS, "pykan-mult-affine", "pykan-pruned-edges", "kanx-hello", "fastkan-digits", "torchkan-digits")
NAMES = (*NAMES, "jacobikan-wine", "wav-kan-dog-breast-cancer")
MUTANTS = 60


def exported(folder: Path, name: str, **more: Any) -> Result:
    return golden_cases.exported(name, folder, **{"kernel": True, **more})


def responses(folder: Path, file: str, x: np.ndarray, library: str = "") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if library:
        options.register_custom_ops_library(library)
    runs = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
    return np.asarray(runs.run(["y"], {"x": x})[0])


def rows(result: Result, count: int = 100) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-2, 2, size=(count, *result.manifest.input.shape[1:])).astype(np.float32)


def same(result: Result, x: np.ndarray, library: str) -> None:
    plain, other = (responses(result.directory, file, x, library) for file in (manifests.MODEL_FILE, KERNEL_FILE))
    assert np.abs(plain - other).max() <= 1e-5 * np.abs(plain).max()


@spread("name", NAMES, 2)
def test_the_graph_by_the_operator_computes_as_the_portable_one(name: str, tmp_path: Path, installed: str) -> None:
    result = exported(tmp_path, name)
    about = result.manifest.verification
    assert {zone.name for zone in about.kernel} >= {"inside", "extension", "far", "knots", "nonfinite", "single"}
    assert max(zone.outputs_max_rel for zone in about.kernel) <= 1e-5
    assert {entry.path for entry in result.manifest.files} >= {manifests.MODEL_FILE, KERNEL_FILE}
    model = onnx.load(result.directory / KERNEL_FILE)
    assert set(custom_ops.OPERATORS) & {node.op_type for node in model.graph.node}
    x = rows(result)
    same(result, x, installed)
    x[::3, 0], x[1::3, -1] = np.nan, -np.inf
    plain, other = (responses(result.directory, file, x, installed) for file in (manifests.MODEL_FILE, KERNEL_FILE))
    np.testing.assert_array_equal(np.isnan(plain), np.isnan(other))
    assert np.isnan(other).any()


def test_weights_in_a_file_are_shared_with_the_portable_graph(
    tmp_path: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower, "SHARED_FROM", 1)
    result = exported(tmp_path, DIGITS)
    alone = exported(tmp_path / "alone", DIGITS, kernel=False)
    sizes = [item.manifest.file(manifests.WEIGHTS_FILE).size for item in (result, alone)]
    assert sizes[0] <= sizes[1] + 2**16  # the knots, and rows that the portable graph has in another order
    same(result, rows(result), installed)
    assert loaded(tmp_path).serving.plan.kernel


def test_where_no_layer_has_such_splines_a_note_says_so(tmp_path: Path, installed: str) -> None:
    result = exported(tmp_path, "pykan-hello-symbolic")
    assert not (result.directory / KERNEL_FILE).exists()
    start = f"{KERNEL_FILE} was not written: no layer has functions"
    assert any(note.startswith(start) for note in result.manifest.notes)
    with pytest.raises(OptionError, match="--kernel needs float32"):
        exported(tmp_path / "double", "pykan-ellipj-float64", dtype="float64")


def test_an_export_has_the_graph_if_the_package_is_installed(tmp_path: Path, installed: str) -> None:
    result = exported(tmp_path, DIGITS, kernel=None)
    assert KERNEL_FILE in {entry.path for entry in result.manifest.files}
    assert result.manifest.verification.kernel
    for name, more in (("no", {"kernel": False}), ("double", {"kernel": None, "dtype": "float64"})):
        assert not (exported(tmp_path / name, DIGITS, **more).directory / KERNEL_FILE).exists()


def test_an_export_leaves_a_wrong_graph_out_and_says_why(
    tmp_path: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Graph.custom

    def custom(self: Graph, kind: str, *x: Value, scale: float, **more: Any) -> Value:
        return original(self, kind, *x, scale=scale * 1.001, **more)

    monkeypatch.setattr(Graph, "custom", custom)
    result = exported(tmp_path, DIGITS, kernel=None)
    assert not (result.directory / KERNEL_FILE).exists()
    (note,) = (note for note in result.manifest.notes if KERNEL_FILE in note)
    assert note.startswith(f"{KERNEL_FILE} was not written: ")
    with pytest.raises(VerificationFailed, match=KERNEL_FILE):
        exported(tmp_path / "required", DIGITS)


def test_without_the_package_an_export_has_the_portable_graph_or_says_how_to_get_it(
    tmp_path: Path, absent: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError, match="kanserve-kernel, which is not installed"):
        exported(tmp_path, ADAPTED)
    assert not list(tmp_path.iterdir())
    path = golden_cases.case(ADAPTED).path
    assert export_command.main([str(path), "--repository", str(tmp_path), "--kernel"]) == 2
    assert "make setup" in capsys.readouterr().err
    result = exported(tmp_path, ADAPTED, kernel=None)
    assert not (result.directory / KERNEL_FILE).exists()
    assert not [note for note in result.manifest.notes if KERNEL_FILE in note]


def bundle(root: Path) -> Bundle:
    (candidate,) = layout.scan(root, plain_onnx=False)
    return layout.load(candidate, 2**30)


def loaded(root: Path, like: ServingVersion | None = None, **settings: Any) -> Model:
    loader = Loader(Settings(repository=root, **settings), 1, Metrics())
    return loader.load(bundle(root), like)


@full("combination")
def test_a_server_takes_it_where_it_is_installed_and_says_so(tmp_path: Path, installed: str) -> None:
    result = exported(tmp_path, DIGITS)
    x = rows(result, 33)
    graphs, actual = [], []
    for settings in ({}, {"kernel": False}):
        with serving(tmp_path, load_check=True, **settings) as server:
            requested = pb.ModelConfigRequest(name="m").SerializeToString()
            response = pb.ModelConfigResponse.FromString(server.call(f"{INFERENCE}ModelConfig", requested))
            graphs.append(response.config.parameters["kan.graph"].string_value)
            actual.append(server.infer(x, "m"))
            alone = np.concatenate([server.infer(x[at : at + 1], "m") for at in range(len(x))])
            assert alone.tobytes() == actual[-1].tobytes() or not graphs[-1].startswith("model.kernel")
    assert graphs == [KERNEL_FILE, manifests.MODEL_FILE]
    expected = responses(result.directory, KERNEL_FILE, x, installed)
    assert actual[0].tobytes() == expected.tobytes()
    assert np.abs(actual[0] - actual[1]).max() <= 1e-5 * np.abs(actual[1]).max()


def test_without_a_library_for_this_machine_the_portable_graph_serves(
    tmp_path: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(tmp_path / "models", ADAPTED)
    with contextlib.closing(loaded(tmp_path / "models")) as model:
        before = ServingVersion(model.info, model.serving.plan, bundle(tmp_path / "models").config)
        assert model.serving.plan.kernel
    with contextlib.closing(loaded(tmp_path / "models", before)) as again:
        assert again.serving.plan == before.plan
    broken, data = tmp_path / "broken.so", bytearray(Path(installed).read_bytes())
    data[18] ^= 0xFF  # which machine it is for
    broken.write_bytes(data)
    monkeypatch.setattr("kanserve_kernel.LIBRARY", broken)
    assert custom_ops.library() == ""
    for like in (None, before):
        with contextlib.closing(loaded(tmp_path / "models", like)) as other:
            assert not other.serving.plan.kernel


def bundle_folder(root: Path) -> Path:
    (candidate,) = layout.scan(root, plain_onnx=False)
    return root.joinpath(*candidate.steps)


def damaged(
    root: Path, change: Callable[[onnx.ModelProto], None], file: str = KERNEL_FILE, source: str = KERNEL_FILE
) -> None:
    """A version whose `file` is a changed graph, and whose manifest lists it so."""
    folder = bundle_folder(root)
    model = onnx.load(folder / source)
    change(model)
    hostile.replaced(folder, model.SerializeToString(), file)


def tried(root: Path) -> None:
    asyncio.run(Sandbox(Settings(repository=root)).validate(bundle(root)))


def renamed(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Another"


def scaled(model: onnx.ModelProto) -> None:
    next(a for a in model.graph.node[0].attribute if a.name == "scale").f *= 1.5


FOREIGN = "is in the operator domain 'kanserve'"


@full("combination")
def test_what_a_trial_refuses(tmp_path: Path, installed: str) -> None:
    exported(tmp_path / "right", ADAPTED)
    tried(tmp_path / "right")
    for change, file, reason, says in (
        (lambda model: None, manifests.MODEL_FILE, LoadReason.STRUCTURE, FOREIGN),
        (renamed, KERNEL_FILE, LoadReason.STRUCTURE, f"{KERNEL_FILE}: operator 'Another' {FOREIGN}"),
        (scaled, KERNEL_FILE, LoadReason.REFERENCE, f"{KERNEL_FILE}: reference outputs differ by"),
    ):
        root = tmp_path / f"{file} {change.__name__}"
        shutil.copytree(tmp_path / "right", root)
        damaged(root, change, file)
        with pytest.raises(LoadError, match=says) as error:
            tried(root)
        assert error.value.reason == reason


def test_a_wrong_graph_is_not_served_where_nothing_is_tried(tmp_path: Path, installed: str) -> None:
    exported(tmp_path, ADAPTED)
    damaged(tmp_path, scaled)
    with contextlib.closing(loaded(tmp_path)) as model:
        assert not model.serving.plan.kernel


@full("rare")
def test_mutants_come_to_a_reason_or_to_a_model(
    tmp_path: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutated versions with the custom operator load, or fail with a reason."""
    monkeypatch.setattr(hostile_bundles, "GRAPH_FILES", (KERNEL_FILE, "edges_l0.kernel.onnx"))
    monkeypatch.setattr(lower, "FEWEST_EDGES", 1)
    good = exported(tmp_path / "good", ADAPTED).directory
    came: collections.Counter[str] = collections.Counter()

    async def judge(trial: Sandbox, loader: Loader, seed: int) -> None:
        root = tmp_path / f"mutant-{seed}"
        hostile_bundles.mutate(good, root / "m" / "1", seed)
        try:
            item = bundle(root)
            await trial.validate(item)
            model = loader.load(item)
            for graph in model.edge_graphs:
                graph.has_strongest(1)  # opens the edge graph, or logs why not
            model.close()
        except (LoadError, ConfigError) as error:
            came[getattr(error, "reason", "config")] += 1
        else:
            came["passed"] += 1
        shutil.rmtree(root)

    async def all_of_them() -> None:
        settings = Settings(repository=tmp_path, load_timeout=60)
        trial, loader = Sandbox(settings), Loader(settings, 1, Metrics())
        for seed in range(MUTANTS):
            await judge(trial, loader, seed)
        trial.close()

    asyncio.run(all_of_them())
    assert sum(came.values()) == MUTANTS
    assert came.keys() <= {str(reason) for reason in LoadReason} | {"passed"}
    assert LoadReason.CRASH not in came
