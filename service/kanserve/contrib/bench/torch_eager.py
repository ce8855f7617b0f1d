"""Eager PyTorch form of a model's layers, in the style of efficient-kan, the fastest of the published libraries.

A version holds graphs, not the trained module. This module therefore fits the coefficients of the functions that the
manifest names to the values of each edge. Before a measurement, the result must agree with the model's outputs to
1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from kanexport.shared import grids
from kanexport.shared.manifest import LayerInfo

Floats = NDArray[np.float64]
Edges = Callable[[Floats], Floats]  # [M, S] -> [M, S, D]
SINGLE = {"silu": functional.silu, "identity": lambda x: x}  # supported base functions of an edge
PLACES, BEYOND = 6, 1.0  # sample points per function, and the margin around the grid in grid ranges
MOST = 2**28  # bytes of edge values at the sample points


class Unfit(ValueError):
    """Model that this form cannot represent; the text has the reason."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Layer with its coefficients.

    knots   [S, T]
    spline  [D, S * K]
    base    by function, [D, S]
    bias    [D]
    """

    knots: torch.Tensor
    degree: int
    spline: torch.Tensor
    base: Mapping[str, torch.Tensor]
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S] -> [B, D]."""
        output = functional.linear(bases(x, self.knots, self.degree).flatten(1), self.spline, self.bias)
        for name, weight in self.base.items():
            output = output + functional.linear(SINGLE[name](x), weight)
        return output


def bases(x: torch.Tensor, knots: torch.Tensor, degree: int) -> torch.Tensor:
    """B-splines by the Cox-de Boor recursion, [B, S] -> [B, S, K], as efficient-kan writes it."""
    u = x.unsqueeze(-1)
    values = ((u >= knots[:, :-1]) & (u < knots[:, 1:])).to(x.dtype)
    for p in range(1, degree + 1):
        left = (u - knots[:, : -p - 1]) / (knots[:, p:-1] - knots[:, : -p - 1]) * values[..., :-1]
        right = (knots[:, p + 1 :] - u) / (knots[:, p + 1 :] - knots[:, 1:-p]) * values[..., 1:]
        values = left + right
    return values


def network(layers: Sequence[LayerInfo], edges: Sequence[Edges], double: bool) -> Callable[[Any], Any]:
    """Network of the layers, [B, n] -> [B, m], numpy to numpy. Raises Unfit."""
    kind = torch.float64 if double else torch.float32
    stack = []
    for at, (layer, values) in enumerate(zip(layers, edges, strict=True)):
        if why := unfit(layer):
            raise Unfit(f"layer {at} {why}")
        stack.append(_layer(layer, values, kind))

    def evaluate(rows: Any) -> Any:
        with torch.inference_mode():
            x = torch.from_numpy(rows)
            for layer in stack:
                x = layer(x)
            return x.numpy()

    return evaluate


def unfit(layer: LayerInfo) -> str:
    """The reason why a layer has no such form, or ""."""
    if layer.pre_steps or layer.post_steps or any(basis.pre_steps for basis in layer.bases):
        return "has steps before or after its edges"
    if layer.positions or any(basis.per_edge for basis in layer.bases):
        return "has several positions, or functions that are shifted per edge"
    return _unlike(layer)


def _unlike(layer: LayerInfo) -> str:
    """The reason why its edges have no such form, or ""."""
    splines = [basis for basis in layer.bases if basis.kind == grids.SPLINE]
    others = {basis.kind for basis in layer.bases if basis.kind != grids.SPLINE}
    if layer.symbolic or len(splines) != 1 or not others <= set(SINGLE):
        return "has edges other than B-splines and " + " or ".join(SINGLE)
    if not (np.diff(np.array(splines[0].knots, np.float64), axis=1) > 0).all():
        return "has repeated knots"
    if 8 * layer.sources * layer.destinations * PLACES * splines[0].functions > MOST:
        return "is too large to compute its coefficients from its edges"
    return ""


def _layer(layer: LayerInfo, edges: Edges, kind: torch.dtype) -> Layer:
    (spline,) = (basis for basis in layer.bases if basis.kind == grids.SPLINE)
    names = [basis.kind for basis in layer.bases if basis.kind != grids.SPLINE]
    knots = np.array(spline.knots, np.float64)
    knots = np.repeat(knots, layer.sources, axis=0) if len(knots) == 1 else knots
    degree = knots.shape[1] - spline.functions - 1
    # Outside the grid the spline is 0, so that the base functions are separable there, also on fine grids.
    first, last = knots[:, :1], knots[:, -1:]
    share = np.linspace(-BEYOND, 1 + BEYOND, PLACES * spline.functions)
    x = (first + (last - first) * share).T.astype(np.float32).astype(np.float64)  # [M, S], as the edges are given it
    wide, exact = torch.from_numpy(x), torch.from_numpy(knots)
    columns = [bases(wide, exact, degree), *(SINGLE[name](wide)[..., None] for name in names)]
    design = torch.cat(columns, dim=2).permute(1, 0, 2)  # [S, M, K + base]
    values = torch.from_numpy(edges(x)).permute(1, 0, 2)  # [S, M, D]
    weights = torch.linalg.lstsq(design, values).solution.permute(2, 0, 1)  # [D, S, K + base]
    return Layer(
        exact.to(kind),
        degree,
        weights[..., : spline.functions].flatten(1).contiguous().to(kind),
        {name: weights[..., spline.functions + at].contiguous().to(kind) for at, name in enumerate(names)},
        torch.tensor(layer.bias, dtype=kind) if layer.bias else None,
    )
