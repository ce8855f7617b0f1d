"""Torch modules with several input or output tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tests.support.torch_modules import FastKANLayer, KANLinear


@dataclass
class Answer:
    """As models of text give it."""

    logits: torch.Tensor
    hidden: torch.Tensor
    best: torch.Tensor
    loss: torch.Tensor | None = None


class Reader(nn.Module):
    """Ids of tokens, a mask and numbers of each row; a dataclass of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.mix, self.head = FastKANLayer(4, 4), KANLinear(7, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, x: torch.Tensor) -> Answer:
        seen = self.mix(self.embed(tokens)) * mask[..., None]
        hidden = torch.cat([seen.mean(1), x], -1)
        logits = self.head(hidden)
        return Answer(logits, hidden * 1000, logits.argmax(-1))


class Tokens(nn.Module):
    """A module whose only input has the ids of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 4), KANLinear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids).mean(1))


class Steps(nn.Module):
    """A picture and one number a row, as diffusion has it; a dictionary with a name of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = KANLinear(4, 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> dict[str, object]:
        y = self.layer(x) * torch.sin(t)[:, None]
        return {"x": y, "parts": (y.sum(-1), x)}


class Regular(nn.Module):
    """A layer that returns its output with a penalty and the activations behind it."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.coef = nn.Parameter(torch.randn(m, n, 5) * 0.3)
        self.centres = nn.Buffer(torch.linspace(-1, 1, 5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        basis = torch.exp(-(((x[..., None] - self.centres) / 0.5) ** 2))
        each = torch.einsum("...ik,oik->...oi", basis, self.coef)
        return self.coef.abs().mean(), each.sum(-1), each


class Regularised(nn.Module):
    """A module of two such layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Regular(4, 6), Regular(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, hidden, _ = self.first(x)
        return self.second(hidden)[1]


class Switched(nn.Module):
    """A convolution of Chebyshev polynomials with a branch on its own buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squash = nn.Conv2d(4, 3, 3, bias=False), nn.Buffer(torch.tensor(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.squash > 0:
            x = torch.tanh(x)
        return self.conv(torch.cat([torch.ones_like(x), x, 2 * x**2 - 1, 4 * x**3 - 3 * x], 1))
