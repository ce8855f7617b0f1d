"""Graphs of modules that use their layers in unusual ways, compared with the modules in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.support.golden_cases import OUTPUT_TOLERANCE, relative_error

torch = pytest.importorskip("torch")
nn = torch.nn

from kanexport.bundle.publish import Result, Target  # noqa: E402 - as above
from kanexport.errors import InvalidKan  # noqa: E402 - as above
from kanexport.lowering import lower  # noqa: E402 - as above
from kanexport.torch_export.borrowed_module import plain  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from tests.support import modules_unusual as odd  # noqa: E402 - needs torch


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(9, *shape)).astype(np.float32)


def export(module: Any, rows: np.ndarray, folder: Path) -> Result:
    return convert(module, rows, Target(repository=folder, name="m"), options={})


def outputs(result: Result, x: np.ndarray) -> np.ndarray:
    data = (result.directory / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def exact(module: Any, x: np.ndarray) -> np.ndarray:
    with torch.no_grad(), plain(torch.float64):  # torch's own blocks take no other layers in their fast path
        return module.eval().double()(torch.from_numpy(x).double()).numpy()


@pytest.mark.parametrize(
    ("make", "shape", "layers"),
    [
        (odd.Kept, (4,), ["parts.up", "parts.down"]),
        (odd.Calling, (4,), ["named", "direct", "more", "tied"]),
        (odd.tied, (4,), ["0.0", "0.1#1", "0.1#2"]),
        (odd.encoder, (5, 4), ["0.linear1", "0.linear2"]),
        (odd.OfConstants, (4,), []),
    ],
)
def test_unusual_modules_become_graphs(make: Any, shape: tuple[int, ...], layers: list[str], tmp_path: Path) -> None:
    module = make()
    result = export(module, draw(*shape), tmp_path)
    assert [layer.name for layer in result.manifest.layers] == layers
    x = np.random.default_rng(2).normal(size=(5, *shape)).astype(np.float32)
    assert relative_error(outputs(result, x), exact(module, x)) <= OUTPUT_TOLERANCE


def test_a_layer_that_runs_many_times_has_its_weights_once(tmp_path: Path) -> None:
    module, x = odd.Unrolled(), draw(12, 2)
    result = export(module, x, tmp_path)
    assert [layer.name for layer in result.manifest.layers] == [*(f"cell#{at}" for at in range(1, 13)), "out"]
    assert relative_error(outputs(result, x), exact(module, x)) <= OUTPUT_TOLERANCE
    graph = onnx.load(result.directory / "model.onnx").graph
    held = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    weights = sum(parameter.numel() for parameter in module.parameters())
    assert held < 3 * weights
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used


def test_weights_of_half_precision_are_kept_exactly(tmp_path: Path) -> None:
    module, x = nn.Sequential(nn.Linear(4, 5), odd.KANLinear(5, 3)).half(), draw(4)
    result = export(module, x.astype(np.float16), tmp_path)
    assert result.manifest.source.dtype == "float16"
    assert any("weights of the module are float16" in note for note in result.manifest.notes)
    assert relative_error(outputs(result, x), exact(module, x)) <= OUTPUT_TOLERANCE


@pytest.mark.parametrize(
    ("function", "words", "line"),
    [
        (lambda y, x: y if x.max() < 1e9 else -y, "depends on the values of a tensor", "if x.max() < 1e9"),
        (lambda y, x: y.expand(2 if x.sum() > 1e9 else 1, -1, -1)[0], "depends on the values", "if x.sum() > 1e9"),
    ],
)
def test_the_line_that_cannot_be_followed_is_named(
    function: Any, words: str, line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidKan, match=r"torch\.export cannot trace the module") as caught:
        export(odd.Doing(function), draw(4), tmp_path)
    assert words in caught.value.message
    assert "(test_trace.py, line " in caught.value.message
    assert line in caught.value.message
    assert not list(tmp_path.iterdir())
    assert "GraphModule" not in "".join(capfd.readouterr())  # torch would print the unfinished graph


def test_a_large_modules_layers_share_their_weights_with_their_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear layers are KAN layers too, and one of them runs twice; the limit of a large layer is small in this
    test."""
    monkeypatch.setattr(lower, "SHARED_FROM", 2**19)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.again = nn.Linear(150, 400), nn.Linear(400, 400)

        def forward(self, x: Any) -> Any:
            return self.again(torch.tanh(self.again(torch.tanh(self.first(x)))))[:, :3]

    module = Net()
    result = export(module, draw(150), tmp_path)
    files = {entry.path: entry.size for entry in result.manifest.files}
    assert len(result.manifest.layers) == 3
    parameters = 4 * sum(parameter.numel() for parameter in module.parameters())
    assert parameters > 2**19
    assert sum(files.values()) < parameters + 2**17  # less than either layer once more
    x = np.random.default_rng(2).normal(size=(5, 150)).astype(np.float32)
    session = onnxruntime.InferenceSession(result.directory / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    actual = dict(zip(names, session.run(names, {"x": x}), strict=True)) | {"x": x}
    layer = result.manifest.layers[2]
    edges = onnxruntime.InferenceSession(result.directory / layer.edges_file, providers=["CPUExecutionProvider"])
    (values,) = edges.run([layer.edges_tensor], {layer.node_tensor: actual[layer.node_tensor]})
    assert relative_error(actual["y"], exact(module, x)) <= OUTPUT_TOLERANCE
    sums = values.sum(axis=1) + np.array(layer.bias)
    assert relative_error(sums[:, :3], actual["y"].astype(np.float64)) <= OUTPUT_TOLERANCE


class Root(nn.Module):
    """Fractional powers of the logistic function, as fKAN's blocks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(0.4))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        positive = (torch.sigmoid(x) > 0).to(x.dtype)  # always
        return self.last(torch.sigmoid(x) ** self.power + positive / (1 + torch.log(torch.sigmoid(-x)) ** 2))


def test_small_values_of_the_logistic_function_keep_their_digits(tmp_path: Path) -> None:
    module = Root()
    result = export(module, draw(4), tmp_path)
    x = 12 * np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    assert relative_error(outputs(result, x), exact(module, x)) <= OUTPUT_TOLERANCE
