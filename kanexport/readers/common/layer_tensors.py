"""Access to the tensors of one layer, checked and in float64."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import CHECK_FAMILY, SAVE_AGAIN, USE_MODULE, InvalidKan
from kanexport.formats import torch_archive
from kanexport.formats.checkpoint import MODULE
from kanexport.functions import elementwise, wavelets
from kanexport.functions.elementwise import Unary
from kanexport.graph import precision
from kanexport.ir.model import BasisTerm, EdgeTerm, Layer, Term
from kanexport.ir.steps import Step
from kanexport.options import Options

Array = npt.NDArray[np.float64]
Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the tensors of a layer, relative to its prefix, with their numbers of axes.

    required  tensors that a layer has
    optional  tensors that a layer may have
    absent    tensors that only another library's layer has
    """

    required: Mapping[str, int]
    optional: Mapping[str, int]
    absent: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """All names a layer may have."""
        return (*self.required, *self.optional)


@dataclass(frozen=True, slots=True)
class Part:
    """The tensors under one prefix ("layers.0.", or "" for a single layer). `beside`: the other content of the file."""

    tensors: Tensors
    prefix: str
    beside: Mapping[str, Any] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the layer has the tensor."""
        return self.prefix + name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor; () if it is missing."""
        value = self.tensors.get(self.prefix + name)
        return () if value is None else value.shape

    def matches(self, keys: Keys) -> bool:
        """Whether all required tensors exist, with their number of axes, and none of the excluded ones."""
        complete = all(self.has(name) and len(self.shape(name)) == ndim for name, ndim in keys.required.items())
        return complete and not any(map(self.has, keys.absent))

    def require(self, keys: Keys) -> None:
        """Raises InvalidKan if a required tensor is missing, empty, or has another number of axes."""
        for name, ndim in keys.required.items():
            _stored(self.tensors, self.prefix + name, (None,) * ndim)

    def tensor(self, name: str, *shape: int | None) -> Array:
        """A tensor of that shape (None: any length), as float64. Raises InvalidKan, which names the key."""
        return tensor(self.tensors, self.prefix + name, shape)

    def optional(self, name: str, *shape: int | None) -> Array | None:
        """The tensor, or None if it is missing. Raises InvalidKan, which names the key."""
        return self.tensor(name, *shape) if self.has(name) else None

    def inside(self, name: str) -> Part:
        """The tensors of a module in the layer, such as "layernorm"."""
        return Part(self.tensors, f"{self.prefix}{name}.", self.beside)

    def blocks(self, name: str, count: int) -> Array:
        """The weight [O, I * K] of a linear layer over K functions of each source, with K = `count`, as [I, O, K].
        Raises InvalidKan, which names the key."""
        weight = self.tensor(name, None, None)
        m, columns = weight.shape
        if columns % count:
            raise InvalidKan(
                f"{name} has {columns} columns, expected a multiple of the {count} centers",
                code="tensor-wrong-shape",
                hint=USE_MODULE,
            )
        return weight.reshape(m, columns // count, count).transpose(1, 0, 2)


def tensor(tensors: Tensors, key: str, shape: tuple[int | None, ...]) -> Array:
    """A tensor of that shape (None: any length except zero), as float64. Raises InvalidKan, which names the key."""
    return real(_stored(tensors, key, shape), key)


def _stored(tensors: Tensors, key: str, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    value = tensors.get(key)
    if value is None:
        raise InvalidKan(f"tensor {key!r} is missing", code="tensor-missing", hint=SAVE_AGAIN)
    fits = len(value.shape) == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(value.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise InvalidKan(
            f"tensor {key!r} has shape {value.shape}, expected ({expected}), no axis of length 0",
            code="tensor-wrong-shape",
            hint=CHECK_FAMILY,
        )
    return value


def activation(options: Options, default: str, key: str = "base_activation", stored: str | None = None) -> Unary:
    """The function of a base branch: the one of the option, otherwise the one `stored` in the file, otherwise the
    `default` of the constructor, which is assumed. Raises OptionError."""
    return elementwise.activation(options.text(key, default, stored, among=elementwise.ACTIVATIONS).lower())


def real(value: npt.NDArray[Any], key: str) -> Array:
    """The values as float64. Values that are not finite pass; `Layer` rejects them by name."""
    if value.dtype.kind == "c":
        raise InvalidKan(
            f"tensor {key!r} is {value.dtype}, expected real numbers; KAN readers do not support complex numbers",
            code="tensor-type-unsupported",
            hint=MODULE,
        )
    if value.dtype.kind not in "fiub":
        raise InvalidKan(
            f"tensor {key!r} is {value.dtype}, expected real numbers",
            code="tensor-type-unsupported",
            hint="save the model with float32 or float64 weights",
        )
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return value.astype(np.float64)


def product(a: Array, b: Array) -> Array:
    """a * b, for values that may not be finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(a * b)


def scaled(weights: Array, scale: Array) -> Array:
    """The same, stored in `weights` as `Part.tensor` returned them, so that memory does not hold a large layer
    twice."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.multiply(weights, scale, out=weights)


def storage_dtype(tensors: list[npt.NDArray[Any]]) -> str:
    """The widest type of number among the tensors, as their file has it: "float64", "float32", "float16" or
    "bfloat16"; "float32" if there is none."""
    types = {torch_archive.stored_dtype(value) for value in tensors}
    return next((name for name in precision.STORED if name in types), "float32")


def modules_of(tensors: Tensors) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of all tensors, by the prefix of their module ("net.0.", or "") and their names in it."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, value in tensors.items():
        prefix, dot, name = key.rpartition(".")
        modules.setdefault(prefix + dot, {})[name] = value.shape
    return modules


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that compares numbers as numbers: layers.2 before layers.10."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def branch(function: Unary, weight: Array, pre_steps: tuple[Step, ...] = ()) -> BasisTerm:
    """The functions w * function(x) of all edges, with the weights [O, I]."""
    return BasisTerm(Activation(function), weight.T[:, :, None], pre_steps)


def one_wavelet(part: Part, wavelet: Unary, weights: Array) -> EdgeTerm:
    """One wavelet per edge, with the weights [O, I] and the layer's `translation` and `scale` [O, I]. Shannon's wavelet
    is multiplied by a Hamming window over the sources, as in Wav-KAN. Raises InvalidKan."""
    m, n = weights.shape
    if wavelet.name == "shannon":
        weights = product(weights, wavelets.hamming(n)[None, :])
    return EdgeTerm(
        wavelet,
        centre=part.tensor("translation", m, n).T[:, :, None],
        rate=wavelets.rates(part.tensor("scale", m, n)[:, :, None]),
        coef=weights.T[:, :, None],
    )


def stored_splines(part: Part, sources: int, functions: int) -> BSpline:
    """The B-splines of a layer on its extended knots `grid` [I, G + 2k + 1], with G + k functions for each source.
    Raises InvalidKan."""
    grid = part.tensor("grid", sources, None)
    if grid.shape[1] <= functions + 1:
        raise InvalidKan(
            f"{part.prefix}grid has shape {grid.shape}, expected ({sources}, {functions} + k + 1) with k >= 1",
            code="grid-wrong-shape",
            hint=USE_MODULE,
        )
    return BSpline(grid, grid.shape[1] - functions - 1)


def layer_of(
    *terms: Term,
    bias: Array | None = None,
    nan_spreads: bool = False,
    pre_steps: tuple[Step, ...] = (),
    post_steps: tuple[Step, ...] = (),
    name: str = "",
) -> Layer:
    """The layer of these terms without masked edges. `bias`: [O] or [1, O], zero if there is none. `nan_spreads`:
    whether all edges become NaN for a non-finite source, as in `Layer`. Raises InvalidKan."""
    n, m, _ = terms[0].coef.shape
    return Layer(
        terms,
        mask=np.ones((n, m)),
        bias=np.zeros(m) if bias is None else bias.reshape(-1),
        nan_spreads=np.full((n, m), nan_spreads),
        pre_steps=pre_steps,
        post_steps=post_steps,
        name=name,
    )


def linear_layer(part: Part) -> Layer:
    """The layer of edges W_ji x_i, with the weight W [O, I] and the bias [O], if there is one, under the prefix of
    the part. Raises InvalidKan."""
    weight = part.tensor("weight", None, None)
    identity = branch(elementwise.activation("identity"), weight)
    return layer_of(identity, bias=part.optional("bias", len(weight)))
