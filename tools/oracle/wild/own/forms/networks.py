"""Networks with KAN layers in the forms that public code has, in words of this project."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from layers import *  # noqa: F403 - the expressions of `wild.toml` name layers, too
from layers import Fourier, Radial, Spline
from torch import Tensor, nn
from torch.nn import functional


class Of(nn.Module):
    """A function of inner modules and the rows."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(self, *x)


class Shared(nn.Module):
    """Coefficients and a bias of the network itself, next to other layers."""

    def __init__(self, n: int, m: int, degree: int = 3) -> None:
        super().__init__()
        self.norm, self.head, self.degree = nn.LayerNorm(n), nn.Linear(m, 2), degree
        self.coeffs, self.bias = nn.Parameter(torch.randn(n, m, degree + 1) / n), nn.Parameter(torch.randn(m))

    def forward(self, x: Tensor) -> Tensor:
        powers = torch.tanh(self.norm(x)).unsqueeze(-1) ** torch.arange(self.degree + 1)
        return self.head(torch.einsum("bid,iod->bo", powers, self.coeffs) + self.bias)


class Recurrent(nn.Module):
    """A cell of two gates with KAN layers, over the steps of a sequence."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.m, self.gates, self.fresh, self.head = m, Spline(n + m, 2 * m), Radial(n + m, m), nn.Linear(m, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.m)
        for step in range(x.shape[1]):
            z, r = torch.sigmoid(self.gates(torch.cat([x[:, step], h], 1))).chunk(2, 1)
            h = (1 - z) * h + z * torch.tanh(self.fresh(torch.cat([x[:, step], r * h], 1)))
        return self.head(h)


class Block(nn.Module):
    """A transformer block with KAN layers in place of the feed-forward part."""

    def __init__(self, width: int, heads: int = 2, layer: Callable[..., nn.Module] = Radial) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.kan = nn.Sequential(layer(width, 2 * width), layer(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.kan(self.ln2(x))


class Mixer(nn.Module):
    """KAN layers over tokens, then over channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens, self.channels = Spline(tokens, tokens), Spline(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.ln1(x).transpose(1, 2)).transpose(1, 2)
        return (x + self.channels(self.ln2(x))).mean(1)


class Graph(nn.Module):
    """Two rounds of messages over a fixed graph, normalised by the degrees, with KAN layers for the nodes."""

    def __init__(self, nodes: int, n: int, m: int) -> None:
        super().__init__()
        ring = torch.eye(nodes) + torch.eye(nodes).roll(1, 0) + torch.eye(nodes).roll(-1, 0)
        self.register_buffer("adjacency", ring / (ring.sum(1, keepdim=True) + 1e-9))
        self.first, self.second, self.out = Fourier(n, m, 2), Spline(m, m), nn.Linear(m, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.adjacency @ self.first(x)
        return self.out((self.adjacency @ self.second(torch.tanh(x))).mean(1))


class Depthwise(nn.Module):
    """A depthwise convolution of tokens, BatchNorm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor, side: int) -> Tensor:
        picture = x.transpose(1, 2).reshape(x.shape[0], -1, side, side)
        return torch.relu(self.bn(self.conv(picture))).flatten(2).transpose(1, 2)


class Tokenised(nn.Module):
    """KAN layers on the pixels of a picture, each with a depthwise convolution after it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), Spline(width, width), Spline(width, width)
        self.dw1, self.dw2 = Depthwise(width), Depthwise(width)

    def forward(self, picture: Tensor) -> Tensor:
        side = picture.shape[-1]
        x = picture.flatten(2).transpose(1, 2)
        y = self.norm(x)
        for fc, dw in ((self.fc1, self.dw1), (self.fc2, self.dw2)):
            y = dw(fc(y.reshape(-1, y.shape[-1])).reshape(y.shape), side)
        return (x + y).transpose(1, 2).reshape(picture.shape)


class UNet(nn.Module):
    """Two scales with a skip between them; the lower one has KAN layers, and the upper one if `everywhere`."""

    def __init__(self, width: int = 4, *, everywhere: bool = False) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.upper = Tokenised(width) if everywhere else nn.Identity()
        self.down, self.lower = nn.Conv2d(width, 2 * width, 3, 2, 1), Tokenised(2 * width)
        self.up, self.last = nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.upper(self.enter(x))
        y = functional.interpolate(self.up(self.lower(self.down(skip))), scale_factor=2, mode="bilinear")
        return self.last(torch.relu(y) + skip)
