"""Capture of modules that take derivatives in forward, and of functions with a custom backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.support.golden_cases import OUTPUT_TOLERANCE, relative_error

torch = pytest.importorskip("torch")
nn = torch.nn

from kanexport.bundle.publish import Result, Target  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from tests.support.torch_modules import KANLinear  # noqa: E402 - needs torch


def export(module: Any, folder: Path) -> Result:
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    return convert(module, x, Target(repository=folder, name="m"), options={})


def require_right(result: Result, module: Any, *counts: int) -> None:
    session = onnxruntime.InferenceSession((result.directory / "model.onnx").read_bytes())
    for count in counts:
        x = np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)
        y = module.double().eval()(torch.from_numpy(x).double().requires_grad_(True)).detach().numpy()
        assert relative_error(session.run(["y"], {"x": x})[0], y) <= OUTPUT_TOLERANCE


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


@pytest.mark.parametrize("by_itself", [True, False])
def test_derivatives_become_operators(by_itself: bool, tmp_path: Path) -> None:
    module = Forces(nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1)), by_itself=by_itself)
    result = export(module, tmp_path)
    require_right(result, module, 1, 2, 40)


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_layer_that_is_differentiated_is_torchs_and_has_edges(by_itself: bool, tmp_path: Path) -> None:
    module = Forces(KANLinear(4, 1), by_itself=by_itself)
    result = export(module, tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["start", "energy"]
    (note,) = [note for note in result.manifest.notes if "from a separate graph" in note]
    assert note.startswith("start, energy: exported by torch.onnx, with edge values from a separate graph")
    assert "a replaced layer has no derivative" in note
    require_right(result, module, 1, 5)


class Mapped(nn.Module):
    """The same by torch.func, row by row, before a KAN layer."""

    def __init__(self) -> None:
        super().__init__()
        self.energy, self.layer = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), KANLinear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.func.vmap(torch.func.grad(lambda row: self.energy(row)[0]))(x))


def test_derivatives_by_torch_func(tmp_path: Path) -> None:
    module = Mapped()
    result = export(module, tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["layer"]
    require_right(result, module, 1, 5)


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


class Basis(nn.Module):
    """Next to a KAN layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = KANLinear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(Own.apply(x, 1.5))


def test_a_function_with_its_own_backward(tmp_path: Path) -> None:
    module = Basis()
    result = export(module, tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["layer"]
    require_right(result, module, 1, 5)
