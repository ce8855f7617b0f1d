"""Convolutional layers as KAN libraries publish them, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Bells(nn.Module):
    """As KAN convolutions are published: the sum of a convolution of silu(x) and one of a basis, group by group,
    then a normalisation over the picture and an activation. The basis is not zero at zero."""

    def __init__(self, n: int, m: int, axes: int = 2, groups: int = 1, **settings: Any) -> None:
        super().__init__()
        self.n, self.groups, self.kinds = n, groups, 4
        shape = (n // groups, m // groups)
        convolve = CONVOLUTIONS[axes]
        self.base_conv = nn.ModuleList(convolve(*shape, 3, bias=False, **settings) for _ in range(groups))
        self.spline_conv = nn.ModuleList(
            convolve(shape[0] * self.kinds, shape[1], 3, bias=False, **settings) for _ in range(groups)
        )
        self.norms = nn.ModuleList(NORMS[axes](shape[1]) for _ in range(groups))
        self.prelus = nn.ModuleList(nn.PReLU() for _ in range(groups))
        self.register_buffer("centres", torch.linspace(-1.2, 1, self.kinds))
        self.sums: list[Any] = []

    def basis(self, x: Any) -> Any:
        """[B, C, ...] -> [B, C * K, ...], or another order."""
        return torch.exp(-((x.unsqueeze(-1) - self.centres) ** 2)).moveaxis(-1, 2).flatten(1, 2)

    def group(self, x: Any, at: int) -> Any:
        total = self.base_conv[at](functional.silu(x)) + self.spline_conv[at](self.basis(x))
        self.sums.append(total)
        return self.prelus[at](self.norms[at](total))

    def forward(self, x: Any) -> Any:
        self.sums.clear()
        parts = torch.split(x, self.n // self.groups, dim=1)
        return torch.cat([self.group(part, at) for at, part in enumerate(parts)], dim=1)
