"""Model of a KAN: layers of edges, in one form for every library.

Every edge from source i to destination j of a layer carries

    phi_ji(x) = mask_ij * sum over basis terms, functions c of coef_ijc * basis_c(x_i)
              + mask_ij * sum over edge terms, c of coef_ijc * f((x_i - centre_ijc) * rate_ijc)
              + its symbolic function: m * (c * f(a * x_i + b) + d)

and a destination is the sum of its edges plus a bias. Steps before (select
columns, normalise) and after (affine, products) act on whole vectors; a basis
term can have steps of its own, where one branch sees the normalised sources and
another the raw ones.
Invalid values cannot be constructed. Weights are float64 here, whatever the
checkpoint stored; `Kan.dtype` remembers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis, Support
from kanexport.errors import (
    CHECK_FAMILY,
    USE_MODULE,
    InvalidKan,
    network_too_large,
    tensors_inconsistent,
    weights_not_finite,
)
from kanexport.functions.elementwise import Unary
from kanexport.graph.precision import FULL
from kanexport.ir.steps import Step

Array = npt.NDArray[np.float64]

FUNCTION_LIMIT = 4096  # of one edge and term; trained KANs have up to a thousand
LAYER_LIMIT = 256  # of one network, so that no file makes a graph without end
TERM_LIMIT = 64  # of a layer; only grids that differ from edge to edge make more than three


@dataclass(frozen=True, slots=True, eq=False)
class BasisTerm:
    """Term of a layer: a basis shared by all edges, with coefficients [I, O, K].

    pre_steps  steps from the layer's sources to the inputs of this term alone
    stored     the storage of the coefficients in a graph, one of `precision.STORED`; they are rounded to it
    """

    basis: Basis
    coef: Array
    pre_steps: tuple[Step, ...] = ()
    stored: str = FULL

    @property
    def kind(self) -> str:
        """The kind of the basis, such as "bspline"."""
        return self.basis.kind

    @property
    def functions(self) -> int:
        """K, the number of functions per edge."""
        return self.basis.functions

    def support(self, sources: int) -> Support:
        """The input range of the basis, for each of `sources` sources."""
        return self.basis.support(sources)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InvalidKan if the parts do not fit a layer of `shape` [I, O]."""
        _check_functions(self.kind, self.functions)
        expected = (*shape, self.functions)
        if self.coef.shape != expected:
            raise tensors_inconsistent(f"coefficients of {self.kind} have shape {self.coef.shape}, expected {expected}")
        if self.basis.sources not in (None, shape[0]):
            raise tensors_inconsistent(f"{self.kind} has {self.basis.sources} sources, the layer has {shape[0]}")
        if any(step.width_out(shape[0]) != shape[0] for step in self.pre_steps):
            raise tensors_inconsistent(f"a step before {self.kind} changes the number of sources")
        _require_finite(self.coef, f"{self.kind} coefficient")


@dataclass(frozen=True, slots=True, eq=False)
class EdgeTerm:
    """Term of a layer: coef * function((x - centre) * rate), all [I, O, K]. It has one function, such as a wavelet;
    each edge has its shifts and rates. `pre_steps`: as in BasisTerm."""

    function: Unary
    centre: Array
    rate: Array
    coef: Array
    pre_steps: tuple[Step, ...] = ()

    @property
    def kind(self) -> str:
        """The name of the function, such as "morlet"."""
        return self.function.name

    @property
    def functions(self) -> int:
        """K, the number of functions per edge."""
        return int(self.coef.shape[2])

    def support(self, sources: int) -> Support:
        """One width around the centers of the edges of a source, and four."""
        width = 1 / np.maximum(np.abs(self.rate), 1e-30)
        low, high = ((self.centre + side * width) for side in (-1, 1))
        far, beyond = ((self.centre + side * width) for side in (-4, 4))
        core = (low.min(axis=(1, 2)), high.max(axis=(1, 2)))
        return Support(core, (far.min(axis=(1, 2)), beyond.max(axis=(1, 2))), np.linspace(*core, 9))

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InvalidKan if the parts do not fit a layer of `shape` [I, O]."""
        for name, array in (("coefficient", self.coef), ("centre", self.centre), ("rate", self.rate)):
            if array.ndim != 3 or array.shape[:2] != shape or array.shape != self.coef.shape:
                raise tensors_inconsistent(
                    f"{self.kind} {name} has shape {array.shape}, expected {shape} and functions"
                )
            _check_functions(self.kind, self.functions)
            _require_finite(array, f"{self.kind} {name}")


Term = BasisTerm | EdgeTerm


@dataclass(frozen=True, slots=True)
class SymbolicEdge:
    """Symbolic function of one edge: mask * (c * function(a * x + b) + d)."""

    source: int
    destination: int
    function: Unary
    a: float
    b: float
    c: float
    d: float
    mask: float


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """KAN layer.

    mask         [I, O], multiplies the terms
    bias         [O]
    name         the name in its library or module, if there is one
    nan_spreads  [I, O]: edges that become NaN for a non-finite source, whatever their functions: where a library
                 multiplies the source by unused functions as well, and 0 * NaN is NaN. Elsewhere compact bases
                 give zero for a non-finite value, and the other terms follow IEEE arithmetic
    """

    terms: tuple[Term, ...]
    mask: Array
    bias: Array
    nan_spreads: npt.NDArray[np.bool_]
    symbolic: tuple[SymbolicEdge, ...] = ()
    pre_steps: tuple[Step, ...] = ()
    post_steps: tuple[Step, ...] = ()
    name: str = ""

    @property
    def sources(self) -> int:
        """I, the number of nodes it reads."""
        return int(self.mask.shape[0])

    @property
    def destinations(self) -> int:
        """O, the number of nodes its edges sum to, before the steps after."""
        return int(self.mask.shape[1])

    def __post_init__(self) -> None:
        shape = self.mask.shape
        if len(shape) != 2 or 0 in shape:
            raise tensors_inconsistent(f"a layer has a mask of shape {shape}, expected sources and destinations")
        if self.nan_spreads.shape != shape:
            raise tensors_inconsistent(f"the NaN mask of a layer has shape {self.nan_spreads.shape}, expected {shape}")
        if self.bias.shape != (shape[1],):
            raise tensors_inconsistent(f"bias has shape {self.bias.shape}, expected ({shape[1]},)")
        if len(self.terms) > TERM_LIMIT:
            raise network_too_large(
                f"the edges of one source have {len(self.terms)} different grids or functions, expected at most "
                f"{TERM_LIMIT}",
                hint=USE_MODULE,
            )
        _require_finite(self.mask, "mask")
        _require_finite(self.bias, "bias")
        for term in self.terms:
            term.check(shape)
        for edge in self.symbolic:
            _check_symbolic(edge, shape)
        if len({(edge.source, edge.destination) for edge in self.symbolic}) < len(self.symbolic):
            raise InvalidKan(
                "an edge has more than one symbolic function", code="symbolic-edge-conflict", hint=CHECK_FAMILY
            )

    @property
    def mixes(self) -> bool:
        """Whether an edge depends on other nodes of the row than its source (class B)."""
        return any(step.mixes for step in (*self.pre_steps, *(s for term in self.terms for s in term.pre_steps)))

    def active(self) -> npt.NDArray[np.bool_]:
        """[I, O]: edges that can contribute."""
        active: npt.NDArray[np.bool_] = self.mask != 0
        for edge in self.symbolic:
            active[edge.source, edge.destination] |= edge.mask != 0
        return active

    def support(self) -> Support:
        """The support of the term with most functions, which shows the range of the layer best."""
        if self.terms:
            return max(self.terms, key=lambda term: term.functions).support(self.sources)
        ones = np.ones(self.sources)
        return Support((-ones, ones), (-2 * ones, 2 * ones), np.zeros((1, self.sources)))


@dataclass(frozen=True, slots=True, eq=False)
class Kan:
    """KAN of any number of layers.

    dtype  the checkpoint's, one of `graph.precision.STORED`
    notes  facts for a reader of the numbers, one sentence each
    """

    n_inputs: int
    layers: tuple[Layer, ...]
    dtype: str = "float32"
    notes: tuple[str, ...] = ()

    @property
    def n_outputs(self) -> int:
        """The width of the result of the last layer, after its steps."""
        return self.widths()[-1]

    @property
    def edge_class(self) -> str:
        """A: an edge depends only on its source; B: on the whole row."""
        return "B" if any(layer.mixes for layer in self.layers) else "A"

    def __post_init__(self) -> None:
        if not self.layers:
            raise InvalidKan("the network has no layer", code="layers-not-found", hint=CHECK_FAMILY)
        if len(self.layers) > LAYER_LIMIT:
            raise network_too_large(f"the KAN has {len(self.layers)} layers, expected at most {LAYER_LIMIT}")
        self.widths()

    def widths(self) -> tuple[int, ...]:
        """The width of the input vector of each layer, and of the output. Raises InvalidKan if consecutive shapes do
        not fit."""
        width = self.n_inputs
        widths = [width]
        for index, layer in enumerate(self.layers):
            for step in layer.pre_steps:
                width = step.width_out(width)
            if width != layer.sources:
                raise tensors_inconsistent(
                    f"layer {index} has {layer.sources} sources, but its input has {width} values",
                    hint="pass the order of the layers with --architecture FILE",
                )
            width = layer.destinations
            for step in layer.post_steps:
                width = step.width_out(width)
            widths.append(width)
        return tuple(widths)


def _check_functions(kind: str, count: int) -> None:
    if not 1 <= count <= FUNCTION_LIMIT:
        raise network_too_large(
            f"{kind} has {count} functions per edge, expected 1 to {FUNCTION_LIMIT}",
            hint="export a network with fewer functions per edge",
        )


def _require_finite(array: Array, what: str) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        at = ", ".join(str(int(v)) for v in bad[0])
        raise weights_not_finite(
            f"{what} at [{at}] is {float(array[tuple(bad[0])])!r} ({len(bad)} of {array.size} are not finite)"
        )


def _check_symbolic(edge: SymbolicEdge, shape: tuple[int, ...]) -> None:
    where = f"symbolic edge ({edge.source},{edge.destination})"
    if not (0 <= edge.source < shape[0] and 0 <= edge.destination < shape[1]):
        raise InvalidKan(
            f"{where} is outside a layer of {shape[0]} sources and {shape[1]} destinations",
            code="symbolic-edge-unknown",
            hint="check the layer, source and destination; they count from 0",
        )
    if not np.isfinite([edge.a, edge.b, edge.c, edge.d, edge.mask]).all():
        raise weights_not_finite(f"{where} has an affine value that is not finite")
