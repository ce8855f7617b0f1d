"""Modules that take derivatives in their forward, as those of energies and differential equations do.

torch.export does not follow torch.autograd. Written down operator by operator, the operators
of a derivative are there like any others, and it follows that.
"""

from __future__ import annotations

import contextlib
import operator
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from kanexport.hybrid.rewrites import Rewritten

NO_GRAPH = ("does not require grad", "not have been used in the graph")  # torch's words for what no_grad hides
# Numbers of rows, of which one divides no other size in a module: multiples of it are taken for the rows.
ROWS = (31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79)
# Operators that are given shapes.
SHAPED = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("view", "_unsafe_view", "expand", "reshape", "new_zeros", "repeat")
)


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
    return next((count for count in ROWS if all(size % count or not size for size in sizes)), ROWS[-1])


def ready(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor by which a derivative can be taken."""
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def in_functorch(failure: BaseException) -> bool:
    """Whether torch.func's vmap or a derivative of its was being followed when something failed."""
    seen: BaseException | None = failure
    while seen is not None:
        frames = (frame.filename for frame in traceback.extract_tb(seen.__traceback__))
        if "functorch transform" in str(seen) or any("_functorch" in name for name in frames):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def written_down(module: nn.Module, given: tuple[torch.Tensor, ...]) -> nn.Module:
    """A lent module as its operators, without a forward's Python, for inputs of any number of rows, of which there
    are as many as `rows` says: torch.func's vmap writes that number down in places."""

    def forward(*tensors: torch.Tensor) -> object:
        with torch.enable_grad():
            return module(*map(ready, tensors))

    with Rewritten():
        operators = make_fx(forward, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*given)
    _set_free(operators, len(given[0]))
    return _Plain(operators)


def _set_free(operators: GraphModule, count: int) -> None:
    """The number of rows, and multiples of it, that stand in a graph as numbers become those of its input."""
    graph = operators.graph
    first = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(first):
        size = graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
    times: dict[int, Node] = {1: size}

    def free(value: Any) -> Any:
        factor, rest = divmod(value, count) if type(value) is int else (0, 1)
        if rest or not factor:
            return value
        if factor not in times:
            with graph.inserting_after(size):
                times[factor] = graph.call_function(operator.mul, (size, factor))
        return times[factor]

    for node in list(graph.nodes):
        if node.target in SHAPED:
            node.args = tree_map(free, node.args)
    graph.eliminate_dead_code()
    operators.recompile()


class _Plain(nn.Module):
    """Takes its inputs as a module that is traced does."""

    def __init__(self, operators: nn.Module) -> None:
        super().__init__()
        self.operators = operators

    def forward(self, *given: torch.Tensor) -> object:
        return self.operators(*given)
