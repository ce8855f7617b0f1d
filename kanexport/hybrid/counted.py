"""Modules that torch.export follows for one number of rows only, as where torch.vmap maps over the rows.

Written down operator by operator for a number of rows that is no other size in the module, every
multiple of it among the operators' arguments stands for the rows, and is made free again. Whether
that was so is proved like everything else, with batches of other sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from kanexport.hybrid.derivatives import Plain
from kanexport.hybrid.rewrites import Rewritten


def written_down(module: nn.Module, given: tuple[torch.Tensor, ...]) -> nn.Module:
    """A lent module as its operators, for inputs of any number of rows."""

    def forward(*tensors: torch.Tensor) -> object:
        return module(*tensors)

    with Rewritten():
        operators = make_fx(forward, tracing_mode="real")(*given)
    _free(operators.graph, len(given[0]))
    operators.recompile()
    return Plain(operators)


def _free(graph: fx.Graph, rows: int) -> None:
    """Put the number of rows that the first input has in the place of multiples of `rows`."""
    first = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(first):
        count = graph.call_function(torch.ops.aten.sym_size.int, (first, 0))

    def freed(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return type(argument)(freed(one) for one in argument)
        if type(argument) is not int or argument <= 0 or argument % rows:
            return argument
        if argument == rows:
            return count
        with graph.inserting_after(count):
            return graph.call_function(_times, (count, argument // rows))

    for node in list(graph.nodes):
        if node.op == "call_function" and node is not count and node.target is not torch.ops.kanexport.layer.default:
            node.args = tuple(freed(argument) for argument in node.args)
            node.kwargs = {name: freed(argument) for name, argument in node.kwargs.items()}


def _times(count: Any, factor: int) -> Any:
    return count * factor
