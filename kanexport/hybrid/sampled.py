"""Layers that no reader knows, whose answers add up source by source: their edges are what they answer where
one source alone is moved.

A layer of n sources is a KAN layer, whatever its functions are, if

    f_j(x) = f_j(b) + sum_i phi_ij(x_i),    phi_ij(x_i) = f_j(b with x_i in place i) - f_j(b)

for a base point b and every x. Nothing is interpolated: phi is the layer itself on rows that have b in all
places but one. It is offered only if the sums hold wherever a reading would have to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.form.ir import EdgeTerm, Kan, Layer
from kanexport.functions.unary import Unary
from kanexport.hybrid import forms
from kanexport.hybrid.capture import Call
from kanexport.hybrid.judge import Reading, Verdict, holds

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]

SAMPLED = "sampled"  # the family, and the kind of function
MOST_SOURCES = 512  # each row becomes as many
ROWS = 4096  # given to the layer at a time


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """A layer by its answers. `base`: the point [n] that all sources but one stay at, `constant` [m]: its answer."""

    call: Call
    base: Array
    constant: Array

    @classmethod
    def of(cls, call: Call) -> Sampled:
        """At zero, or, where the layer has no finite answer there, where it was called. Raises InvalidKan."""
        n = call.x.shape[-1]
        for base in (np.zeros(n), call.x.reshape(-1, n)[0]):
            constant = _answer(call, base[None])[0]
            if np.isfinite(constant).all():
                return cls(call, base, constant)
        raise InvalidKan("gives nothing finite to begin from")

    def edges(self, x: Array) -> Array:
        """[N, n] -> [N, n, m], in pieces; while the module is lent."""
        n = len(self.base)
        each = max(1, ROWS // n)
        pieces = [self._edges(x[at : at + each]) for at in range(0, len(x), each)]
        return np.concatenate([np.zeros((0, n, len(self.constant))), *pieces])

    def _edges(self, x: Array) -> Array:
        n = len(self.base)
        rows = np.where(np.eye(n, dtype=bool), x[:, :, None], self.base)
        with np.errstate(invalid="ignore"):
            return np.asarray(_answer(self.call, rows.reshape(-1, n)).reshape(len(x), n, -1) - self.constant)

    def kan(self) -> Kan:
        """As a network of one layer."""
        shape = (len(self.base), len(self.constant))
        seen = np.abs(self.call.x[np.isfinite(self.call.x)]).max(initial=1.0)
        rate = 2.0 ** -np.ceil(np.log2(seen))  # a power of two, so that nothing is rounded

        def evaluate(inner: Array) -> Array:
            return self.edges(inner[:, :, 0, 0] / rate)[..., None]

        edge, one = np.ones((*shape, 1)), np.ones(shape)
        term = EdgeTerm(Unary(SAMPLED, evaluate, _emit), 0 * edge, rate * edge, edge)
        return Kan(shape[0], (Layer((term,), one, self.constant, np.zeros(shape, dtype=bool)),))


def _emit(g: Graph, x: Value) -> Value:
    raise InvalidKan("a layer that is known by its answers has no operators of ours")


def _answer(call: Call, rows: Array) -> Array:
    """The layer's answers [N, m] to rows [N, n]. Raises InvalidKan where it does not take them."""
    n = rows.shape[1]
    again = call.again(rows.reshape(len(rows), *[1] * (call.x.ndim - 2), n))
    if again is None or again.y.size % len(rows):
        raise InvalidKan("does not take rows by themselves")
    return again.y.reshape(len(rows), -1)


def unknown(whole: nn.Module, readings: Mapping[str, Reading]) -> dict[str, nn.Module]:
    """By name, the submodules that were not read and have coefficients of their own in three axes or more, as
    basis functions have; outermost first. torch's own layers are none of them."""
    found: dict[str, nn.Module] = {}
    for name, part in whole.named_modules():
        inside = any(name == other or name.startswith(f"{other}.") for other in readings)
        own = any(parameter.ndim >= 3 for parameter in part.parameters(recurse=False))
        if own and not inside and not type(part).__module__.startswith("torch."):
            found[name] = part
    return found


def offer(
    parts: Mapping[str, nn.Module],
    calls: Mapping[str, Sequence[Call]],
    far: Mapping[str, Sequence[Call]],
    precision: str,
) -> tuple[dict[str, Reading], dict[str, Verdict]]:
    """The submodules whose answers add up, as readings, and what became of those that may have had edges."""
    readings: dict[str, Reading] = {}
    refused: dict[str, Verdict] = {}
    for name in parts:
        if any(name.startswith(f"{other}.") for other in readings) or not _may_add(parts[name], calls.get(name, ())):
            continue
        verdict = _judged(calls[name], far.get(name, ()), precision)
        if verdict.reading is not None:
            readings[name] = verdict.reading
        else:
            refused[name] = verdict
    return readings, refused


def _judged(calls: Sequence[Call], far: Sequence[Call], precision: str) -> Verdict:
    try:
        sampled = Sampled.of(calls[0])
        return holds(Reading(SAMPLED, sampled.kan(), "", sampled), calls, far, precision)
    except InvalidKan as refused:
        return Verdict(why=refused.message)


def _may_add(part: nn.Module, calls: Sequence[Call]) -> bool:
    """Whether n and m are among the axes of its coefficients, in some order, with at least one more."""
    if not calls or calls[0].x.ndim < 2 or calls[0].y.ndim < 2:
        return False
    n, m = calls[0].x.shape[-1], calls[0].y.shape[-1]
    try:
        forms.form(calls[0], n, m)
    except InvalidKan:
        return False
    axes = [list(parameter.shape) for parameter in part.parameters(recurse=False) if parameter.ndim >= 3]
    return n <= MOST_SOURCES and any(_has(shape, n, m) for shape in axes)


def _has(shape: list[int], n: int, m: int) -> bool:
    rest = list(shape)
    for size in (n, m):
        if size not in rest:
            return False
        rest.remove(size)
    return True
