"""Terms of a layer by the custom operators of `kanserve-kernel`, and the rest by portable operators of the same graph.

| operator | terms |
|---|---|
| SplineLayer | the first B-splines of a degree in `custom_ops.DEGREES`, and a SiLU base branch |
| SplineEdges | the same terms before the sums |
| BasisLayer | bases whose emitted operators are instructions of `graph/vector_program.py`, up to four terms |
| NormLayer | no terms: a layer or group normalization before or after a layer |
| EdgeLayer | functions with separate shifts and rates for every edge, such as wavelets |

Each operator starts with the sums of the one before; the first starts with the bias. A layer normalization before a
basis is a part of BasisLayer, and so are steps of single nodes, such as an affine map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bases import Basis
from kanexport.bases.bspline import BSpline
from kanexport.bases.uniform_cubic import DEGREE as CUBIC
from kanexport.bases.uniform_cubic import Cubic
from kanexport.graph.builder import Graph, Value
from kanexport.graph.vector_program import Emit, NoProgramError, Program, compiled
from kanexport.ir.model import BasisTerm, EdgeTerm, Layer, Term
from kanexport.ir.norms import GroupNorm, LayerNorm, NormOfGroups
from kanexport.ir.quantized_basis import Stepped
from kanexport.ir.steps import Affine, Step
from kanexport.lowering import passes, terms
from kanexport.lowering.passes import SILU
from kanexport.shared import custom_ops

Array = npt.NDArray[np.float64]

TOGETHER = 4  # terms of one BasisLayer


@dataclass(frozen=True, slots=True, eq=False)
class Splines:
    """Splines of a layer with their base branch: a SplineLayer.

    knots  [I, T], or [1, T] if all sources share them
    """

    spline: BasisTerm
    degree: int
    knots: Array
    base: BasisTerm | None

    def emit(self, g: Graph, layer: Layer, x: Value, start: Value, *, spreads: bool, edges: bool = False) -> Value:
        """[B, I] and the sums so far -> [B, O]. `edges`: the edges instead, [B, I * O] or the strongest of them, by
        SplineEdges. `start` is then the number of these, `custom_ops.STRONGEST`. A compiler of graphs has all edges,
        [B, I, O]."""
        sources, destinations = layer.sources, layer.destinations
        inputs = [
            x,
            start,
            g.const(self.knots),
            terms.weight_matrix(g, layer, self.spline, self.spline.functions * sources, destinations),
        ]
        if self.base is not None:
            inputs.append(terms.weight_matrix(g, layer, self.base, sources, destinations))
        return g.custom(
            custom_ops.SPLINE_EDGES if edges else custom_ops.SPLINES,
            *inputs,
            shape=(sources, destinations) if edges else destinations,
            degree=self.degree,
            scale=1 / self.spline.basis.emitted_scale(g),  # the coefficients are the portable graph's
            base=SILU if self.base is not None else "",
            nan_spreads=int(spreads),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Bases:
    """Up to four terms of one program: a BasisLayer. `epsilon`: that of the layer normalization, if a term has one."""

    terms: tuple[BasisTerm, ...]
    program: Program
    epsilon: float | None

    def emit(self, g: Graph, layer: Layer, x: Value, start: Value, *, spreads: bool) -> Value:
        """[B, I] and the sums so far -> [B, O]."""
        sources, destinations = layer.sources, layer.destinations
        weights = [terms.weight_matrix(g, layer, term, term.functions * sources, destinations) for term in self.terms]
        return g.custom(
            custom_ops.BASIS,
            *(x, start, *_constants(g, self.program), g.const(self.program.tables)),
            *weights,
            shape=destinations,
            terms=len(weights),
            registers=self.program.registers,
            normalized=int(self.epsilon is not None),
            epsilon=self.epsilon or 0.0,
            nan_spreads=int(spreads),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """A term with shifts and rates of each edge: an EdgeLayer."""

    term: EdgeTerm
    program: Program

    def emit(self, g: Graph, layer: Layer, x: Value, start: Value, *, spreads: bool) -> Value:
        """[B, I] and the sums so far -> [B, O]."""
        arrays = (self.term.centre, self.term.rate, passes.coefficients(layer, self.term))
        rows = layer.sources * self.term.functions
        tables = [g.const(array.transpose(0, 2, 1).reshape(rows, layer.destinations)) for array in arrays]
        return g.custom(
            custom_ops.EDGES,
            *(x, start, *_constants(g, self.program), *tables),
            shape=layer.destinations,
            functions=self.term.functions,
            registers=self.program.registers,
            nan_spreads=int(spreads),
        )


Part = Splines | Bases | Edges


def summed(g: Graph, layer: Layer, x: Value, custom: Collection[str]) -> Value | None:
    """[B, I] -> [B, O]: the bias and all terms, and NaN in rows with a source that is not finite, if that spreads to
    all destinations; None if no operator of `custom` supports a term."""
    parts, rest = plan(layer, g.dtype, custom)
    if not parts:
        return None
    total, spreads = g.const(layer.bias[None]), bool(layer.nan_spreads.all())
    for part in parts:
        total = part.emit(g, layer, x, total, spreads=spreads)
        spreads = False
    for term in rest:
        total = terms.summed(g, layer, term, x, total)
    return total


# radon: one expression for each operator.
def plan(
    layer: Layer, dtype: npt.DTypeLike, custom: Collection[str] = custom_ops.OPERATORS
) -> tuple[list[Part], list[Term]]:
    """The operators of a layer among `custom`, in order, and the terms that remain for portable operators."""
    if np.dtype(dtype) != np.float32:
        return [], list(layer.terms)
    parts: list[Part] = []
    taken = splines(layer, dtype) if custom_ops.SPLINES in custom else None
    if taken is not None:
        parts.append(taken)
    left = [term for term in layer.terms if taken is None or term not in (taken.spline, taken.base)]
    names = {id(term): custom_ops.EDGES if isinstance(term, EdgeTerm) else custom_ops.BASIS for term in left}
    chosen = [term for term in left if names[id(term)] in custom]
    programs = [(term, program) for term in chosen if (program := _own_program(layer, term)) is not None]
    for group in _groups([term for term, _ in programs if isinstance(term, BasisTerm)]):
        parts.append(Bases(group, compiled(_emission(layer, group), layer.sources), _epsilon(group)))
    parts += [Edges(term, program) for term, program in programs if isinstance(term, EdgeTerm)]
    supported = [term for term, _ in programs]
    return parts, [term for term in left if term not in supported]


def splines(layer: Layer, dtype: npt.DTypeLike) -> Splines | None:
    """The splines that SplineLayer supports, if a layer has some."""
    bases = [term for term in layer.terms if isinstance(term, BasisTerm) and not term.pre_steps]
    for term in bases:
        form = _spline_form(term.basis)
        if form is not None and np.dtype(dtype) == np.float32:
            degree, knots = form
            return Splines(term, degree, knots, next((base for base in bases if base.kind == SILU), None))
    return None


def splines_only(layer: Layer, dtype: npt.DTypeLike) -> Splines | None:
    """The splines of a live layer whose edges are the results of SplineEdges, without other operators."""
    taken = splines(layer, dtype)
    if taken is None or layer.symbolic or (layer.nan_spreads.any() and not layer.nan_spreads.all()):
        return None
    return taken if all(term in (taken.spline, taken.base) for term in layer.terms) else None


def absorbed(layer: Layer, dtype: npt.DTypeLike, custom: Collection[str]) -> Layer:
    """The layer with its normalization and affine maps as steps of its terms, if one BasisLayer then computes it."""
    steps = layer.pre_steps
    movable = custom_ops.BASIS in custom and all(isinstance(step, (LayerNorm, Affine)) for step in steps)
    # The terms are all that reads the sources, and none of them is for SplineLayer.
    whole = layer.nan_spreads.all() or not layer.nan_spreads.any()
    alone = layer.terms and whole and not layer.symbolic and splines(layer, dtype) is None
    if not steps or not movable or not alone:
        return layer
    moved = tuple(dataclasses.replace(term, pre_steps=(*steps, *term.pre_steps)) for term in layer.terms)
    changed = dataclasses.replace(layer, terms=moved, pre_steps=())
    parts, rest = plan(changed, dtype)
    return changed if len(parts) == 1 and isinstance(parts[0], Bases) and not rest else layer


def operators(layers: Iterable[Layer], dtype: npt.DTypeLike) -> Iterator[bool]:
    """For each layer, whether an operator supports one of its terms."""
    return (bool(plan(passes.live(layer), dtype)[0]) for layer in layers)


def notes(layers: Sequence[Layer], dtype: npt.DTypeLike, *, requested: bool) -> tuple[str, ...]:
    """Notes of the manifest on the graph with the custom operators, if the user `requested` it."""
    if not requested:
        return ()
    which = [str(at) for at, fits in enumerate(operators(layers, dtype)) if fits]
    if not which:
        return (f"{custom_ops.KERNEL_FILE} was not written: no layer has functions that its operators support",)
    return (
        f"{custom_ops.KERNEL_FILE} is the same network; operators of kanserve-kernel compute "
        f"layer{'s' * (len(which) > 1)} {', '.join(which)}; a server without the operators does not use the file",
    )


def step(g: Graph, step: Step, x: Value, custom: Collection[str]) -> Value:
    """[B, N] -> [B, M]: a step before or after a layer."""
    norm, groups = (step.norm, step.groups) if isinstance(step, NormOfGroups) else (step, 1)
    if isinstance(norm, GroupNorm):
        groups = norm.groups
    if custom_ops.NORM not in custom or g.dtype != np.float32 or not isinstance(norm, (LayerNorm, GroupNorm)):
        return step.emit(g, x)
    repeat = groups if isinstance(step, NormOfGroups) else 1
    scale, bias = (g.const(np.tile(part, repeat)[None]) for part in (norm.scale, norm.bias))
    shape = len(norm.scale) * repeat
    return g.custom(custom_ops.NORM, x, bias, scale, shape=shape, groups=groups, epsilon=norm.epsilon)


def _spline_form(basis: Basis) -> tuple[int, Array] | None:
    """Degree and knots of splines that SplineLayer supports, in its precision; None for other functions."""
    if isinstance(basis, Cubic):
        degree, knots = CUBIC, basis.common_knots()
    elif isinstance(basis, BSpline):
        degree, knots = basis.degree, basis.extended
    else:
        return None
    if degree not in custom_ops.DEGREES or knots is None:
        return None
    cells = np.diff(knots.astype(np.float32).astype(np.float64), axis=1)
    fits = ((cells >= custom_ops.NARROWEST) & (cells <= custom_ops.WIDEST)).all()
    return (degree, basis.knots() if isinstance(basis, BSpline) else knots) if fits else None


def _own_program(layer: Layer, term: Term) -> Program | None:
    """The program of a single term; None if it has none."""
    try:
        if isinstance(term, EdgeTerm):
            return None if term.pre_steps else compiled(lambda g, u, _: [(term.function.emit(g, u), 1)], 1)
        return None if isinstance(term.basis, Stepped) else compiled(_emission(layer, [term]), layer.sources)
    except NoProgramError:
        return None


def _groups(bases: Sequence[BasisTerm]) -> Iterator[tuple[BasisTerm, ...]]:
    """Terms of one operator: they have one epsilon of a layer normalization, or none."""
    group: list[BasisTerm] = []
    for term in bases:
        known = {epsilon for epsilon in (_epsilon([other]) for other in (*group, term)) if epsilon is not None}
        if len(group) == TOGETHER or len(known) > 1:
            yield tuple(group)
            group = []
        group.append(term)
    if group:
        yield tuple(group)


def _epsilon(group: Iterable[BasisTerm]) -> float | None:
    norms = (term.pre_steps[0] for term in group if term.pre_steps)
    return next((norm.epsilon for norm in norms if isinstance(norm, LayerNorm)), None)


def _emission(layer: Layer, group: Sequence[BasisTerm]) -> Emit:
    """Emission of the functions of terms, from the sources and their layer normalization without scale and bias."""

    def emit(g: Graph, x: Value, normalized: Value) -> list[tuple[Value, int]]:
        results = []
        for term in group:
            value, steps = x, term.pre_steps
            if steps and isinstance(steps[0], LayerNorm):
                norm, steps = steps[0], steps[1:]
                value = g.add(g.mul(normalized, g.const(norm.scale)), g.const(norm.bias))
            if any(step.mixes for step in steps):
                raise NoProgramError("a step mixes the nodes of a row")
            for step in steps:
                value = step.emit(g, value)
            value = terms.guarded(g, layer, term, value)
            results.append((term.basis.emit(g, value, layer.sources), term.functions))
        return results

    return emit


def _constants(g: Graph, program: Program) -> tuple[Value, Value]:
    return g.const(program.code), g.const(program.constants)
