"""Torch modules with KAN layers as users write them, with the libraries' tensor names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Composed(nn.Module):
    """Parts by name, and a function of the module and its rows."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *rows: torch.Tensor) -> Any:
        return self.function(self, *rows)


class KANLinear(nn.Module):
    """The tensors and the function of efficient-kan's layer."""

    def __init__(self, n: int, m: int, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        step, self.degree = (high - low) / 5, 3
        self.register_buffer("grid", (torch.arange(-3, 9) * step + low).repeat(n, 1))
        self.base_weight = nn.Parameter(torch.randn(m, n) * 0.3)
        self.spline_weight = nn.Parameter(torch.randn(m, n, 8) * 0.3)
        self.spline_scaler = nn.Parameter(torch.rand(m, n) + 0.5)
        self.base_activation = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead, flat = x.shape[:-1], x.reshape(-1, x.shape[-1])
        u, t = flat[:, :, None], self.grid
        b = ((u >= t[:, :-1]) & (u < t[:, 1:])).to(x.dtype)
        for p in range(1, self.degree + 1):
            left = (u - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1]) * b[:, :, :-1]
            b = left + (t[:, p + 1 :] - u) / (t[:, p + 1 :] - t[:, 1:-p]) * b[:, :, 1:]
        spline = torch.einsum("bik,oik->bo", b, self.spline_weight * self.spline_scaler[:, :, None])
        y = self.base_activation(flat) @ self.base_weight.T + spline
        return y.reshape(*lead, -1)


class Centres(nn.Module):
    """The tensors of FastKAN's basis."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.linspace(-2, 2, count), requires_grad=False)
        self.denominator = 4 / (count - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(((x[..., None] - self.grid) / self.denominator) ** 2))


class FastKANLayer(nn.Module):
    """The tensors and the function of FastKAN's layer."""

    def __init__(self, n: int, m: int, count: int = 6) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(n)
        self.rbf = Centres(count)
        self.spline_linear = nn.Linear(n * count, m, bias=False)
        self.base_linear = nn.Linear(n, m)
        self.base_activation = nn.functional.silu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        basis = self.rbf(self.layernorm(x))
        return self.spline_linear(basis.flatten(-2)) + self.base_linear(self.base_activation(x))


class Stack(nn.Module):
    """Layers one after another under the key `layers`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class GoldenCnn(nn.Module):
    """The module of the golden case hybrid-cnn-efficient-kan."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = Stack(KANLinear(96, 12, -1, 3), KANLinear(12, 10, -1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.max_pool2d(torch.relu(self.bn(self.conv(x))), 2).flatten(1))


class GoldenTransformer(nn.Module):
    """The module of the golden case hybrid-transformer-fastkan."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pos = nn.Linear(8, 16), nn.Parameter(torch.zeros(8, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
        self.ffn = Stack(FastKANLayer(16, 24), FastKANLayer(24, 16))
        self.out = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) + self.pos
        h = self.norm1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        x = x + self.ffn(self.norm2(x))
        return self.out(x.mean(1))


class KanConvolution(nn.Module):
    """A KAN layer per pair of channels over unfolded patches, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([KANLinear(9, 1) for _ in range(2 * 3)])
        self.fc = nn.Linear(3 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = nn.functional.unfold(x, 3).transpose(1, 2).reshape(len(x), -1, 2, 9)
        channels = [
            sum(self.convs[2 * out + c](patches[:, :, c].reshape(-1, 9)) for c in range(2)).reshape(len(x), 16)
            for out in range(3)
        ]
        return self.fc(torch.cat(channels, dim=1))


class SharedAndTurned(nn.Module):
    """One layer run twice, on sequences whose batch axis comes second."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = KANLinear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = x.transpose(0, 1)
        return self.mix(torch.tanh(self.mix(turned))).transpose(0, 1)


class Impostor(KANLinear):
    """A KAN layer's tensors, another function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0.1 * x[..., :1] * x[..., -1:]


class Batchwise(nn.Module):
    """A row's output depends on the other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.kan = KANLinear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.kan((x - x.min()) / (x.max() - x.min() + 1e-6))


class TwoInputs(nn.Module):
    """Takes more than a served model has."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def golden_cnn() -> nn.Module:
    """A factory, as the command line takes it."""
    return GoldenCnn()


class Bumps(nn.Module):
    """A basis that is in no library: sin(k x) / (1 + x^2) and a line, with coefficients [n, m, K]."""

    def __init__(self, n: int, m: int, kinds: int = 3) -> None:
        super().__init__()
        self.bump_coeffs = nn.Parameter(torch.randn(n, m, kinds))
        self.shift = nn.Parameter(torch.randn(m))

    def basis(self, x: Any) -> Any:
        k = torch.arange(1, self.bump_coeffs.shape[2])
        return torch.cat([torch.sin(k * x[..., None]) / (1 + x[..., None] ** 2), x[..., None]], -1)

    def forward(self, x: Any) -> Any:
        return torch.einsum("...ik,iok->...o", self.basis(x), self.bump_coeffs) + self.shift


class Waves(nn.Module):
    """A weight [m, n] for each edge and no more: sum of sin(w x)."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.randn(m, n))

    def forward(self, x: Any) -> Any:
        return torch.sin(x[..., None, :] * self.rates).sum(-1)


class Around(nn.Module):
    """Hands its row on."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.out = inner, nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.out(self.inner(x))
