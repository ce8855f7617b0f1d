"""efficient-kan: a stack of `KANLinear`, a lone layer, or either under a prefix.

Source: Blealtan/efficient-kan at 7b6ce1c. Per layer, for n sources and m
destinations: `base_weight` (m, n), `spline_weight` (m, n, C), `grid` (n, T) of
extended knots, and `spline_scaler` (m, n) unless it was switched off:

    phi_ji(x) = base_weight_ji * act(x) + spline_scaler_ji * sum_c spline_weight_jic B_c(x)

The degree is T - C - 1. The activation is a class in the constructor and in no
file: `--option base_activation=...`, the library's default is SiLU.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport import readers, unary
from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.checkpoint import Checkpoint
from kanexport.errors import FamilyError, InvalidKan
from kanexport.ir import BasisTerm, Kan, Layer
from kanexport.options import Options

FAMILY = "efficient-kan"

PARTS = ("base_weight", "spline_weight", "grid", "spline_scaler")


def matches(checkpoint: Checkpoint) -> str:
    """Every layer's grid must have the length of extended knots: KANX uses the same
    names with other axes and a grid that is not extended."""
    prefixes = _prefixes(checkpoint)
    if prefixes and all(_degree(checkpoint, prefix) >= 1 for prefix in prefixes):
        return f"base_weight, spline_weight and extended grid in {len(prefixes)} layers"
    return ""


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """Read the stack in order of its keys. Raises InvalidKan or FamilyError."""
    root = options.optional("prefix")
    prefixes = _prefixes(checkpoint, root)
    if not prefixes:
        raise InvalidKan(f"{checkpoint.path}: no KANLinear layer (base_weight, spline_weight, grid) is there")
    _refuse_others(checkpoint, prefixes, root)
    activation = Activation(unary.activation(options.text("base_activation", "silu").lower()))
    layers = tuple(_layer(checkpoint, prefix, activation) for prefix in prefixes)
    dtype = readers.storage_dtype([checkpoint.tensors[p + "spline_weight"] for p in prefixes])
    return Kan(layers[0].sources, layers, dtype)


def _layer(checkpoint: Checkpoint, prefix: str, activation: Activation) -> Layer:
    spline = _array(checkpoint, prefix + "spline_weight", 3)
    grid = _array(checkpoint, prefix + "grid", 2)
    m, n, functions = spline.shape
    degree = _degree(checkpoint, prefix)
    if degree < 1 or len(grid) != n:
        raise InvalidKan(
            f"{checkpoint.path}: {prefix}grid has shape {grid.shape}, expected ({n}, {functions} + k + 1) "
            f"with k >= 1 to go with {prefix}spline_weight {spline.shape}",
            hint="a grid of length G + 1 is KANX's layer, which has other axes",
        )
    base = readers.tensor(checkpoint, prefix + "base_weight", (m, n))
    scaler = np.ones((m, n))
    if prefix + "spline_scaler" in checkpoint.tensors:
        scaler = readers.tensor(checkpoint, prefix + "spline_scaler", (m, n))
    coef = readers.product(readers.real(spline, prefix + "spline_weight"), scaler[:, :, None])
    try:
        basis = BSpline(readers.real(grid, prefix + "grid"), degree)
        return Layer(
            terms=(BasisTerm(basis, coef.transpose(1, 0, 2)), BasisTerm(activation, base.T[:, :, None])),
            mask=np.ones((n, m)),
            bias=np.zeros(m),
            # The basis of a non-finite value is NaN there, and its product reaches every sum.
            spread=np.ones((n, m), dtype=bool),
        )
    except InvalidKan as error:
        raise InvalidKan(f"{checkpoint.path}: layer {prefix or '(lone)'}: {error.message}", hint=error.hint) from error


def _prefixes(checkpoint: Checkpoint, root: str | None = None) -> list[str]:
    """Prefixes of all layers, ordered as people count: layers.2 before layers.10."""
    found = [key.removesuffix("spline_weight") for key in checkpoint.tensors if key.endswith("spline_weight")]
    complete = [
        prefix
        for prefix in found
        if (prefix == "" or prefix.endswith("."))
        and all(prefix + part in checkpoint.tensors for part in PARTS[:3])
        and (root is None or prefix.startswith(root))
    ]
    return sorted(complete, key=lambda p: [int(t) if t.isdecimal() else t for t in re.split(r"(\d+)", p)])


def _refuse_others(checkpoint: Checkpoint, prefixes: list[str], root: str | None) -> None:
    """Tensors of other modules mean that the KAN is only part of the model."""
    own = {prefix + part for prefix in prefixes for part in PARTS}
    others = [key for key in checkpoint.tensors if key not in own and (root is None or key.startswith(root))]
    if others:
        raise FamilyError(
            f"{checkpoint.path}: beside {len(prefixes)} KAN layers there are {len(others)} tensors of other "
            f"modules, such as {others[0]!r}",
            hint="to export a KAN that is a part of this model by itself: --option prefix=KEY_PREFIX",
        )
    parents = {re.sub(r"\d+\.$", "", prefix) for prefix in prefixes}
    _refuse_gaps(checkpoint, prefixes)
    if len(parents) > 1:
        raise FamilyError(
            f"{checkpoint.path}: the KAN layers lie in {len(parents)} places: {', '.join(sorted(parents)[:4])}",
            hint="choose one with --option prefix=KEY_PREFIX",
        )


def _refuse_gaps(checkpoint: Checkpoint, prefixes: list[str]) -> None:
    """layers.0 and layers.2: what stood between has no weights, but may well do something."""
    for before, after in itertools.pairwise(prefixes):
        first, second = (re.fullmatch(r"(.*?)(\d+)\.", prefix) for prefix in (before, after))
        if first and second and first[1] == second[1] and int(second[2]) != int(first[2]) + 1:
            raise FamilyError(
                f"{checkpoint.path}: {before}* is followed by {after}*; the file does not tell what stands between",
                hint="export the layers one by one with --option prefix=KEY_PREFIX",
            )


def _degree(checkpoint: Checkpoint, prefix: str) -> int:
    """T - C - 1, or 0 where the shapes are no spline's."""
    spline, grid = (checkpoint.tensors[prefix + part] for part in ("spline_weight", "grid"))
    if spline.ndim != 3 or grid.ndim != 2:
        return 0
    return max(0, int(grid.shape[1]) - int(spline.shape[2]) - 1)


def _array(checkpoint: Checkpoint, key: str, ndim: int) -> npt.NDArray[Any]:
    value = checkpoint.tensors[key]
    if value.ndim != ndim or 0 in value.shape:
        raise InvalidKan(f"{checkpoint.path}: tensor {key!r} has shape {value.shape}, expected {ndim} axes")
    return value
