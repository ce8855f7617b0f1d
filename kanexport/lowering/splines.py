"""A layer's splines and its SiLU branch as one operator, which computes the functions alone that are not zero.

Only onnxruntime with kanserve-kernel knows it (`shared/kernel.py`); the graph that has it stands beside the portable
one, is proved by the same rows, and shares its constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from kanexport.bases.bspline import BSpline
from kanexport.form.ir import BasisTerm, Layer, Term
from kanexport.lowering import simplify, weights
from kanexport.operators.graph import Graph, Value
from kanexport.shared import kernel

SILU = "silu"


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """The terms of a layer that the operator computes."""

    spline: BasisTerm
    basis: BSpline
    base: BasisTerm | None


def layers(given: Iterable[Layer], dtype: npt.DTypeLike) -> Iterator[bool]:
    """Of each layer, whether the operator takes its splines."""
    return (taken(simplify.live(layer), dtype) is not None for layer in given)


def notes(given: Sequence[Layer], dtype: npt.DTypeLike, *, asked: bool) -> tuple[str, ...]:
    """What a manifest says where a graph by the operator was asked for."""
    if not asked:
        return ()
    which = [str(at) for at, fits in enumerate(layers(given, dtype)) if fits]
    if not which:
        return (f"there is no {kernel.KERNEL_FILE}: no layer has splines that its operator takes",)
    return (
        f"{kernel.KERNEL_FILE} is the same network, the splines of layer{'s' * (len(which) > 1)} {', '.join(which)} "
        "by an operator of kanserve-kernel; where that is not installed, nothing needs the file",
    )


def taken(layer: Layer, dtype: npt.DTypeLike) -> Taken | None:
    """What the operator takes of a layer; None if nothing."""
    if np.dtype(dtype) != np.float32:
        return None
    for term in layer.terms:
        if isinstance(term, BasisTerm) and isinstance(term.basis, BSpline) and not term.before and _fits(term.basis):
            return Taken(term, term.basis, next(filter(_is_silu, layer.terms), None))
    return None


def emit(g: Graph, layer: Layer, part: Taken, x: Value) -> Value:
    """[B, I] -> [B, O]: those terms, summed over the sources, the bias, and NaN in rows with a source that is not
    finite, where that spreads to all."""
    spline, sources, destinations = part.spline, layer.sources, layer.destinations
    inputs = [
        x,
        g.const(layer.bias[None]),
        g.const(part.basis.knots()),
        weights.matrix(g, layer, spline, spline.functions * sources, destinations),
    ]
    if part.base is not None:
        inputs.append(weights.matrix(g, layer, part.base, sources, destinations))
    return g.spline_layer(
        *inputs,
        shape=destinations,
        degree=part.basis.degree,
        scale=1 / part.basis.emitted_scale(g),  # the coefficients are the portable graph's
        base=SILU if part.base is not None else "",
        nan_spreads=int(layer.nan_spreads.all()),
    )


def _fits(basis: BSpline) -> bool:
    """Whether the operator takes such knots, in the precision that it has them in."""
    cells = np.diff(basis.extended.astype(np.float32).astype(np.float64), axis=1)
    return basis.degree in kernel.DEGREES and bool(((cells >= kernel.NARROWEST) & (cells <= kernel.WIDEST)).all())


def _is_silu(term: Term) -> TypeGuard[BasisTerm]:
    return isinstance(term, BasisTerm) and term.kind == SILU and not term.before
