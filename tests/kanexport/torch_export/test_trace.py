"""Graphs of modules that use their layers in unusual ways, compared with the modules in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kanexport.errors import ModuleRefused
from kanexport.torch_export import convert, trace
from tests.support import modules_unusual as odd
from tests.support.golden_cases import relative_error, run
from tests.support.tiers import full
from tests.support.torch_modules import Composed, KANLinear, draw, exact, export, names, require_alike


@pytest.mark.parametrize(
    ("make", "shape", "layers"),
    [
        (odd.Calling, (4,), ["named", "direct", "more", "tied"]),
        pytest.param(odd.encoder, (5, 4), ["0.linear1", "0.linear2"], marks=full("combination")),
    ],
)
def test_unusual_modules_become_graphs(make: Any, shape: tuple[int, ...], layers: list[str], tmp_path: Path) -> None:
    module = make()
    result = export(module, draw(*shape), tmp_path)
    assert names(result) == layers
    require_alike(result, module)


@full("combination")
def test_a_layer_that_runs_many_times_has_its_weights_once(tmp_path: Path) -> None:
    module = odd.Unrolled()
    result = export(module, draw(8, 2), tmp_path)
    assert names(result) == [*(f"cell#{at}" for at in range(1, 9)), "out"]
    require_alike(result, module)
    graph = onnx.load(result.directory / "model.onnx").graph
    held = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    weights = sum(parameter.numel() for parameter in module.parameters())
    assert held < 3 * weights
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used


@full("combination")
def test_weights_of_half_precision_are_kept_exactly(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 5), odd.KANLinear(5, 3)).half()
    result = export(module, draw(4).astype(np.float16), tmp_path)
    assert result.manifest.source.dtype == "float16"
    assert any("weights of the module are float16" in note for note in result.manifest.notes)
    require_alike(result, module)


class Loops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(trace.OPERATIONS + 1):
            x = x + self.weight
        return x


def test_a_module_with_too_many_operations_is_refused_before_its_trace(tmp_path: Path) -> None:
    rows, model = [draw(2)[:3].astype(np.float32)], nn.Sequential(Loops(), nn.Tanh())
    with pytest.raises(ModuleRefused, match=r"runs 2000\d operations") as caught:
        next(trace.traces(model, rows, [], torch.float32, most=8, derives=False))
    assert "tensor operations" in caught.value.hint
    x = torch.ones(3, 2)
    with trace.Operations([model[0]]) as outside:
        model(x)
    assert 0 < outside.count < 5  # tanh, and copies for its derivative
    with pytest.raises(ModuleRefused, match="operations outside of its KAN layers"):
        export(model, rows[0], tmp_path)


def test_a_large_module_runs_few_rows_at_a_time_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that operations inside of KAN layers compute count as well."""
    batches: list[int] = []
    module = Composed(lambda m, x: (batches.append(len(x)), m.kan(x))[1], kan=KANLinear(4, 3))
    with trace.Operations([module.kan]) as operations:
        module(torch.zeros(2, 4))
    monkeypatch.setattr(convert, "EFFORT", 2 * operations.numbers)
    assert not export(module, draw(4), tmp_path / "slow").manifest.notes
    assert max(batches) == 5, "4 rows, and one more to show that the graph takes any number"
    monkeypatch.setattr(trace, "NUMBERS", operations.numbers // 4)
    with pytest.raises(ModuleRefused, match="numbers for each row") as caught:
        export(module, draw(4), tmp_path / "refused")
    assert "--input-shape" in caught.value.hint


def test_the_line_that_cannot_be_followed_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = odd.Doing(lambda y, x: y if x.max() < 1e9 else -y)
    with pytest.raises(ModuleRefused, match=r"torch\.export cannot trace the module") as caught:
        export(module, draw(4), tmp_path)
    assert "depends on the values of a tensor" in caught.value.message
    assert "(test_trace.py, line " in caught.value.message
    assert "if x.max() < 1e9" in caught.value.message
    assert not list(tmp_path.iterdir())
    assert "GraphModule" not in "".join(capfd.readouterr())  # torch would print the unfinished graph


def test_small_values_of_the_logistic_function_keep_their_digits(tmp_path: Path) -> None:
    """Fractional powers of the logistic function, as fKAN's blocks have them, and values that the module returns."""

    def forward(module: Any, x: Any) -> Any:
        positive = (torch.sigmoid(x) > 0).to(x.dtype)  # always
        return module.last(torch.sigmoid(x) ** module.power + positive / (1 + torch.log(torch.sigmoid(-x)) ** 2))

    module = Composed(forward, power=nn.Parameter(torch.tensor(0.4)), last=nn.Linear(4, 3))
    require_alike(export(module, draw(4), tmp_path), module, 50, scale=12)
    small = Composed(
        lambda m, x: m.last(torch.nn.functional.silu(x) + torch.sigmoid(x)), last=nn.Linear(4, 3, bias=False)
    )
    graph = export(small, draw(4), tmp_path / "small").directory / "model.onnx"
    x = np.linspace(-12, -5, 200, dtype=np.float32).reshape(50, 4)
    assert relative_error(run(graph, {"x": x})["y"], exact(small, x)) <= 1e-6
