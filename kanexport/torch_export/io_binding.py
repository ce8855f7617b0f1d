"""Binding between the tensors of a module and one array of rows, which verification and layer search use.

A module may take several tensors, and whole numbers such as ids of tokens; it may give a
tuple, a dictionary or a dataclass of tensors. A tensor [B], one number a row, is [B, 1] to
whoever asks for it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kanexport.lowering.lower import INPUT, OUTPUT
from kanexport.verify.graph_runner import FLOAT, Port

OURS = re.compile(r"layer\d+_in")  # what the graph's further outputs are called
REAL = "ONNX graphs of kanserve have real numbers"


@dataclass(frozen=True, slots=True)
class TensorBinding:
    """The binding of one input of a module.

    port     name, shape and type of the input
    keyword  keyword that the module takes it by; empty: by its place
    lone     whether its shape is [B]
    """

    port: Port
    keyword: str = ""
    lone: bool = False

    def tensor(self, rows: torch.Tensor) -> torch.Tensor:
        """The tensor that the module takes, from rows [B, *shape] of floating-point numbers."""
        if self.port.kind != FLOAT:
            whole = torch.round(torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0))
            rows = whole.to(getattr(torch, self.port.kind))
        return self.own(rows)

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """The tensor in the shape of the module, from [B, *shape]."""
        return rows.reshape(-1) if self.lone else rows


@dataclass(frozen=True, slots=True)
class Wiring:
    """The inputs of a module."""

    plugs: tuple[TensorBinding, ...]

    @property
    def ports(self) -> tuple[Port, ...]:
        return tuple(plug.port for plug in self.plugs)

    def split(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The tensors that the module takes, from its rows as one tensor [B, ...]."""
        if len(self.plugs) == 1:
            return [self.plugs[0].tensor(x)]
        parts = torch.split(x, [port.size for port in self.ports], dim=1)
        return [
            plug.tensor(part.reshape(len(x), *plug.port.shape)) for plug, part in zip(self.plugs, parts, strict=True)
        ]

    def call(self, body: nn.Module, tensors: Sequence[torch.Tensor]) -> Any:
        """The output of the module for its tensors."""
        pairs = list(zip(self.plugs, tensors, strict=True))
        return body(
            *(tensor for plug, tensor in pairs if not plug.keyword),
            **{plug.keyword: tensor for plug, tensor in pairs if plug.keyword},
        )

    def shown(self, x: torch.Tensor) -> str:
        """The shapes of a row, for messages."""
        if len(self.plugs) == 1:
            return f"shape {list(x.shape[1:])}"
        return "shapes " + ", ".join(f"{port.name} {list(port.shape)}" for port in self.ports)


PLAIN = Wiring((TensorBinding(Port(INPUT, ())),))


class Whole(nn.Module):
    """The module as the child of another, so that it can be a KAN layer itself."""

    def __init__(self, body: nn.Module, wiring: Wiring = PLAIN) -> None:
        super().__init__()
        self.body, self.wiring = body, wiring

    def forward(self, x: torch.Tensor) -> Any:
        """The outputs of the module as one tensor [B, ...] of floating-point numbers, for rows as one tensor; unchanged
        if that is not possible."""
        y = self.wiring.call(self.body, self.wiring.split(x))
        leaves = list(tensors(y))
        if not leaves or any(_fault(value, len(x), len(leaves)) for _, value in leaves):
            return y
        parts = [_rowed(value) if value.is_floating_point() else _rowed(value).to(x.dtype) for _, value in leaves]
        return parts[0] if len(parts) == 1 else torch.cat([part.reshape(len(x), -1) for part in parts], dim=1)


def _rowed(value: torch.Tensor) -> torch.Tensor:
    return value[:, None] if value.ndim == 1 else value


def _fault(value: Any, rows: int, count: int) -> str:
    """The fault of an output of `count`, or an empty text."""
    if not isinstance(value, torch.Tensor):
        return f"is {type(value).__name__}, expected a tensor [batch, ...]"
    if value.is_complex():
        return f"is {dtype_name(value)}; {REAL}"
    if value.ndim == 0:
        return f"is {dtype_name(value)} without an axis; the first axis must be the batch"
    if count > 1 and len(value) != rows:
        return f"has {len(value)} rows for {rows}; the first axis must be the batch"
    return ""


def why_not(y: Any, rows: int) -> str:
    """The reason why `Whole` cannot join the outputs of a module."""
    leaves = list(tensors(y))
    for name, value in leaves:
        words = _fault(value, rows, len(leaves))
        if words:
            return f"the output{f' {name!r}' if name else ''} of the module {words}"
    return f"the module returns {type(y).__name__}, expected one or several tensors [batch, ...]"


def tensors(y: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of tuples, lists, dictionaries and dataclasses, by name; None has no leaves."""
    items: list[tuple[str, Any]] = []
    if isinstance(y, Mapping):
        items = [(str(key), value) for key, value in y.items()]
    elif dataclasses.is_dataclass(y) and not isinstance(y, type):
        items = [(field.name, getattr(y, field.name)) for field in dataclasses.fields(y)]
    elif isinstance(y, tuple | list):
        names = getattr(y, "_fields", None) or ([f"{OUTPUT}{at}" for at in range(len(y))] if len(y) > 1 else [""])
        items = list(zip(names, y, strict=False))
    elif y is not None:
        yield name, y
    for key, value in items:
        yield from tensors(value, f"{name}_{key}" if name else key)


def outputs(y: Any, taken: Sequence[str]) -> tuple[Port, ...]:
    """The outputs of a module that returned `y`, each with a free name."""
    leaves = list(tensors(y))
    ports = []
    for name, (_, value) in zip(names([key for key, _ in leaves], taken), leaves, strict=True):
        kind = FLOAT if value.is_floating_point() else dtype_name(value)
        ports.append(Port(name, tuple(_rowed(value).shape[1:]), kind))
    return tuple(ports)


def names(proposed: Sequence[str], taken: Sequence[str]) -> list[str]:
    """A unique name for each output."""
    used, result = list(taken), []
    for proposal in proposed:
        name = re.sub(r"\W", "_", proposal, flags=re.ASCII) or OUTPUT
        while name in used or OURS.fullmatch(name):
            name += "_out"
        used.append(name)
        result.append(name)
    return result


def dtype_name(value: torch.Tensor) -> str:
    """The name of a tensor's type, such as "int64"."""
    return str(value.dtype).removeprefix("torch.")


class Served(nn.Module):
    """A module with only the served tensors as inputs and outputs. It is traced in this form."""

    def __init__(self, body: nn.Module, wiring: Wiring) -> None:
        super().__init__()
        self.body, self.wiring = body, wiring

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs in order."""
        own = [plug.own(tensor) for plug, tensor in zip(self.wiring.plugs, inputs, strict=True)]
        return tuple(_rowed(value) for _, value in tensors(self.wiring.call(self.body, own)))
