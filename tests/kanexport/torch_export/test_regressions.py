"""Difficulties of published modules that once failed to export, reproduced in small modules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import kanexport
from tests.support.tiers import full
from tests.support.torch_modules import Composed, draw, export, kinds, names, require_alike

ROWS = draw(4, rows=40, seed=5)


@full("combination")
def test_a_graph_may_be_as_inexact_as_the_module_itself_in_float32(tmp_path: Path) -> None:
    """(x + big) - big: float32 loses most of its digits in any implementation."""
    cancelling = Composed(lambda m, x: (m.layer(x).sin() + 1000.0) - 1000.0, layer=nn.Linear(4, 3))
    result = export(cancelling, ROWS, tmp_path)
    assert any("rounding" in note for note in result.manifest.notes), result.manifest.notes


@full("combination")
def test_rows_that_overflow_inside_the_module_in_float32_are_left_out_and_told(tmp_path: Path) -> None:
    """exp(-1 / (1 - x^2)) inside of (-1, 1) and times zero outside, which is NaN where exp overflows float32."""
    bump = Composed(lambda m, x: m.layer(torch.exp(-1 / (1 - x**2)) * (x.abs() < 1)), layer=nn.Linear(4, 3))
    rows = ROWS.copy()
    rows[3, 2] = 1.004  # exp(125), float32 ends at exp(88)
    result = export(bump, rows, tmp_path)
    assert any("not compared" in note for note in result.manifest.notes), result.manifest.notes


@pytest.mark.parametrize(("masked", "causal"), [(True, False), pytest.param(False, True, marks=full("combination"))])
def test_attention_needs_no_axis_of_heads(masked: bool, causal: bool, tmp_path: Path) -> None:
    """On [N, L, E], with a mask of three axes or without."""

    def forward(module: Any, x: Any) -> Any:
        q, k, v = module.qkv(x).chunk(3, -1)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=module.mask, is_causal=causal)

    module = Composed(forward, qkv=nn.Linear(6, 18), mask=nn.Buffer(torch.randn(1, 5, 5)) if masked else None)
    result = export(module, draw(5, 6), tmp_path)
    assert names(result) == ["qkv"]
    require_alike(result, module, scale=2)


@full("combination")
def test_a_module_mapped_by_torch_func_takes_any_number_of_rows(tmp_path: Path) -> None:
    """A small network for each edge, mapped over rows, sources and destinations, and a bound for all of them that is a
    tensor of one number."""

    def edge(value: Any, rates: Any, sums: Any, highest: Any) -> Any:
        waves = torch.cat([functional.linear(value, rates[:3]), torch.sin(functional.linear(value, rates[3:]))], -1)
        return functional.linear(torch.clamp(waves, 0, highest), sums)

    def forward(module: Any, x: Any) -> Any:
        row = torch.vmap(torch.vmap(edge, (None, 0, 0, None)), (0, 0, 0, None))
        mapped = torch.vmap(lambda item: row(item[:, None], module.rates, module.sums, module.highest).squeeze(-1))
        return mapped(x).sum(1)

    weights = {"rates": nn.Parameter(torch.randn(4, 3, 5, 1)), "sums": nn.Parameter(torch.randn(4, 3, 1, 5))}
    module = Composed(forward, highest=nn.Buffer(torch.tensor(0.7)), **weights)
    result = export(module, ROWS, tmp_path)
    assert kinds(result) == [("(itself)", "sampled")]
    require_alike(result, module, 5, 50)


@full("combination")
def test_a_module_that_looks_coefficients_up(tmp_path: Path) -> None:
    """By whole numbers of 32 bits, which ONNX does not take."""

    def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        cell = x.clamp(-3, 3).add(4).floor().to(torch.int32)
        source = torch.arange(4, dtype=torch.int32)
        return (module.coefficients[cell, source] * x[..., None]).sum(1)

    module = Composed(forward, coefficients=nn.Parameter(torch.randn(8, 4, 3)))
    require_alike(export(module, ROWS, tmp_path), module, 5)


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
