"""Convolutional layers as KAN libraries publish them, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kanexport.torch_export import plan as planning
from kanexport.torch_export.borrowed_module import lent
from kanexport.torch_export.capture import ReferenceModule
from kanexport.torch_export.kan_candidates import Whole
from kanexport.verify import float64_reference

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


def planned(module: Any, x: np.ndarray) -> tuple[Any, Any]:
    torch.manual_seed(0)
    whole = Whole(module.eval())
    oracle = ReferenceModule.of(whole, x)
    with lent(whole, oracle.dtype):
        return whole, planning.make(whole, oracle, x, {})


def rows(*shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=scale, size=(5, *shape)).astype(np.float32).astype(np.float64)


def sums(module: Any, x: np.ndarray) -> np.ndarray:
    """Return the sums that the module computes [B, *positions, m]."""
    with torch.no_grad():
        module.double()(torch.from_numpy(x))
    return np.moveaxis(torch.cat(module.sums, dim=1).numpy(), 1, -1)


def edge_sums(whole: Any, plan: Any, x: np.ndarray) -> np.ndarray:
    """Return the edge sums of all layers, concatenated in layer order."""
    result = []
    with lent(whole, plan.oracle.dtype):
        for layer, vectors in zip(plan.layers, plan.evaluate(x).inputs, strict=True):
            pieces = [edges for _, edges, _ in float64_reference.edges(layer, vectors.reshape(-1, vectors.shape[-1]))]
            total = np.concatenate(pieces).sum(axis=1) + layer.bias
            result.append(total.reshape(*vectors.shape[:-1], -1))
    return np.concatenate(result, axis=-1)


class Begun(Bells):
    """Functions of the input after InstanceNorm2d, and a base branch of the input itself."""

    def __init__(self, n: int, m: int, **settings: Any) -> None:
        super().__init__(n, m, **settings)
        self.begin = nn.InstanceNorm2d(n, affine=True)

    def basis(self, x: Any) -> Any:
        return super().basis(self.begin(x))


class Powers(Bells):
    """Powers from 1 on, all channels of one power together: a constant function, which padding makes zero too."""

    def basis(self, x: Any) -> Any:
        return torch.stack([x**power for power in range(self.kinds)], dim=-1).movedim(-1, 1).flatten(1, 2)
