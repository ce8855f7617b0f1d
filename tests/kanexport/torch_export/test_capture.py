"""Capture of modules that take derivatives in forward, and of functions with a custom backward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kanexport.bundle.publish import Result
from tests.support.golden_cases import OUTPUT_TOLERANCE, relative_error, run
from tests.support.tiers import full
from tests.support.torch_modules import Composed, KANLinear, draw, export, names


def require_right(result: Result, module: Any, *counts: int) -> None:
    for count in counts:
        x = draw(4, rows=count, seed=count)
        y = module.double().eval()(torch.from_numpy(x).double().requires_grad_(True)).detach().numpy()
        assert relative_error(run(result.directory / "model.onnx", {"x": x})["y"], y) <= OUTPUT_TOLERANCE


class Forces(nn.Module):
    """An energy's derivatives, first and second; `x` requires a gradient where its caller says so."""

    def __init__(self, energy: Any, *, by_itself: bool) -> None:
        super().__init__()
        self.start, self.energy, self.by_itself = nn.Linear(4, 4), energy, by_itself

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad() if self.by_itself else torch.set_grad_enabled(torch.is_grad_enabled()):
            if self.by_itself:
                x.requires_grad_(True)
            e = self.energy(torch.tanh(self.start(x)))
            (force,) = torch.autograd.grad(e.sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(force[:, 0].sum(), x)
        return torch.cat([e, force, second], -1)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))


@pytest.mark.parametrize(
    ("energy", "by_itself"),
    [(perceptron, True), pytest.param(lambda: KANLinear(4, 1), False, marks=full("combination"))],
)
def test_derivatives_become_operators_and_their_layers_stay_torchs(
    energy: Any, by_itself: bool, tmp_path: Path
) -> None:
    module = Forces(energy(), by_itself=by_itself)
    result = export(module, draw(4), tmp_path)
    require_right(result, module, 1, 5, 40)
    if energy is perceptron:
        return
    assert names(result) == ["start", "energy"]
    (note,) = [note for note in result.manifest.notes if "from a separate graph" in note]
    assert note.startswith("start, energy: exported by torch.onnx, with edge values from a separate graph")
    assert "a replaced layer has no derivative" in note


class Own(torch.autograd.Function):
    """A function with a custom backward, like the basis of FasterKAN."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        return 1 - torch.tanh(x * scale) ** 2

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * x, None


def test_derivatives_by_torch_func_and_a_function_with_its_own_backward(tmp_path: Path) -> None:
    def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        row = torch.func.grad(lambda row: module.energy(row)[0])
        return module.layer(Own.apply(x, 1.5) + torch.func.vmap(row)(x))

    energy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    module = Composed(forward, energy=energy, layer=KANLinear(4, 3))
    result = export(module, draw(4), tmp_path)
    assert names(result) == ["layer"]
    require_right(result, module, 1, 5)
