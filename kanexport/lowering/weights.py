"""A term's coefficients as constants of a graph, as its network says that they are stored (`operators/stored.py`).

Fewer bits are made numbers of the graph's type again by operators on constants, which a runtime computes when it loads
the graph; or they stay codes, where a sum of bytes reads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.form.ir import BasisTerm, Layer
from kanexport.lowering import simplify
from kanexport.operators import stored
from kanexport.operators.graph import Graph, Value

Array = npt.NDArray[Any]


def matrix(g: Graph, layer: Layer, term: BasisTerm, *shape: int) -> Value:
    """A term's coefficients in the order [K, I, O], in a shape that has as many."""
    scale = term.basis.emitted_scale(g)
    if term.stored == stored.BYTES:
        return _of_codes(g, layer, term, _codes(g, layer, term, False, shape), scale)
    if term.stored == stored.HALF:
        return _scaled(g, g.cast(_halves(g, layer, term, shape)), scale)

    def make() -> Array:
        made = np.empty((term.functions, layer.sources, layer.destinations), g.dtype)
        with np.errstate(over="ignore"):  # refused by the graph
            for part in simplify.blocks(term):
                made[:, part] = simplify.coefficients(layer, term, scale, part=part).transpose(2, 0, 1)
        return made

    return g.made((term.coef, layer.mask, scale), make, shape)


def by_source(g: Graph, layer: Layer, term: BasisTerm) -> Value:
    """The same as [I, K, O], for a graph that keeps its own constants."""
    scale = term.basis.emitted_scale(g)
    if term.stored == stored.BYTES:
        shape = (layer.sources, term.functions, layer.destinations)
        return _of_codes(g, layer, term, _codes(g, layer, term, True, shape), scale)
    if term.stored == stored.HALF:
        values = _halves(g, layer, term, (term.functions, layer.sources, layer.destinations))
        return g.transpose(_scaled(g, g.cast(values), scale), 1, 0, 2)
    return g.const(simplify.coefficients(layer, term, scale).transpose(0, 2, 1))


def codes(g: Graph, layer: Layer, term: BasisTerm, *, by_source: bool) -> Value:
    """The codes of a term that is stored in bytes, [I * K, O] or [K * I, O]."""
    return _codes(g, layer, term, by_source, (term.functions * layer.sources, layer.destinations))


def units(layer: Layer, term: BasisTerm) -> npt.NDArray[np.float64]:
    """[O]: what a code of each destination counts."""
    return stored.scales(simplify.coefficients(layer, term))


def _codes(g: Graph, layer: Layer, term: BasisTerm, by_source: bool, shape: tuple[int, ...]) -> Value:
    def make() -> Array:
        values = simplify.coefficients(layer, term)
        return stored.codes(values, stored.scales(values)).transpose((0, 2, 1) if by_source else (2, 0, 1))

    return g.made((term.coef, layer.mask, "by source" if by_source else "by function"), make, shape, np.int8)


def _halves(g: Graph, layer: Layer, term: BasisTerm, shape: tuple[int, ...]) -> Value:
    def make() -> Array:
        return stored.half(simplify.coefficients(layer, term)).transpose(2, 0, 1)

    return g.made((term.coef, layer.mask), make, shape, np.float16)


def _of_codes(g: Graph, layer: Layer, term: BasisTerm, codes: Value, scale: float) -> Value:
    return g.mul(g.cast(codes), g.const(units(layer, term) * scale))


def _scaled(g: Graph, values: Value, scale: float) -> Value:
    return values if scale == 1 else g.mul(values, g.const(scale))
