"""Modules with KAN layers, compared with the same modules in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kanexport.bundle.publish import Result
from kanexport.errors import ModuleRefused, OptionError
from tests.support import torch_modules as modules
from tests.support.golden_cases import EDGE_TOLERANCE, OUTPUT_TOLERANCE, OWN, relative_error, run
from tests.support.tiers import full
from tests.support.torch_modules import draw, edges_of, exact, export, names, require_alike

Exported = tuple[Any, np.ndarray, Result]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The golden modules, the rows of their exports, and the exports."""
    made = {}
    for case, module in (
        ("hybrid-cnn-efficient-kan", modules.GoldenCnn()),
        ("hybrid-transformer-fastkan", modules.GoldenTransformer()),
    ):
        module.load_state_dict(torch.load(OWN / case / "model.pt", weights_only=True))
        with np.load(OWN / case / "reference.npz") as arrays:
            x = arrays["x"]
        made[case] = module, x, export(module, x[:16], tmp_path_factory.mktemp("golden"))
    return made


@pytest.fixture(scope="module")
def transformer(golden: dict[str, Exported]) -> Exported:
    return golden["hybrid-transformer-fastkan"]


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A module whose batch comes second."""
    module, x = modules.SharedAndTurned(), draw(5, 4)
    return module, x, export(module, x, tmp_path_factory.mktemp("turned"))


def test_golden_modules(golden: dict[str, Exported], state_error: Any) -> None:
    for case, (_, x, result) in golden.items():
        with np.load(OWN / case / "reference.npz") as arrays:
            error = relative_error(run(result.directory / "model.onnx", {"x": x})["y"], arrays["y64"])
        state_error("hybrid outputs, relative", error, case)
        assert error <= OUTPUT_TOLERANCE
        assert result.manifest.input.shape == (-1, *x.shape[1:])


def test_layers_are_found_by_name_with_their_positions(transformer: Exported) -> None:
    _, _, result = transformer
    layers = result.manifest.layers
    assert names(result) == ["embed", "ffn.layers.0", "ffn.layers.1", "out"]
    assert [layer.positions for layer in layers] == [(8,), (8,), (8,), ()]
    assert [layer.edge_class for layer in layers] == ["A", "B", "B", "A"]
    assert [[basis.kind for basis in layer.bases] for layer in layers[:2]] == [["identity"], ["gaussian", "silu"]]
    assert result.manifest.edge_class == "B"


def test_edges_add_up_to_what_the_layer_gives(transformer: Exported) -> None:
    """Every edge of every layer, at every position: their sum is the submodule's output."""
    module, x, result = transformer
    nodes = run(result.directory / "model.onnx", {"x": x})
    seen: dict[str, np.ndarray] = {}
    for name in names(result):
        module.get_submodule(name).register_forward_hook(
            lambda _, args, y, name=name: seen.update({name: y.detach().numpy()})
        )
    exact(module, x)
    for at, layer in enumerate(result.manifest.layers):
        vectors = nodes[layer.node_tensor]
        assert vectors.shape == (len(x), *layer.positions, layer.sources)
        sums = edges_of(result, at, vectors).sum(axis=1) + np.asarray(layer.bias or 0.0)
        assert relative_error(sums, seen[layer.name].reshape(-1, layer.destinations)) <= EDGE_TOLERANCE


def test_nothing_of_the_machine_gets_into_the_graph(transformer: Exported) -> None:
    data = (transformer[2].directory / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[1]).encode() not in data
    assert b"stack_trace" not in data
    model = onnx.load_model_from_string(data)
    assert {entry.domain for entry in model.opset_import} == {""}


def test_a_layer_that_runs_twice_and_a_batch_of_any_size_that_comes_second(turned: Exported) -> None:
    module, x, result = turned
    assert [(layer.name, layer.positions) for layer in result.manifest.layers] == [("mix#1", (5,)), ("mix#2", (5,))]
    actual = run(result.directory / "model.onnx", {"x": x})
    assert relative_error(actual["y"], exact(module, x)) <= OUTPUT_TOLERANCE
    np.testing.assert_array_equal(actual["layer0_in"], x)
    for count in (0, 1, 7):
        assert run(result.directory / "model.onnx", {"x": x[:count]})["y"].shape == (count, 5, 4)


@pytest.mark.parametrize(
    ("module", "rows", "kind", "message"),
    [
        (modules.TwoInputs(), draw(3), ModuleRefused, r"does not run on \d rows of shape"),
        (modules.KANLinear(4, 3), np.array([["a"]]), OptionError, "of floating-point or whole numbers"),
        (modules.KANLinear(4, 3), np.full((3, 4), np.nan, np.float32), OptionError, "not finite"),
        (nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)), draw(4), ModuleRefused, r"returns 24 rows for 8"),
    ],
)
def test_what_cannot_be_served_is_refused(module: Any, rows: Any, kind: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message):
        export(module, rows, tmp_path)
    assert not list(tmp_path.iterdir())


@full("peer")
def test_a_block_of_published_libraries(tmp_path: Path) -> None:
    wavelet, flashkan = pytest.importorskip("torch_wavelet_kan"), pytest.importorskip("flashkan")
    inkan = pytest.importorskip("inkan")

    def forward(module: Any, x: Any) -> Any:
        """Tokens mixed by attention, channels by layers of three libraries."""
        x = x + module.attention(x, x, x, need_weights=False)[0]
        x = x + module.wavelets(module.norm(x).reshape(-1, 6)).reshape(x.shape)
        return module.head(torch.tanh(module.splines(x.mean(1))))

    module = modules.Composed(
        forward,
        attention=nn.MultiheadAttention(6, 2, batch_first=True),
        norm=nn.LayerNorm(6),
        wavelets=wavelet.WaveletKANLayer(6, 6),
        splines=flashkan.KANLayer(6, 6),
        head=inkan.KANNetwork([6, 4, 3]),
    )
    result = export(module, draw(4, 6), tmp_path)
    assert names(result) == ["wavelets", "splines", "head.layers.0", "head.layers.1"]
    require_alike(result, module)
