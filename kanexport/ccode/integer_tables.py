"""Coefficients of splines as whole numbers with scales, and the network that has the rounded coefficients.

The scale of an edge is the product of a scale of its source and one of its output: I + O floats for I * O edges.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.ccode.nodes import Array
from kanexport.graph.builder import Graph
from kanexport.ir.model import Kan
from kanexport.lowering import kernel_forms, passes

STORAGE = {"float32": 0, "int16": 32_767, "int8": 127}  # the largest number of each integer type

ROUNDS = 20  # of the search for scales

Floats = npt.NDArray[np.float64]


def scales(coefficients: Array) -> tuple[Floats, Floats]:
    """[I] and [O]: scales of sources and outputs, whose products are at least the largest magnitude of each edge, for
    coefficients [I, K, O]. Each round fits one side to the other."""
    largest = np.abs(coefficients).max(axis=1).astype(np.float64)
    columns = np.ones(largest.shape[1])
    rows = columns[:1]
    for _ in range(ROUNDS):
        rows = _positive((largest / columns).max(axis=1))
        columns = _positive((largest / rows[:, None]).max(axis=0))
    return rows, columns


@dataclass(frozen=True, slots=True)
class Codes:
    """Coefficients of a layer as whole numbers [I, K, O], times the scales of sources [I] and outputs [O]."""

    numbers: Floats
    rows: Floats
    columns: Floats

    @classmethod
    def of(cls, coefficients: Array, weights: Array | None, limit: int) -> Codes:
        """Codes of coefficients [I, K, O] and, as one function more, of weights [I, O]. `limit`: the largest number."""
        both = coefficients if weights is None else np.concatenate([coefficients, weights[:, None]], axis=1)
        rows, columns = scales(both)
        return cls(np.rint(both / (rows[:, None, None] * columns) * limit), rows, columns / limit)

    def values(self) -> Floats:
        """[I, K, O]: the rounded coefficients."""
        return np.asarray(self.numbers * self.rows[:, None, None] * self.columns)


def rounded(kan: Kan, storage: str) -> Kan:
    """The network with the coefficients that the C code has, in float64. `storage`: a key of `STORAGE`."""
    limit = STORAGE[storage]
    if not limit:
        return kan
    layers = list(kan.layers)
    for at, layer in enumerate(kan.layers):
        taken = kernel_forms.splines(passes.live(layer), np.float32)
        if taken is None:
            continue
        scale = taken.spline.basis.emitted_scale(Graph("scale", np.float32))
        coefficients = passes.coefficients(layer, taken.spline, scale).astype(np.float32).transpose(0, 2, 1)
        base = None if taken.base is None else passes.coefficients(layer, taken.base).astype(np.float32)[:, :, 0]
        values = Codes.of(coefficients, base, limit).values().transpose(0, 2, 1)  # [I, O, K]
        values /= np.where(layer.mask == 0, 1.0, layer.mask)[:, :, None]
        count = taken.spline.functions
        new = {id(taken.spline): values[:, :, :count] / scale, id(taken.base): values[:, :, count:]}
        terms = [dataclasses.replace(term, coef=new[id(term)]) if id(term) in new else term for term in layer.terms]
        layers[at] = dataclasses.replace(layer, terms=tuple(terms))
    return dataclasses.replace(kan, layers=tuple(layers))


def _positive(values: Floats) -> Floats:
    return np.where(values > 0, values, 1.0)
