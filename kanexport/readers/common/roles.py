"""Roles of the tensors of a layer by their shapes, for layers with names that do not identify a library.

A layer of n sources and m destinations with K functions per edge has coefficients of these three axes in some order.
It may also have points (centres or knots), widths, a base weight and a bias. Every assignment that fits all layers of
a file is a candidate. Names only decide which candidate comes first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.readers.common import module_kinds
from kanexport.readers.common.layer_tensors import Tensors, modules_of, natural

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # shapes of one layer's tensors, by name

LEVELS = 3  # levels of modules inside a layer
EDGE_AXES = 3  # axes of coefficients: sources, destinations, functions
AXES = ("oik", "iok", "iko", "oki", "koi", "kio")
FLAT = ("o-ik", "o-ki", "ik-o")  # a Linear's weight over K functions of each source
FOURIER = ("2oik", "2iok")  # cosines, then sines
MOST = 12  # candidates of one file, at most
MANY = 6  # tensors of one layer next to its coefficients, at most
SPARE = range(2, 7)  # knots beyond the functions: degree + 1
INNER = range(-4, 0)  # the same for knots that are not extended: 1 - degree
COEF, POINTS, WIDTHS, BASE, SCALE, BIAS, COUNTER = "coef", "points", "widths", "base", "scale", "bias", "counter"
TURNED = "-t"  # suffix of a role: [sources, destinations], if the two numbers are equal
HINTS = {
    POINTS: ("cent", "grid", "knot", "mu", "mean", "loc", "point", "trans", "shift", "c"),
    WIDTHS: ("wid", "sig", "scale", "beta", "gamma", "denom", "std", "eps", "log", "s", "inv"),
    BASE: ("base", "lin", "res", "skip", "w_b"),
    SCALE: ("scale", "sp"),
    COEF: ("coef", "weight", "spline", "poly", "w"),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of one layer.

    o  number of destinations
    i  number of sources
    k  number of functions per edge
    """

    o: int
    i: int
    k: int


@dataclass(frozen=True, slots=True)
class Roles:
    """An assignment of roles to tensors, the same for every layer.

    coef    name of the coefficients
    axes    order of their axes
    others  name and role of each other tensor
    """

    coef: str
    axes: str
    others: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The assignment in the form of the option `roles`, such as "w:oik, mu:points"."""
        return ", ".join(f"{name}:{role}" for name, role in ((self.coef, self.axes), *self.others)).lower()

    def name(self, role: str) -> str | None:
        """The name of the tensor with a role."""
        return next((name for name, own in self.others if own.removesuffix(TURNED) == role), None)

    def turned(self, name: str, front: Shape, sizes: Sizes) -> bool:
        """Whether the first two axes of a tensor of edges are destinations and sources, in this order."""
        if sizes.o != sizes.i:
            return front[:2] == (sizes.o, sizes.i)
        own = dict(self.others)[name]
        if len(front) == 2 and own != POINTS and own != WIDTHS:
            return not own.endswith(TURNED)
        return "o" in self.axes and self.axes.index("o") < self.axes.index("i")

    def sizes(self, shapes: Shapes) -> Sizes | None:
        """The sizes that the coefficients show; if they are flat, the coefficients and the points."""
        shape, points = shapes[self.coef], self.name(POINTS)
        if self.axes in FLAT:
            k = shapes[points][-1] if points else 0
            rows, columns = shape if self.axes != "ik-o" else shape[::-1]
            return Sizes(rows, columns // k, k) if k > 1 and columns % k == 0 else None
        own = dict(zip(self.axes, shape, strict=True))
        return Sizes(own["o"], own["i"], own["k"])


@dataclass(frozen=True, slots=True)
class LayerRoles:
    """The KAN layers of a file.

    layers  shapes of each layer by prefix
    roles   assignments that fit all layers
    """

    layers: Mapping[str, Shapes]
    roles: tuple[Roles, ...]


def find(tensors: Tensors) -> LayerRoles | None:
    """The layers of a file with tensors that may be those of a KAN. None if there are none, or if a tensor outside
    of them does not belong to a module between layers."""
    # Keys of the main tensors of layers: those with the most axes, or the points next to flat weights.
    mains = [
        [key for key, value in tensors.items() if value.ndim == axes and value.size and not _convolves(key, value)]
        for axes in (4, 3)
    ]
    mains.append([key for key, value in tensors.items() if _increasing(value)])
    for main, level in itertools.product(filter(None, mains), range(LEVELS)):
        layers = _grouped(tensors, main, level)
        if layers and (roles := _fitting(tensors, layers)):
            return LayerRoles(layers, roles)
    return None


def _convolves(key: str, value: npt.NDArray[Any]) -> bool:
    """Whether a tensor has the name and the axes of the weight of a convolution."""
    return value.ndim > EDGE_AXES and key.rpartition(".")[2] == "weight"


def _increasing(value: npt.NDArray[Any]) -> bool:
    """Whether a tensor may be a row of points."""
    row = value.ndim == 1 and len(value) > 2 and value.dtype.kind == "f"
    return row and bool((np.diff(value.astype(np.float64)) > 0).all())


def _grouped(tensors: Tensors, main: Sequence[str], level: int) -> dict[str, Shapes]:
    """All tensors of each layer, by a prefix `level` levels above its main tensor. The result is empty if the layers
    have different names, or if a tensor outside of them does not belong to a module between layers."""
    parents = [key.split(".")[: -1 - level] for key in main]
    prefixes = sorted({".".join((*parts, "")) for parts in parents}, key=natural)
    layers: dict[str, Shapes] = {
        prefix: {key.removeprefix(prefix): value.shape for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in prefixes
    }
    names = {frozenset((name, len(shape)) for name, shape in shapes.items()) for shapes in layers.values()}
    others = {key: value for key, value in tensors.items() if not key.startswith(tuple(prefixes))}
    between = all(prefix and module_kinds.proposed(shapes)[0] for prefix, shapes in modules_of(others).items())
    return layers if len(names) == 1 and between else {}


def _fitting(tensors: Tensors, layers: Mapping[str, Shapes]) -> tuple[Roles, ...]:
    """The assignments that fit every layer. Assignments that chain the layers are first, then those with names that
    resemble their roles."""
    prefix, first = next(iter(layers.items()))
    counters = {name for name in first if _counts(tensors[prefix + name])}
    fitting: dict[str, Roles] = {}
    for name, shape in first.items():
        orders = FOURIER if len(shape) == 4 and shape[0] == 2 else {3: AXES, 2: FLAT}.get(len(shape), ())
        for axes in orders:
            for others in _others(first, name, axes, counters):
                roles = Roles(name, axes, others)
                if all(_fits(roles, shapes) for shapes in layers.values()):
                    fitting[roles.text] = roles
    ranked = sorted(fitting.values(), key=lambda roles: (not _follows(roles, layers), -_sounds(roles)))
    if ranked and _follows(ranked[0], layers):
        ranked = [roles for roles in ranked if _follows(roles, layers)]
    return tuple(ranked[:MOST])


def _counts(value: npt.NDArray[Any]) -> bool:
    """Whether a tensor contains 0, 1, 2, ..., like a buffer of degrees."""
    return value.ndim == 1 and len(value) > 1 and bool((value == np.arange(len(value))).all())


def _others(shapes: Shapes, coef: str, axes: str, counters: set[str]) -> Iterator[tuple[tuple[str, str], ...]]:
    """The possible roles of the other tensors. Each tensor has one role, and each role except the bias one tensor."""
    names = [name for name in shapes if name != coef]
    if axes not in FLAT:
        yield from _assigned(names, shapes, Roles(coef, axes).sizes(shapes), counters)
        return
    for points in names:
        own = ((points, POINTS),)
        sizes = Roles(coef, axes, own).sizes(shapes) if len(shapes[points]) in (1, 2) else None
        if sizes is None or points in counters or POINTS not in _possible(shapes[points], sizes):
            continue  # the points of flat coefficients show the number of functions
        rest = [name for name in names if name != points]
        for others in _assigned(rest, shapes, sizes, counters):
            if POINTS not in dict(others).values():
                yield (*own, *others)


def _assigned(
    names: Sequence[str], shapes: Shapes, sizes: Sizes | None, counters: set[str]
) -> Iterator[tuple[tuple[str, str], ...]]:
    if sizes is None or len(names) > MANY:
        return
    choices = [[COUNTER] if name in counters else _possible(shapes[name], sizes) for name in names]
    if not all(choices):
        return
    for roles in itertools.product(*choices):
        single = [role.removesuffix(TURNED) for role in roles if role not in (BIAS, COUNTER)]
        if len(set(single)) == len(single):
            yield tuple(zip(names, roles, strict=True))


def _possible(shape: Shape, sizes: Sizes) -> list[str]:
    """The roles that a shape allows in a layer of these sizes. Points and widths are for all, for each source or for
    each edge."""
    o, i = sizes.o, sizes.i
    roles = [BIAS] if shape in ((o,), (1, o)) else []
    if shape in ((o, i), (i, o)):
        roles += [BASE, SCALE]
    if shape == (o, i) == (i, o) and o > 1:
        roles += [BASE + TURNED, SCALE + TURNED]
    spread = bool(shape) and shape[:-1] in ((), (1,), (i,), (1, 1), (1, i), (o, i), (i, o))
    beyond = shape[-1] - sizes.k if shape else 0
    if spread and shape[-1] > 1 and beyond in (0, *SPARE, *INNER):
        roles.append(POINTS)
    if shape in ((), (1,), (i,), (i, 1)) or (spread and beyond == 0):
        roles.append(WIDTHS)
    return roles


def _fits(roles: Roles, shapes: Shapes) -> bool:
    sizes = roles.sizes(shapes)
    if sizes is None or min(sizes.o, sizes.i, sizes.k) < 1:
        return False
    return all(role == COUNTER or role in _possible(shapes[name], sizes) for name, role in roles.others)


def _follows(roles: Roles, layers: Mapping[str, Shapes]) -> bool:
    """Whether each layer takes as many nodes as the one before returns."""
    sizes = [size for shapes in layers.values() if (size := roles.sizes(shapes)) is not None]
    return all(a.o == b.i for a, b in itertools.pairwise(sizes))


def _sounds(roles: Roles) -> int:
    """The number of names that resemble their roles."""
    pairs = [(roles.coef, COEF), *roles.others]
    return sum(
        any(hint in name.lower() for hint in HINTS.get(role.removesuffix(TURNED), ()) if len(hint) > 1)
        for name, role in pairs
    )
