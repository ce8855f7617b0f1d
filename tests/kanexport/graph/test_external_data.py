"""Large models: coefficients once on disk, limited memory, and unchanged predictions."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from kanexport.bundle.publish import Result
from kanexport.graph.external_data import PAGE, SHARED_FROM, Weights
from kanexport.lowering import lower, passes
from kanexport.shared import manifest as manifests
from kanserve.repository import layout
from kanserve.runtime import ort
from kanserve.runtime.base import SessionOptions
from tests.support.golden_cases import case, exported
from tests.support.small_checkpoints import save
from tests.support.tiers import full, spread

MIB = 2**20
ALONE = {manifests.MODEL_FILE, manifests.NETWORK_FILE, "edges_l0.onnx", "edges_l1.onnx"}
# One export, in a process of its own that reports its own peak in bytes.
EXPORT = """
import resource, sys
from pathlib import Path
from kanexport.pipeline import Request, export
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
export(Request(path=Path(sys.argv[1]), repository=Path(sys.argv[2]), name="m", kernel=False))
print(base, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def checkpoint(folder: Path, widths: tuple[int, ...], intervals: int) -> Path:
    """efficient-kan's, float32, with smooth splines on [-1, 1] and a scaler."""
    rng = np.random.default_rng(0)
    knots = (np.arange(-3, intervals + 4) * (2 / intervals) - 1).astype(np.float32)
    place = np.linspace(-1, 1, intervals + 3, dtype=np.float32)
    tensors = {}
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        waves = rng.standard_normal((m, n, 1), dtype=np.float32) * np.sin(3 * place)
        tensors |= {
            f"layers.{at}.grid": np.tile(knots, (n, 1)),
            f"layers.{at}.base_weight": rng.standard_normal((m, n), dtype=np.float32) / n,
            f"layers.{at}.spline_weight": waves / np.float32(n),
            f"layers.{at}.spline_scaler": 1 + rng.random((m, n), dtype=np.float32),
        }
    folder.mkdir(exist_ok=True)
    return save(folder, tensors)


@pytest.fixture(scope="module")
def middling(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, int]:
    """A checkpoint of 40 MiB, its export, and by how much that process grew, in bytes."""
    folder = tmp_path_factory.mktemp("middling")
    path = checkpoint(folder, (300, 330, 2), 100)
    models = folder / "models"
    command = [sys.executable, "-P", "-c", EXPORT, str(path), str(models)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=300).stdout
    base, peak = map(int, printed.split())
    directory = models / "m" / "1"
    return path, Result(directory, manifests.load(directory)), peak - base


@full("load")
def test_a_large_model_is_on_disk_once_runs_by_its_path_and_takes_little_memory(
    middling: tuple[Path, Result, int],
) -> None:
    """And the size of the edge values of the verification, which a larger file does not change."""
    path, result, grown = middling
    size = path.stat().st_size
    assert grown < 3 * size + 300 * MIB
    assert size > 4 * SHARED_FROM
    files = {entry.path: entry.size for entry in result.manifest.files}
    assert set(files) == {*ALONE, manifests.WEIGHTS_FILE}
    assert files[manifests.WEIGHTS_FILE] < size + MIB
    assert sum(files.values()) - files[manifests.NETWORK_FILE] < size + MIB
    # As Triton loads it: only the path is known.
    x = np.random.default_rng(1).uniform(-1, 1, size=(4, 300)).astype(np.float32)
    session = onnxruntime.InferenceSession(result.directory / manifests.MODEL_FILE)
    same(session.run(["y"], {"x": x}), responses(result, x)[:1])
    reference = result.manifest.reference
    (y,) = session.run(["y"], {"x": np.array(reference.inputs, np.float32)})
    expected = np.array(reference.outputs)
    assert np.abs(y - expected).max() <= reference.tolerance * np.abs(expected).max()


def responses(result: Result, x: np.ndarray) -> list[np.ndarray]:
    """Outputs, nodes and every layer's edges, from checked bytes as the server takes them."""
    (candidate,) = layout.scan(result.directory.parent, plain_onnx=False)
    files = layout.load(candidate, 2**30).files
    beside = {name: data for name, data in files.items() if name == manifests.WEIGHTS_FILE}

    def session(name: str) -> ort.OrtSession:
        return ort.create(files[name], SessionOptions("cpu", 1), beside=beside)

    serving = session(manifests.MODEL_FILE)
    names = [tensor.name for tensor in serving.outputs]
    actual = {"x": x, **dict(zip(names, serving.run(names, {"x": x}), strict=True))}
    edges = [
        session(layer.edges_file).run([layer.edges_tensor], {layer.node_tensor: actual[layer.node_tensor]})[0]
        for layer in result.manifest.layers
    ]
    return [*(actual[name] for name in names), *edges]


def same(outcome: Iterable[np.ndarray], expected: Iterable[np.ndarray]) -> None:
    for item, other in zip(outcome, expected, strict=True):
        assert item.dtype == other.dtype
        np.testing.assert_array_equal(item, other)


GOLDEN = "efficient-kan-digits", "wav-kan-dog-breast-cancer", "pykan-hello-symbolic", "pykan-ellipj-float64"


@spread("name,block", itertools.product(GOLDEN, [8_000_000, 60]), 2)
def test_a_shared_file_changes_no_bit(name: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one block holds all sources of a layer or not."""
    dtype = "float64" if "float64" in name else "float32"
    x = case(name).reference()["x"].astype(dtype)
    alone = exported(name, tmp_path, name="alone", dtype=dtype)
    monkeypatch.setattr(lower, "SHARED_FROM", 0)
    monkeypatch.setattr(passes, "BLOCK_NUMBERS", block)
    shared = exported(name, tmp_path, name="shared", dtype=dtype)
    files, small = ({entry.path for entry in result.manifest.files} for result in (shared, alone))
    assert (manifests.WEIGHTS_FILE in files, manifests.WEIGHTS_FILE in small) == (True, False)
    same(responses(shared, x), responses(alone, x))


def test_equal_constants_have_one_place_on_a_page_of_their_own() -> None:
    weights = Weights()
    a = np.arange(1000, dtype=np.float32)
    first, second = weights.keep(a), weights.keep(a + 1)
    assert weights.keep(a.copy().reshape(10, 100)) == first
    assert (first.offset, second.offset % PAGE, second.length) == (0, 0, 4000)
    created = []

    def make() -> np.ndarray:
        created.append(a)
        return a * 2

    place = weights.derived((a, 2.0), make)
    assert weights.derived((a, 2.0), make) == place
    assert weights.derived((a, 3.0), make) != place
    assert len(created) == 2
    content = b"".join(weights.content())
    assert len(content) == weights.size == 4 * PAGE
    assert content[place.offset : place.offset + place.length] == (a * 2).tobytes()
