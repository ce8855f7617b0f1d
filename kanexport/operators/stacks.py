"""Rows of one shape [B, I] that are worked on alike, in one of two layouts.

Packed, they are one tensor [B, n, I]: few operators, each over much. Apart, they are n tensors [B, I]: each stays in
a core's cache from one operator to the next, and none is copied for being looked at in part. The same operators meet
the same numbers in the same order, so both give the same bits; which is faster says `lowering/cost.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """`rows` tensors [B, I]; `values`: them, or the one that holds them. One row goes with any number."""

    g: Graph
    values: tuple[Value, ...]
    rows: int
    packed: bool

    def part(self, start: int, stop: int) -> Stack:
        """As values[start:stop]."""
        if not self.packed:
            return Stack(self.g, self.values[start:stop], stop - start, packed=False)
        return Stack(self.g, (self.g.slice(self.values[0], start, stop, axis=1),), stop - start, packed=True)

    def joined(self, sources: int) -> Value:
        """[B, n, I]"""
        if self.packed:
            return self.values[0]
        return self.g.reshape(self.g.op("Concat", *self.values, axis=1), 0, self.rows, sources)

    def each(self, make: Callable[..., Value], *others: Stack | Array) -> Stack:
        """What `make` gives for every row of this stack, of other stacks and of constants [n, I], of numbers or
        booleans."""
        rows = max(self.rows, *(one.rows if isinstance(one, Stack) else len(one) for one in others), 1)
        made = tuple(
            make(*(self._operand(one, at) for one in (self, *others))) for at in range(1 if self.packed else rows)
        )
        return Stack(self.g, made, rows, self.packed)

    def _operand(self, one: Stack | Array, at: int) -> Value:
        """A stack's tensor, or a constant, of row `at`; packed, of all rows."""
        if isinstance(one, Stack):
            return one.values[at if len(one.values) > 1 else 0]
        constant = one[None] if self.packed else one[at : at + 1]
        return self.g.truth(constant) if constant.dtype == np.bool_ else self.g.const(constant)
