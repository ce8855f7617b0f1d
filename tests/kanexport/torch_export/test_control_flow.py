"""Tests of `torch_export/control_flow.py`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kanexport.errors import ModuleRefused
from tests.support.torch_modules import draw, export, require_alike


class Basis(nn.Module):
    """B-splines over knots with equal ones among them. An empty interval is tested by a condition, not computed;
    `of_input`: with a condition on its input as well."""

    def __init__(self, of_input: bool = False) -> None:
        super().__init__()
        self.knots = nn.Buffer(torch.tensor([-2.0, -1.0, -1.0, 0.0]))
        self.out, self.of_input = nn.Linear(4, 2), of_input

    def cell(self, x: Any, i: int, k: int) -> Any:
        if k == 0:
            return ((self.knots[i] <= x) & (x < self.knots[i + 1])).to(x.dtype)
        left, right = self.knots[i + k] - self.knots[i], self.knots[i + k + 1] - self.knots[i + 1]
        total = torch.zeros_like(x)
        if left != 0:
            total = total + (x - self.knots[i]) / left * self.cell(x, i, k - 1)
        if right.item() != 0:
            total = total + (self.knots[i + k + 1] - x) / right * self.cell(x, i + 1, k - 1)
        return total

    def forward(self, x: Any) -> Any:
        if self.of_input and self.knots.clone().add_(x.mean()).sum() > 1e6:
            x = -x
        return self.out(self.cell(x, 0, 2))


def test_what_is_asked_of_weights_is_part_of_the_model(tmp_path: Path) -> None:
    module = Basis()
    require_alike(export(module, draw(4), tmp_path), module, scale=2)


def test_what_is_asked_of_inputs_stops_a_trace(tmp_path: Path) -> None:
    with pytest.raises(ModuleRefused, match="a branch or a size depends on the values of a tensor"):
        export(Basis(of_input=True), draw(4), tmp_path)
