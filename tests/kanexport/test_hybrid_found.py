"""What modules that were found in public needed: our own writing of the same difficulties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import kanexport
from kanexport.packing.publish import Result

ROWS = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)


def exported(module: nn.Module, folder: Path, rows: np.ndarray = ROWS) -> Result:
    return kanexport.export(module, rows, name="m", repository=folder)


class Cancelling(nn.Module):
    """(x + big) - big: float32 loses most of its digits, whoever computes it."""

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
