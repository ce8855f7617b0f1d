"""Difficulties of published modules that once failed to export, reproduced in small modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn: Any = torch.nn

import kanexport  # noqa: E402 - needs torch
from kanexport.bundle.publish import Result  # noqa: E402 - as above
from kanexport.errors import InvalidKan, VerificationFailed  # noqa: E402 - as above

ROWS = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)


def exported(module: nn.Module, folder: Path, rows: np.ndarray = ROWS) -> Result:
    return kanexport.export(module, rows, name="m", repository=folder)


class Cancelling(nn.Module):
    """(x + big) - big: float32 loses most of its digits in any implementation."""

    def __init__(self, big: float) -> None:
        super().__init__()
        self.layer, self.big = nn.Linear(4, 3), big

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layer(x).sin() + self.big) - self.big


class Bump(nn.Module):
    """exp(-1 / (1 - x^2)) inside of (-1, 1) and times zero outside, which is NaN where exp overflows float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.exp(-1 / (1 - x**2)) * (x.abs() < 1))


def test_a_graph_may_be_as_inexact_as_the_module_itself_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = exported(Cancelling(1000.0), tmp_path)
    assert any("rounding" in note for note in result.manifest.notes), result.manifest.notes


def test_rows_that_overflow_inside_the_module_in_float32_are_left_out_and_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = ROWS.copy()
    rows[3, 2] = 1.004  # exp(125), float32 ends at exp(88)
    result = exported(Bump(), tmp_path, rows)
    assert any("not compared" in note for note in result.manifest.notes), result.manifest.notes


def edge(x: torch.Tensor, rate: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
    """One function of one number, with a bound that is a tensor of one number."""
    return torch.clamp(torch.cat([x * rate, torch.sin(x * rate)], dim=-1), 0, highest).sum(-1)


class Mapped(nn.Module):
    """A KAN layer whose functions are mapped over sources, destinations and rows by torch.vmap."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.randn(n, m, 1))
        self.highest = nn.Buffer(torch.tensor(0.7))

    def row(self, x: torch.Tensor) -> torch.Tensor:
        of_source = torch.vmap(edge, (None, 0, None))
        return torch.vmap(of_source, (0, 0, None))(x[:, None], self.rate, self.highest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(self.row)(x).sum(1)


class Near(nn.Module):
    """Distances of several vectors a row to places: above 25 vectors torch goes another way."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.out = nn.Parameter(torch.randn(5, 2)), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = torch.exp(-(torch.cdist(x.reshape(-1, 2), self.places) ** 2))
        return self.out(near.reshape(len(x), 10))


class Looked(nn.Module):
    """Coefficients that are looked up by whole numbers of 32 bits, which ONNX does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.randn(8, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cell = x.clamp(-3, 3).add(4).floor().to(torch.int32)
        source = torch.arange(4, dtype=torch.int32)
        return (self.coefficients[cell, source] * x[..., None]).sum(1)


class Counted(nn.Module):
    """Outputs that depend on the number of rows, by a condition that torch.export does not see."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x).sin()
        return y * 2 if len(x) > 40 else y


@pytest.mark.parametrize("module", [Mapped(4, 3), Near(), Looked()], ids=["mapped", "near", "looked"])
def test_modules_that_torch_export_follows_with_help(module: nn.Module, tmp_path: Path) -> None:
    result = exported(module, tmp_path)
    assert result.manifest.layers or not isinstance(module, Mapped), result.manifest.notes


@pytest.mark.parametrize("layer", [Mapped(4, 3), nn.Linear(4, 3)], ids=["mapped", "linear"])
def test_a_branch_on_the_number_of_rows_is_refused(layer: nn.Module, tmp_path: Path) -> None:
    with pytest.raises((InvalidKan, VerificationFailed), match=r"number of rows|on batch of 1024 rows"):
        exported(Counted(layer), tmp_path)


class Trainer(nn.Module):
    """A module with a method `train` that differs from that of torch modules, like pykan before 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(4, 3), nn.Dropout()

    def train(self, dataset: dict[str, torch.Tensor]) -> float:  # type: ignore[override]  # that is the point of it
        return float(dataset["x"].mean())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.layer(x))


def test_recorded_outputs_of_a_module_with_a_method_named_train(tmp_path: Path) -> None:
    module = Trainer()
    with np.load(kanexport.record_outputs(module, ROWS, tmp_path / "outputs.npz")) as file:
        assert np.allclose(file["y"][: len(ROWS)], module.layer(torch.from_numpy(ROWS)).detach().numpy(), atol=1e-6)
    assert module.training
    assert module.drop.training
