"""Modules that take derivatives in their forward, as those of energies and differential equations do.

torch.export does not follow torch.autograd. Written down operator by operator, the operators
of a derivative are there like any others, and it follows that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

NO_GRAPH = ("does not require grad", "not have been used in the graph")  # torch's words for what no_grad hides
# Numbers of rows, of which one is no other size in a module: sizes that are equal are taken for the same.
ROWS = (31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79)


@contextlib.contextmanager
def watched() -> Iterator[list[None]]:
    """Inside: one entry for each derivative that is taken."""
    taken: list[None] = []
    autograd: Any = torch.autograd
    engine = autograd._engine_run_backward  # what grad, backward and torch.func come to

    def run(*args: Any, **kwargs: Any) -> Any:
        taken.append(None)
        return engine(*args, **kwargs)

    autograd._engine_run_backward = run
    try:
        yield taken
    finally:
        autograd._engine_run_backward = engine


def hidden(tensor: torch.Tensor) -> bool:
    """Whether torch.func hides a tensor's values, because it derives by it or maps over it."""
    functorch: Any = torch._C._functorch
    return bool(functorch.is_functorch_wrapped_tensor(tensor))


def rows(module: nn.Module, given: tuple[torch.Tensor, ...]) -> int:
    """How many rows to write a module down with."""
    tensors = [*given, *module.parameters(), *module.buffers()]
    sizes = {size for tensor in tensors for size in tensor.shape}
    return next((count for count in ROWS if count not in sizes), ROWS[-1])


def ready(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor by which a derivative can be taken."""
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def written_down(module: nn.Module, given: tuple[torch.Tensor, ...]) -> nn.Module:
    """A lent module as its operators, without a forward's Python, for inputs of any number of rows."""

    def forward(*tensors: torch.Tensor) -> object:
        with torch.enable_grad():
            return module(*map(ready, tensors))

    operators: nn.Module = make_fx(forward, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*given)
    return Plain(operators)


class Plain(nn.Module):
    """Takes its inputs as a module that is traced does."""

    def __init__(self, operators: nn.Module) -> None:
        super().__init__()
        self.operators = operators

    def forward(self, *given: torch.Tensor) -> object:
        return self.operators(*given)
