"""Layers that no reader knows, whose answers add up source by source: their edges are what they answer where
one source alone is moved.

A layer of n sources is a KAN layer, whatever its functions are, if

    f_j(x) = f_j(b) + sum_i phi_ij(x_i),    phi_ij(x_i) = f_j(b with x_i in place i) - f_j(b)

for a base point b and every x. Where the layer begins with a norm z(x) of its whole row, f is a function of both,
and each source is moved in both: phi_ij = f_j(x_i and z_i in place i) - f_j(b). Nothing is interpolated: phi is the
layer itself on rows that have b in all places but one. It is offered only if the sums hold wherever a reading
would have to; `additive.py` looks for such layers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import InvalidKan
from kanexport.form.ir import EdgeTerm, Kan, Layer
from kanexport.functions.unary import Unary
from kanexport.hybrid.capture import Call, array
from kanexport.hybrid.faults import ForeignError, foreign_code
from kanexport.hybrid.lend import replaced
from kanexport.manifest import NodeStep

if TYPE_CHECKING:
    from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[np.float64]

SAMPLED = "sampled"  # the family, and the kind of function
ROWS, NUMBERS = 4096, 1 << 20  # limits for one chunk: rows that the layer gets, and numbers in them
PRODUCTS, LEAST = 1 << 19, 8  # numbers in one run, one per row, source and destination; rows in it at least
USUAL = 16  # sources of a layer whose edges take as long as a formula's edges


@dataclass(frozen=True, slots=True)
class Within:
    """A norm inside of a layer, which is computed where the layer is."""

    name: str

    mixes = True

    def width_out(self, width_in: int) -> int:
        """As many as before."""
        return width_in

    def evaluate(self, x: Array) -> Array:
        """The sources themselves: the layer sees both."""
        return x

    def emit(self, g: Graph, x: Value) -> Value:
        """Raises InvalidKan."""
        raise InvalidKan("a layer that is known by its answers has no operators of ours")

    def describe(self) -> NodeStep:
        """Its class."""
        return NodeStep(kind="module", function=self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """A layer by its answers. `base`: the point [n] that all sources but one stay at, `constant` [m]: its answer;
    `norms`: what begins it and looks at its whole row, `rests` [n]: their answers at the base."""

    call: Call
    base: Array
    constant: Array
    norms: tuple[nn.Module, ...] = ()
    rests: tuple[Array, ...] = ()

    @classmethod
    def of(cls, call: Call, norms: tuple[nn.Module, ...] = ()) -> Sampled:
        """At zero, or, where the layer has no finite answer there, where it was called. Raises InvalidKan."""
        n = call.x.shape[-1]
        for base in (np.zeros(n), call.x.reshape(-1, n)[0]):
            rests = tuple(_normed(call, norm, base[None])[0] for norm in norms)
            constant = _answer(call, base[None], norms, [rest[None] for rest in rests])[0]
            if np.isfinite(constant).all():
                return cls(call, base, constant, norms, rests)
        raise InvalidKan("gives nothing finite to begin from")

    def edges(self, x: Array, times: float = 1.0) -> Array:
        """[N, n] -> [N, n, m], in pieces; while the module is lent. `times`: of the way from the base."""
        n = len(self.base)
        each = max(1, min(ROWS // n, NUMBERS // n**2))
        pieces = [self._edges(x[at : at + each], times) for at in range(0, len(x), each)]
        return np.concatenate([np.zeros((0, n, len(self.constant))), *pieces])

    def _edges(self, x: Array, times: float) -> Array:
        n = len(self.base)
        seen = [(x, self.base), *((_normed(self.call, norm, x), rest) for norm, rest in self._normed())]
        with np.errstate(invalid="ignore"):
            moved = [_alone(rest + times * (values - rest) if times != 1 else values, rest) for values, rest in seen]
            each = max(LEAST, PRODUCTS // (n * len(self.constant)))
            answers = [
                _answer(self.call, part[0], self.norms, part[1:])
                for part in ([rows[at : at + each] for rows in moved] for at in range(0, len(moved[0]), each))
            ]
            return np.asarray(np.concatenate(answers).reshape(len(x), n, -1) - self.constant)

    def _normed(self) -> Iterator[tuple[nn.Module, Array]]:
        return zip(self.norms, self.rests, strict=True)

    def kan(self) -> Kan:
        """As a network of one layer."""
        shape = (len(self.base), len(self.constant))
        seen = np.abs(self.call.x[np.isfinite(self.call.x)]).max(initial=1.0)
        rate = 2.0 ** -np.ceil(np.log2(seen))  # a power of two, so that nothing is rounded

        def evaluate(inner: Array) -> Array:
            return self.edges(inner[:, :, 0, 0] / rate)[..., None]

        edge, one = np.ones((*shape, 1)), np.ones(shape)
        before = tuple(Within(type(norm).__name__) for norm in self.norms)
        term = EdgeTerm(
            Unary(SAMPLED, evaluate, _emit, effort=-(-shape[0] // USUAL)), 0 * edge, rate * edge, edge, before
        )
        return Kan(shape[0], (Layer((term,), one, self.constant, np.zeros(shape, dtype=bool)),))


def _emit(g: Graph, x: Value) -> Value:
    raise InvalidKan("a layer that is known by its answers has no operators of ours")


def _alone(x: Array, base: Array) -> Array:
    """[N, n] -> [N * n, n]: each source by itself, the others at the base."""
    return np.where(np.eye(len(base), dtype=bool), x[:, :, None], base).reshape(-1, len(base))


def _shaped(call: Call, rows: Array) -> Array:
    return rows.reshape(len(rows), *[1] * (call.x.ndim - 2), rows.shape[1])


def _answer(call: Call, rows: Array, norms: Sequence[nn.Module] = (), seen: Sequence[Array] = ()) -> Array:
    """The layer's answers [N, m] to rows [N, n], its norms giving `seen`. Raises InvalidKan where it does not take
    them."""
    given = [torch.from_numpy(values) for values in seen]
    with injected([(norm, functools.partial(same, values)) for norm, values in zip(norms, given, strict=True)]):
        again = call.again(_shaped(call, rows))
    if again is None or again.y.size % len(rows):
        raise InvalidKan("does not take rows by themselves")
    return again.y.reshape(len(rows), -1)


def _normed(call: Call, norm: nn.Module, rows: Array) -> Array:
    """What a norm gives for rows [N, n]. Raises InvalidKan."""
    kind = next((value.dtype for value in call.args if isinstance(value, torch.Tensor)), torch.float64)
    try:
        with foreign_code(), torch.no_grad():
            return array(norm(torch.from_numpy(_shaped(call, rows)).to(kind))).reshape(rows.shape)
    except ForeignError as foreign:
        raise InvalidKan("does not take rows by themselves") from foreign.error


def same(value: torch.Tensor) -> torch.Tensor:
    """The value itself, for `injected`."""
    return value


@contextlib.contextmanager
def injected(values: Sequence[tuple[nn.Module, Callable[[], torch.Tensor]]], *, shape: bool = False) -> Iterator[None]:
    """Inside: modules that give these values, in the shape that they are asked in, or in `shape`, their own."""

    def forward(value: Callable[[], torch.Tensor]) -> Callable[..., Any]:
        return lambda _, x, *args, **kwargs: (value() if shape else value().reshape(x.shape)).to(x.dtype)

    with replaced([(module, forward(value)) for module, value in values]):
        yield
