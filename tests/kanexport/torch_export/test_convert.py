"""Modules with KAN layers, compared with the same modules in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.support.golden_cases import EDGE_TOLERANCE, OUTPUT_TOLERANCE, OWN, relative_error

torch = pytest.importorskip("torch")
nn = torch.nn

from kanexport.bundle.publish import Result, Target  # noqa: E402 - as above
from kanexport.errors import InvalidKan, OptionError  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from tests.support import torch_modules as modules  # noqa: E402 - needs torch


def export(module: Any, rows: np.ndarray, folder: Path, **settings: Any) -> Result:
    return convert(module, rows, Target(repository=folder, name="m", **settings), options={})


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(12, *shape)).astype(np.float32)


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def exact(module: Any, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.double().eval()(torch.from_numpy(rows).double()).numpy()


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, np.ndarray, Result]:
    """A module of random weights, the rows of its export, and what that made."""
    module, x = modules.GoldenTransformer(), draw(8, 8)
    return module, x, export(module, x, tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, np.ndarray, Result]:
    """The same of one whose batch comes second."""
    module, x = modules.SharedAndTurned(), draw(5, 4)
    return module, x, export(module, x, tmp_path_factory.mktemp("turned"))


@pytest.mark.parametrize(
    ("case", "make"),
    [("hybrid-cnn-efficient-kan", modules.GoldenCnn), ("hybrid-transformer-fastkan", modules.GoldenTransformer)],
)
def test_golden_modules(case: str, make: Any, tmp_path: Path, state_error) -> None:
    module = make()
    module.load_state_dict(torch.load(OWN / case / "model.pt", weights_only=True))
    with np.load(OWN / case / "reference.npz") as arrays:
        x, y64 = arrays["x"], arrays["y64"]
    result = export(module, x[:16], tmp_path)
    actual = run(result.directory / "model.onnx", {"x": x})["y"]
    error = relative_error(actual, y64)
    state_error("hybrid outputs, relative", error, case)
    assert error <= OUTPUT_TOLERANCE
    assert result.manifest.input.shape == (-1, *x.shape[1:])


def test_layers_are_found_by_name_with_their_positions(transformer: tuple[Any, np.ndarray, Result]) -> None:
    _, _, result = transformer
    layers = result.manifest.layers
    assert [layer.name for layer in layers] == ["embed", "ffn.layers.0", "ffn.layers.1", "out"]
    assert [layer.positions for layer in layers] == [(8,), (8,), (8,), ()]
    assert [layer.edge_class for layer in layers] == ["A", "B", "B", "A"]
    assert [[basis.kind for basis in layer.bases] for layer in layers[:2]] == [["identity"], ["gaussian", "silu"]]
    assert result.manifest.edge_class == "B"


def test_edges_add_up_to_what_the_layer_gives(transformer: tuple[Any, np.ndarray, Result]) -> None:
    """Every edge of every layer, at every position: their sum is the submodule's output."""
    module, x, result = transformer
    nodes = run(result.directory / "model.onnx", {"x": x})
    seen: dict[str, np.ndarray] = {}
    module = module.double().eval()

    def remember(part: Any, name: str) -> None:
        part.register_forward_hook(lambda _, args, y: seen.update({name: y.detach().numpy()}))

    for name in [layer.name for layer in result.manifest.layers]:
        remember(module.get_submodule(name), name)
    exact(module, x)
    for layer in result.manifest.layers:
        vectors = nodes[layer.node_tensor]
        assert vectors.shape == (len(x), *layer.positions, layer.sources)
        edges = run(result.directory / layer.edges_file, {layer.node_tensor: vectors.reshape(-1, layer.sources)})[
            layer.edges_tensor
        ]
        sums = edges.sum(axis=1) + np.asarray(layer.bias or 0.0)
        assert relative_error(sums, seen[layer.name].reshape(-1, layer.destinations)) <= EDGE_TOLERANCE


def test_convolutions_run_at_every_pixel(tmp_path: Path) -> None:
    module, x = modules.KanConvolution(), draw(2, 6, 6)
    result = export(module, x, tmp_path)
    assert [layer.positions for layer in result.manifest.layers] == [(16,)] * 6 + [()]
    actual = run(result.directory / "model.onnx", {"x": x})
    assert relative_error(actual["y"], exact(module, x)) <= OUTPUT_TOLERANCE
    patch = x[3, 0, 1:4, 2:5].reshape(-1)  # channel 0, second row and third column of patches
    np.testing.assert_array_equal(actual[result.manifest.layers[0].node_tensor][3, 1 * 4 + 2], patch)


def test_a_layer_that_runs_twice_and_a_batch_that_comes_second(turned: tuple[Any, np.ndarray, Result]) -> None:
    module, x, result = turned
    assert [(layer.name, layer.positions) for layer in result.manifest.layers] == [("mix#1", (5,)), ("mix#2", (5,))]
    actual = run(result.directory / "model.onnx", {"x": x})
    assert relative_error(actual["y"], exact(module, x)) <= OUTPUT_TOLERANCE
    np.testing.assert_array_equal(actual["layer0_in"], x)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_any_number_of_rows(turned: tuple[Any, np.ndarray, Result], count: int) -> None:
    _, x, result = turned
    assert run(result.directory / "model.onnx", {"x": x[:count]})["y"].shape == (count, 5, 4)


def test_a_lone_layer_is_a_module_too(tmp_path: Path) -> None:
    result = export(modules.KANLinear(4, 3), draw(4), tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["(itself)"]


def test_float64_keeps_full_precision(tmp_path: Path) -> None:
    module, x = modules.GoldenTransformer(), draw(8, 8)
    result = export(module, x, tmp_path, dtype="float64")
    actual = run(result.directory / "model.onnx", {"x": x.astype(np.float64)})["y"]
    assert relative_error(actual, exact(module, x)) <= 1e-12


def test_what_computes_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    module, x = nn.Sequential(modules.Impostor(4, 3), nn.Linear(3, 2)), draw(4)
    result = export(module, x, tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["1"]
    assert any(note.startswith("0: resembles a layer of efficient-kan, but differs") for note in result.manifest.notes)
    assert relative_error(run(result.directory / "model.onnx", {"x": x})["y"], exact(module, x)) <= OUTPUT_TOLERANCE


def test_a_base_activation_is_read_off_the_module(tmp_path: Path) -> None:
    module = modules.KANLinear(4, 3)
    module.base_activation = nn.GELU()
    result = export(module, draw(4), tmp_path)
    assert [basis.kind for basis in result.manifest.layers[0].bases] == ["bspline", "gelu"]


def test_rows_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidKan, match="edge class C"):
        export(modules.Batchwise(), draw(3), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_of_the_machine_gets_into_the_graph(tmp_path: Path) -> None:
    result = export(nn.Sequential(modules.KANLinear(4, 3), nn.Tanh()), draw(4), tmp_path)
    data = (result.directory / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[1]).encode() not in data
    assert b"stack_trace" not in data
    model = onnx.load_model_from_string(data)
    assert {entry.domain for entry in model.opset_import} == {""}


@pytest.mark.parametrize(
    ("module", "rows", "kind", "message"),
    [
        (modules.TwoInputs(), draw(3), InvalidKan, r"does not run on \d rows of shape"),
        (modules.KANLinear(4, 3), draw(5), InvalidKan, r"does not run on \d rows of shape"),
        (modules.KANLinear(4, 3), np.array([["a"]]), OptionError, "of floating-point or whole numbers"),
        (modules.KANLinear(4, 3), np.full((3, 4), np.nan, np.float32), OptionError, "not finite"),
        (nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)), draw(4), InvalidKan, r"returns 24 rows for 8"),
    ],
)
def test_what_cannot_be_served_is_refused(module: Any, rows: Any, kind: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message):
        export(module, rows, tmp_path)
    assert not list(tmp_path.iterdir())


class InkanHead(nn.Module):
    """A convolutional network whose head is inkan's."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), network

    def forward(self, x: Any) -> Any:
        return self.head(torch.tanh(torch.max_pool2d(self.conv(x), 2)).flatten(1))


class WaveletMixer(nn.Module):
    """Tokens mixed by attention, channels by wavelets and by flashkan's splines."""

    def __init__(self, wavelets: Any, splines: Any) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(6, 2, batch_first=True), nn.LayerNorm(6)
        self.wavelets, self.splines, self.out = wavelets, splines, nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.wavelets(self.norm(x).reshape(-1, 6)).reshape(x.shape)
        return self.out(torch.tanh(self.splines(x.mean(1))))


def test_a_network_with_a_published_head(tmp_path: Path, state_error) -> None:
    inkan = pytest.importorskip("inkan")
    torch.manual_seed(0)
    module, x = InkanHead(inkan.KANNetwork([36, 8, 5])), draw(1, 8, 8)
    result = export(module, x, tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["head.layers.0", "head.layers.1"]
    error = relative_error(run(result.directory / "model.onnx", {"x": x})["y"], exact(module, x))
    state_error("hybrid outputs, relative", error, "inkan head on a CNN")
    assert error <= OUTPUT_TOLERANCE


def test_a_block_of_two_published_libraries(tmp_path: Path, state_error) -> None:
    wavelet, flashkan = pytest.importorskip("torch_wavelet_kan"), pytest.importorskip("flashkan")
    torch.manual_seed(0)
    module, x = WaveletMixer(wavelet.WaveletKANLayer(6, 6), flashkan.KANLayer(6, 6)), draw(4, 6)
    result = export(module, x, tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["wavelets", "splines", "out"]
    error = relative_error(run(result.directory / "model.onnx", {"x": x})["y"], exact(module, x))
    state_error("hybrid outputs, relative", error, "wavelets, splines and attention")
    assert error <= OUTPUT_TOLERANCE
