"""The edge graph of a layer that is known by its outputs: torch.onnx makes it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.hybrid import splice, trace
from kanexport.hybrid.sampled import Sampled, injected, same
from kanexport.lowering.edges import EDGES
from kanexport.proof.ports import Port, Ports


class _Alone(nn.Module):
    """The layer on vectors [N, n], called as its module calls it."""

    def __init__(self, sampled: Sampled, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.call = sampled.call.module, sampled.call
        self.axes, self.width = sampled.call.x.ndim - 2, len(sampled.constant)
        self.kind = dtype

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        (x,) = given
        args, kwargs = self.call.arguments(x.reshape(-1, *[1] * self.axes, x.shape[-1]))
        plain = [self._cast(value) for value in args]
        y = self.call.answer(self.layer(*plain, **{name: self._cast(value) for name, value in kwargs.items()}))
        answer: torch.Tensor = y.reshape(-1, self.width)
        return answer

    def _cast(self, value: object) -> object:
        return value.to(self.kind) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


class _Apart(nn.Module):
    """The edges [N, n, m] of vectors [N, n]: each source moved alone."""

    def __init__(self, sampled: Sampled, dtype: torch.dtype) -> None:
        super().__init__()
        self.alone = _Alone(sampled, dtype)
        self.shape = (len(sampled.base), len(sampled.constant))
        self.base = nn.Buffer(torch.from_numpy(sampled.base).to(dtype))
        self.constant = nn.Buffer(torch.from_numpy(sampled.constant).to(dtype))
        self.own = nn.Buffer(torch.eye(len(sampled.base), dtype=torch.bool))
        self.norms, self.rests = sampled.norms, [torch.from_numpy(rest).to(dtype) for rest in sampled.rests]

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        (x,) = given
        rows, *seen = (
            torch.where(self.own, values[:, :, None], rest).reshape(-1, self.shape[0])
            for values, rest in zip((x, *self._normed(x)), (self.base, *self.rests), strict=True)
        )
        with injected([(norm, functools.partial(same, z)) for norm, z in zip(self.norms, seen, strict=True)]):
            edges: torch.Tensor = self.alone(rows).reshape(-1, *self.shape) - self.constant
        return edges

    def _normed(self, x: torch.Tensor) -> list[torch.Tensor]:
        shaped = x.reshape(-1, *[1] * self.alone.axes, x.shape[-1])
        return [norm(shaped).reshape(x.shape) for norm in self.norms]


def edges(sampled: Sampled, name: str, dtype: str, most: int) -> bytes:
    """The graph of its edges, from `name` [N, n] to EDGES [N, n, m]. The module must be lent in that type. Raises
    InvalidKan."""
    n, m = len(sampled.base), len(sampled.constant)
    return graph_of(_Apart(sampled, getattr(torch, dtype)), n, Port(name, (n,)), Port(EDGES, (n, m)), dtype, most)


def graph_of(module: nn.Module, n: int, given: Port, wanted: Port, dtype: str, most: int) -> bytes:
    """A module's own graph, from vectors `given` [N, n] to `wanted`; while it is lent. Raises InvalidKan."""
    rows = np.random.default_rng(0).normal(size=(3, n)).astype(dtype)
    traced = next(trace.traces(module, [rows], [], getattr(torch, dtype), most=most, derives=False))
    if traced.sizes and not traced.written:  # the whole graph is tried with those
        raise InvalidKan("a layer that is known by its answers goes another way for some batches")
    return splice.splice(traced.model, [], Ports((given,), (wanted,)))
