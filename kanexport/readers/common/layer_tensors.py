"""Access to the tensors of one layer, checked and in float64, wherever they are in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.bases.activation import Activation
from kanexport.errors import InvalidKan
from kanexport.formats import torch_archive
from kanexport.formats.checkpoint import MODULE
from kanexport.functions import elementwise
from kanexport.functions.elementwise import Unary
from kanexport.graph import precision
from kanexport.ir.model import BasisTerm, Layer
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
    """The tensors under one prefix ("layers.0.", or "" for a lone layer)."""

    tensors: Tensors
    prefix: str

    def has(self, name: str) -> bool:
        """Whether the layer has the tensor."""
        return self.prefix + name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape; () where it is missing."""
        value = self.tensors.get(self.prefix + name)
        return () if value is None else value.shape

    def matches(self, keys: Keys) -> bool:
        """Whether all required tensors are there, with their number of axes, and no absent one."""
        complete = all(self.has(name) and len(self.shape(name)) == ndim for name, ndim in keys.required.items())
        return complete and not any(map(self.has, keys.absent))

    def require(self, keys: Keys) -> None:
        """Raises InvalidKan if a required tensor is missing, empty, or has another number of axes."""
        for name, ndim in keys.required.items():
            shape = self.shape(name)
            if not self.has(name) or len(shape) != ndim or 0 in shape:
                fact = f"has shape {shape}" if self.has(name) else "is missing"
                raise InvalidKan(f"tensor {self.prefix + name!r} {fact}, expected {ndim} axes, none of length 0")

    def tensor(self, name: str, *shape: int | None) -> Array:
        """A tensor of that shape (None: any length), as float64. Raises InvalidKan naming the key."""
        return tensor(self.tensors, self.prefix + name, shape)

    def blocks(self, name: str, count: int) -> Array:
        """The weight [O, I * K] of a linear layer over K functions of each source, K being
        `count`, as [I, O, K]. Raises InvalidKan naming the key."""
        weight = self.tensor(name, None, None)
        m, columns = weight.shape
        if columns % count:
            raise InvalidKan(f"{name} has {columns} columns, no multiple of the {count} centres")
        return weight.reshape(m, columns // count, count).transpose(1, 0, 2)


def tensor(tensors: Tensors, key: str, shape: tuple[int | None, ...]) -> Array:
    """A tensor of that shape (None: any length but zero), as float64. Raises InvalidKan naming the key."""
    value = tensors.get(key)
    if value is None:
        raise InvalidKan(f"tensor {key!r} is missing")
    fits = len(value.shape) == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(value.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise InvalidKan(f"tensor {key!r} has shape {value.shape}, expected ({expected})")
    return real(value, key)


def activation(options: Options, default: str, key: str = "base_activation", stored: str | None = None) -> Unary:
    """The function of a base branch: the option's, else what the file has `stored`, else the
    constructor's `default`, which is assumed. Raises OptionError."""
    return elementwise.activation(options.text(key, default, stored, among=elementwise.ACTIVATIONS).lower())


def real(value: npt.NDArray[Any], key: str) -> Array:
    """The values as float64. Values that are not finite pass; `Layer` refuses them by name."""
    if value.dtype.kind == "c":
        raise InvalidKan(f"tensor {key!r} is {value.dtype}: no KAN reader computes with complex numbers", hint=MODULE)
    if value.dtype.kind not in "fiub":
        raise InvalidKan(f"tensor {key!r} is {value.dtype}, expected real numbers")
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return value.astype(np.float64)


def product(a: Array, b: Array) -> Array:
    """a * b, where not all may be finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(a * b)


def scaled(weights: Array, scale: Array) -> Array:
    """The same in the place of `weights`, as `Part.tensor` gave them: a large layer is not held twice."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.multiply(weights, scale, out=weights)


def storage_dtype(tensors: list[npt.NDArray[Any]]) -> str:
    """The widest type of number among the tensors, as their file has it: "float64",
    "float32", "float16" or "bfloat16"; "float32" where there is none."""
    types = {torch_archive.stored_dtype(value) for value in tensors}
    return next((name for name in precision.STORED if name in types), "float32")


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that counts as people do: layers.2 before layers.10."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def linear_layer(part: Part) -> Layer:
    """The layer of edges W_ji x_i, with the weight W [O, I] and the bias [O], if there is one,
    under the part's prefix. Raises InvalidKan."""
    weight = part.tensor("weight", None, None)
    m, n = weight.shape
    return Layer(
        terms=(BasisTerm(Activation(elementwise.activation("identity")), weight.T[:, :, None]),),
        mask=np.ones((n, m)),
        bias=part.tensor("bias", m) if part.has("bias") else np.zeros(m),
        nan_spreads=np.zeros((n, m), dtype=bool),
    )
