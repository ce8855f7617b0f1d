"""One edge of a network: its curve, its grid, and layers in which it has another form.

The argument x of a curve is the value of the source as the edges read it, after the steps of the layer before its
edges. With a scaler of the inputs, x of the first layer is in the user's units: scale * value + offset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.errors import USE_MODULE, InvalidKan, OptionError
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer, SymbolicEdge, Term
from kanexport.ir.scaling import Standardize
from kanexport.ir.steps import Clip, Select

Array = npt.NDArray[np.float64]

NOT_SUPPORTED = "edit-not-supported"
WITH_TO = "replace the curve by a function with --to"


@dataclass(frozen=True, slots=True)
class Edge:
    """Edge of a layer. `at`: (layer, source, destination); `offset`, `scale`: of the scaler, in the user's units."""

    layer: Layer
    at: tuple[int, int, int]
    offset: float = 0.0
    scale: float = 1.0

    @property
    def name(self) -> str:
        """Such as "0:2:1"."""
        return ":".join(map(str, self.at))

    @property
    def source(self) -> int:
        """The number of its source."""
        return self.at[1]

    @property
    def destination(self) -> int:
        """The number of its destination."""
        return self.at[2]

    @property
    def mask(self) -> float:
        """The factor of its terms."""
        return float(self.layer.mask[self.source, self.destination])

    @property
    def symbolic(self) -> SymbolicEdge | None:
        """Its symbolic function, if it contributes."""
        return next((edge for edge in self.layer.symbolic if self._same(edge) and edge.mask != 0), None)

    @property
    def numeric(self) -> bool:
        """Whether its terms contribute."""
        return self.mask != 0 and any(np.any(term.coef[self.source, self.destination]) for term in self.layer.terms)

    def _same(self, edge: SymbolicEdge) -> bool:
        return (edge.source, edge.destination) == (self.source, self.destination)

    def grid(self) -> tuple[float, float]:
        """The range of the training data, as the basis with most functions has it."""
        low, high = self.layer.support().core
        return self.x_of(float(low[self.source])), self.x_of(float(high[self.source]))

    def knots(self) -> Array:
        """[n]: the knots of its source, ascending."""
        return np.sort(self.offset + self.scale * self.layer.support().points[:, self.source])

    def x_of(self, value: float) -> float:
        """x for a value of the source that the edge reads."""
        return self.offset + self.scale * value

    def on(self, layer: Layer) -> Edge:
        """The same edge on a changed layer."""
        return dataclasses.replace(self, layer=layer)

    def read(self, x: Array) -> Array:
        """[n] -> [n]: the values of the source that the edge reads for x."""
        return (x - self.offset) / self.scale

    def of_x(self, edge: SymbolicEdge) -> SymbolicEdge:
        """The symbolic edge that reads the source, from one that reads x."""
        return dataclasses.replace(edge, a=edge.a * self.scale, b=edge.a * self.offset + edge.b)

    def design(self, term: Term, x: Array) -> Array:
        """[n] -> [n, K]: the functions of a term on this edge, without coefficients and mask."""
        with np.errstate(all="ignore"):
            nodes = np.repeat(self.read(x)[:, None], self.layer.sources, axis=1)
            for step in term.pre_steps:
                nodes = step.evaluate(nodes)
            if isinstance(term, EdgeTerm):
                inner = nodes[:, self.source, None] - term.centre[self.source, self.destination]
                return np.asarray(term.function.evaluate(inner * term.rate[self.source, self.destination]))
            return np.asarray(term.basis.evaluate(nodes)[:, :, self.source])

    def values(self, x: Array) -> Array:
        """[n] -> [n]: the curve."""
        total = np.zeros(len(x))
        with np.errstate(all="ignore"):
            if self.mask != 0:
                for term in self.layer.terms:
                    coef = term.coef[self.source, self.destination]
                    if np.any(coef):
                        total += self.mask * (self.design(term, x) @ coef)
            edge = self.symbolic
            if edge is not None:
                total += edge.mask * (edge.c * edge.function.evaluate(edge.a * self.read(x) + edge.b) + edge.d)
        return total

    def with_symbolic(self, edge: SymbolicEdge | None) -> Layer:
        """The layer with this symbolic function instead of the present one."""
        others = tuple(other for other in self.layer.symbolic if not self._same(other))
        return dataclasses.replace(self.layer, symbolic=others if edge is None else (*others, edge))

    def only(self, edge: SymbolicEdge | None) -> Layer:
        """The layer in which the edge is a symbolic function, or zero. The library's handling of values that are not
        finite (`nan_spreads`) stays."""
        return dataclasses.replace(self.with_symbolic(edge), mask=_set(self.layer.mask, self._pair, 0.0))

    def with_coefficients(self, at: int, coef: Array, *, others: bool) -> Layer:
        """The layer in which term `at` has these coefficients [K] on the edge. Without `others`, the edge has no other
        term and no symbolic function. The factor of the edge becomes 1."""
        terms = []
        for index, term in enumerate(self.layer.terms):
            present = term.coef[self.source, self.destination] * self.mask
            wanted = coef if index == at else present if others else np.zeros_like(present)
            terms.append(dataclasses.replace(term, coef=_set(term.coef, self._pair, wanted)))
        layer = self.layer if others else self.with_symbolic(None)
        return dataclasses.replace(layer, terms=tuple(terms), mask=_set(layer.mask, self._pair, 1.0))

    def moved(self, at: int, distance: float) -> EdgeTerm:
        """Term `at`, an EdgeTerm, with the functions of the edge moved by a distance along x."""
        term = self.layer.terms[at]
        assert isinstance(term, EdgeTerm)
        centre = term.centre[self.source, self.destination] + distance / self.scale
        return dataclasses.replace(term, centre=_set(term.centre, self._pair, centre))

    @property
    def _pair(self) -> tuple[int, int]:
        return self.source, self.destination


def find(kan: Kan, at: Sequence[int], scaler: Standardize | None = None) -> Edge:
    """The edge (layer, source, destination). `scaler`: of the inputs, if x is in the user's units. Raises OptionError
    for an edge that the network does not have, or that does not contribute, and InvalidKan for an edge that depends on
    the whole row."""
    layer, source, destination = at
    name = ":".join(map(str, at))
    if not 0 <= layer < len(kan.layers):
        raise OptionError(
            f"edge {name}: the network has no layer {layer}, expected 0 to {len(kan.layers) - 1}",
            code="edge-unknown",
            hint="`kanserve models NAME --json` lists the layers; all numbers count from 0",
        )
    chosen = kan.layers[layer]
    if not (0 <= source < chosen.sources and 0 <= destination < chosen.destinations):
        raise OptionError(
            f"edge {name}: layer {layer} has {chosen.sources} sources and {chosen.destinations} destinations",
            code="edge-unknown",
            hint="write LAYER:SOURCE:DESTINATION; all numbers count from 0",
        )
    if chosen.mixes:
        raise InvalidKan(
            f"edge {name}: layer {layer} normalizes each row, so that its edges are not functions of one source",
            code="edge-class-b",
            hint="edit an edge of a layer of class A",
        )
    if not chosen.active()[source, destination]:
        raise OptionError(
            f"edge {name} does not contribute: it is pruned or zero",
            code="edge-inactive",
            hint="edit an edge that contributes, or train the network again with this edge",
        )
    return in_units(chosen, (layer, source, destination), scaler)


def in_units(layer: Layer, at: tuple[int, int, int], scaler: Standardize | None) -> Edge:
    """The edge of a layer, with x in the user's units if it reads an input of the scaler. x of other edges, and of
    edges after a step that changes values, is the value that they read."""
    column = at[1]
    for step in reversed(layer.pre_steps):
        if isinstance(step, Select):
            column = step.indices[column]
        elif not isinstance(step, Clip | Standardize):
            return Edge(layer, at)
    if scaler is None or at[0] != 0:
        return Edge(layer, at)
    return Edge(layer, at, float(scaler.offset[column]), float(scaler.scale[column]))


def replaced(kan: Kan, edge: Edge, layer: Layer) -> Kan:
    """The network with another layer in place of the layer of the edge."""
    layers = tuple(layer if at == edge.at[0] else other for at, other in enumerate(kan.layers))
    return dataclasses.replace(kan, layers=layers)


def no_basis(edge: Edge) -> InvalidKan:
    """The error for an edge without basis functions."""
    return InvalidKan(
        f"edge {edge.name} has no basis functions to which another curve can be fitted",
        code=NOT_SUPPORTED,
        hint=WITH_TO,
    )


def spline_term(edge: Edge) -> tuple[int, BasisTerm]:
    """The number of the term with most functions, and the term. Raises InvalidKan if the layer has none that reads
    the source as it is."""
    terms = [(at, term) for at, term in enumerate(edge.layer.terms) if isinstance(term, BasisTerm)]
    if not terms:
        raise no_basis(edge)
    at, term = max(terms, key=lambda pair: pair[1].functions)
    if term.pre_steps:
        raise InvalidKan(
            f"edge {edge.name}: its {term.kind} reads the source after a step, so that no curve can be fitted to it",
            code=NOT_SUPPORTED,
            hint=f"{WITH_TO}, or {USE_MODULE}",
        )
    return at, term


def _set(array: Array, at: tuple[int, int], value: Array | float) -> Array:
    changed = array.copy()
    changed[at] = value
    return changed
