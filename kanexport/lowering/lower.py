"""Lowering of a Kan to ONNX graphs: one for inference, and one for the edges of each layer.

The serving graph has the output `y` and, as further outputs, the input vector
of every layer but the first. Those cost nothing: they exist anyway. Edge values
are in graphs of their own, because onnxruntime computes outputs nobody asks for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from kanexport.errors import InvalidKan
from kanexport.graph.builder import Graph, Value
from kanexport.graph.external_data import SHARED_FROM, Weights
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer
from kanexport.ir.steps import Step
from kanexport.lowering import interval_gather, kernel_forms, passes, spline_forms, symbolic_sums, terms
from kanexport.lowering.attribution import Anchor
from kanexport.lowering.passes import Block
from kanexport.shared import custom_ops
from kanexport.shared.manifest import ANY
from kanexport.shared.sections import Explanations


@dataclass(frozen=True, slots=True)
class Explained:
    """Explaining graph: `model` with the edges of some layers appended.

    notes   omitted parts, with the reason
    anchor  the reference of the contributions, if it has them
    """

    graph: bytes
    about: Explanations
    notes: tuple[str, ...] = ()
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True)
class Many:
    """Large-batch variant of the serving graph, for batches of at least `rows` rows."""

    graph: bytes
    rows: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """Serialized ONNX models of a network.

    edges         edges[l] is layer l's edge graph
    node_tensors  node_tensors[l] names the tensor of `model` that feeds layer l, and the input of its edge graph
    weights       the file from which all of them take large constants, if there is one
    explained     the explaining graph, if the user asked for it
    many          the large-batch variant, if it differs
    kernel        `model` by the operators of `custom_ops`, if a layer has terms that they support
    kernel_edges  edge graphs by SplineEdges, by layer
    kernel_optional  whether the export continues without these graphs if one of them fails the verification
    optimization  how far a runtime may change the graphs, `manifest.ANY` or `BASIC`
    """

    model: bytes
    edges: tuple[bytes, ...]
    node_tensors: tuple[str, ...]
    weights: Weights | None = None
    explained: Explained | None = None
    many: Many | None = None
    kernel: bytes | None = None
    kernel_edges: Mapping[int, bytes] = field(default_factory=dict)
    kernel_optional: bool = False
    optimization: str = ANY


def lower(
    kan: Kan,
    dtype: str,
    *,
    rows: int = 1,
    many: int = 0,
    kernel: bool = False,
    kernel_optional: bool = False,
    near: Collection[int] = (),
    curves: Kan | None = None,
) -> Lowered:
    """Lower a network to serialized graphs. Raises InvalidKan, which names the layer, for a weight that is too large
    for `dtype`.

    dtype   "float32" or "float64"
    rows    the batch size in which the serving graph shall be fast
    many    the batch size of a further serving graph, if that differs; 0 for none
    kernel  whether to lower also to the operators of `custom_ops`, if a layer has terms that they support
    kernel_optional  as in `Lowered`
    near    layers whose knots are treated as uniform, among those of `spline_forms.uniform_layers`; the operator has
            them as they are
    curves  the network of the edge graphs, if not the same one
    """
    read, kan = kan, spline_forms.with_uniform_knots(kan, near)
    weights = shared(kan.layers, dtype)
    names = tuple(INPUT if at == 0 else f"layer{at}_in" for at in range(len(kan.layers)))
    edges = []
    edge_layers = (curves or kan).layers
    for at, (layer, name, width) in enumerate(zip(edge_layers, names, kan.widths(), strict=False)):
        with naming(at):
            edges.append(edge_graph(layer, name, width, dtype, weights))
    model = serving_graph(kan, names, dtype, weights, rows=rows)
    other = serving_graph(kan, names, dtype, weights, rows=many) if many else model
    takes = kernel and any(kernel_forms.operators(read.layers, dtype))
    return Lowered(
        model,
        tuple(edges),
        names,
        weights,
        many=Many(other, many) if other != model else None,
        kernel=serving_graph(read, names, dtype, weights, custom=custom_ops.OPERATORS) if takes else None,
        kernel_edges=_kernel_edge_graphs(read, names, dtype, weights) if takes else {},
        kernel_optional=kernel_optional,
    )


def _kernel_edge_graphs(kan: Kan, names: tuple[str, ...], dtype: str, weights: Weights | None) -> dict[int, bytes]:
    graphs = {}
    for at, (layer, name, width) in enumerate(zip(kan.layers, names, kan.widths(), strict=False)):
        with naming(at):
            if (graph := kernel_edge_graph(layer, name, width, dtype, weights)) is not None:
                graphs[at] = graph
    return graphs


def shared(layers: Iterable[Layer], dtype: str) -> Weights | None:
    """The empty file for the constants of a model with these layers; None if each graph keeps its constants."""
    return Weights() if coefficient_bytes(layers, dtype) >= SHARED_FROM else None


def coefficient_bytes(layers: Iterable[Layer], dtype: str) -> int:
    """The size in bytes of all coefficients of these layers."""
    return sum(term.coef.size for layer in layers for term in layer.terms) * np.dtype(dtype).itemsize


INPUT = "x"

OUTPUT = "y"


def serving_graph(
    kan: Kan,
    names: tuple[str, ...],
    dtype: str,
    weights: Weights | None = None,
    *,
    whole: bool = True,
    rows: int = 1,
    custom: Collection[str] = (),
) -> bytes:
    """Graph from x [B, n] to y [B, m], with the input vectors of all layers except the first as additional outputs,
    [B, width]. Raises InvalidKan, which names the layer, for a weight that is too large.

    names    one for each layer, the first of which is not used
    dtype    "float32" or "float64"
    weights  as in `Graph`
    whole    whether it is a whole model; a part of a module may precede a normalization
    rows     the batch size for which it is optimized
    custom   operators of `custom_ops` that compute the terms and steps that they support
    """
    g = Graph("kan", dtype, weights)
    following = [*(layer.mixes for layer in kan.layers[1:]), not whole]
    x = g.input(INPUT, kan.n_inputs)
    outputs: dict[str, tuple[Value, tuple[int, ...]]] = {}
    for at, (layer, width) in enumerate(zip(kan.layers, kan.widths()[1:], strict=True)):
        g.small_values = following[at] or any(step.mixes for step in layer.post_steps)
        # A sum that a layer before computed is rounded, so that its product with a frequency is, too.
        g.exact_waves = at > 0 or g.dtype == np.float64
        g.unpacked = not custom and spline_forms.unpacked(layer, rows)
        with naming(at):
            carried = at > 0 and not custom and passes.carries_nan(kan.layers[at - 1], layer)
            live = passes.live(layer)
            live = kernel_forms.absorbed(live, dtype, custom)
            x = _steps(g, live.pre_steps, x, custom)
            x = _sums(g, live, x, custom, carried=carried)
            x = _steps(g, layer.post_steps, x, custom)
        last = at == len(kan.layers) - 1
        name = OUTPUT if last else names[at + 1]
        x = g.rename(x, name)
        outputs[name] = (x, (width,))
    return g.build({OUTPUT: outputs.pop(OUTPUT), **outputs})


def _steps(g: Graph, steps: Iterable[Step], x: Value, custom: Collection[str]) -> Value:
    for step in steps:
        x = kernel_forms.step(g, step, x, custom)
    return x


def _sums(g: Graph, layer: Layer, x: Value, custom: Collection[str], *, carried: bool) -> Value:
    """[B, I] -> [B, O]: the sum over the sources of every edge, plus the bias. `carried`: as `passes.carries_nan`
    says."""
    layer, edges = symbolic_sums.split(layer) if layer.symbolic else (layer, ())
    total = _custom_terms(g, layer, x, custom) if custom else None
    if total is None:
        total = _terms(g, layer, x, carried=carried)
    if layer.symbolic:
        # A gather and a sum, not a matrix product: NaN on one edge must reach its own destination only.
        columns, ordered = terms.symbolic_columns(g, layer, x)
        incoming: list[list[int]] = [[] for _ in range(layer.destinations)]
        for at, edge in enumerate(ordered):
            incoming[edge.destination].append(at)
        depth = max(map(len, incoming))
        table = [column + [len(ordered)] * (depth - len(column)) for column in incoming]  # padded with zeros
        flat = np.array(table, dtype=np.int64).T.reshape(-1)  # [depth * O]
        values = g.reshape(g.gather(columns, flat, axis=1), 0, depth, layer.destinations)
        total = g.add(total, g.sum(values, axis=1))
    if edges:
        total = symbolic_sums.summed(g, layer, edges, x, total)
    if layer.nan_spreads.any() and not layer.nan_spreads.all():
        # Counted, because 0 * NaN would reach destinations that have no such edge.
        spoilt = g.gemm(g.cast(terms.nonfinite(g, x)), g.const(layer.nan_spreads))
        total = g.op("Where", g.op("Greater", spoilt, g.const(0.0)), g.nan(), total)
    return total


def _custom_terms(g: Graph, layer: Layer, x: Value, custom: Collection[str]) -> Value | None:
    """[B, I] -> [B, O]: the bias and all terms by operators of `custom`; None if they support no term. Functions of
    single edges are expensive, so that only the edges that have some are evaluated."""
    by_edge = any(isinstance(term, EdgeTerm) for term in layer.terms)
    small, blocks = passes.separate(layer) if by_edge else (layer, [])
    total = kernel_forms.summed(g, small, x, custom) if small.terms else _start(g, layer, x)
    if total is None:
        return None
    return functools.reduce(lambda total, block: g.add(total, _block(g, layer, block, x, custom)), blocks, total)


def _terms(g: Graph, layer: Layer, x: Value, *, carried: bool) -> Value:
    """[B, I] -> [B, O]: the bias and all terms, for the sources that contribute."""
    part, kept = passes.drop_idle_sources(layer)
    rest, blocks = passes.separate(part)
    if carried and kept is None and not blocks:
        bias = g.const(layer.bias[None]) if layer.bias.any() else None
        return _summed(g, layer, x, bias)
    total = _start(g, layer, x)
    if kept is not None:
        x = g.gather(x, kept, axis=1)
    if rest.terms:
        total = _summed(g, rest, x, total)
    return functools.reduce(lambda total, block: g.add(total, _block(g, part, block, x)), blocks, total)


def _summed(g: Graph, layer: Layer, x: Value, total: Value | None) -> Value:
    """[B, I] and the initial value of the sums, if there is one -> [B, O]: all terms."""
    if spline_forms.fits(g, layer):
        return spline_forms.summed(g, layer, x, total)
    for term in layer.terms:
        if isinstance(term, BasisTerm) and interval_gather.fits(g, layer, term):
            value = interval_gather.summed(g, layer, term, x)
            total = value if total is None else g.add(total, value)
        else:
            total = terms.summed(g, layer, term, x, total)
    assert total is not None
    return total


def _block(g: Graph, whole: Layer, block: Block, x: Value, custom: Collection[str] = ()) -> Value:
    """[B, I] -> [B, O]: the sums of a block, and zero for other destinations."""
    sources, destinations = block.sources, block.destinations
    own = g.slice(x, sources.start, sources.stop, axis=1) if block.layer.sources < whole.sources else x
    bare = dataclasses.replace(block.layer, bias=0 * block.layer.bias, nan_spreads=block.layer.nan_spreads & False)
    value = kernel_forms.summed(g, bare, own, custom) or _summed(g, block.layer, own, None)
    if block.layer.destinations < whole.destinations:
        ends = [0, destinations.start, 0, whole.destinations - destinations.stop]
        value = g.op("Pad", value, g.index(ends), g.const(0.0))
    if not whole.nan_spreads.all() and any(map(passes.spoils, block.layer.terms)):
        value = g.add(value, g.sum(g.sub(x, x), axis=1, keepdims=True, exact=True))
    return value


def _start(g: Graph, layer: Layer, x: Value) -> Value:
    """The initial value of the sums, [B, 1], [1, O] or [B, O]: the bias, and NaN in every row with a non-finite
    source if that spreads (x - x is zero or NaN)."""
    bias = g.const(layer.bias[None])
    if layer.terms and not layer.nan_spreads.all():
        return bias
    spread = g.sum(g.sub(x, x), axis=1, keepdims=True, exact=True)
    if not layer.nan_spreads.all():  # no terms: only the batch axis is wanted
        spread = g.op("Where", g.op("IsNaN", spread), g.const(0.0), spread)
    return g.add(spread, bias) if layer.bias.any() or not layer.terms else spread


@contextlib.contextmanager
def naming(at: int) -> Iterator[None]:
    """Context in which errors, such as a weight that is too large for float32, name the layer."""
    try:
        yield
    except InvalidKan as error:
        raise error.at(f"layer {at}") from error


EDGES = "edges"


def edge_graph(
    layer: Layer, name: str, width: int, dtype: str, weights: Weights | None = None, *, kernel: bool = False
) -> bytes:
    """A graph from the input vector of a layer [B, width], named `name`, to the values of its edges [B, I, O], named
    EDGES, and to the part of each term, with the names of `term_tensors`; in "float32" or "float64". `weights`: as
    in `Graph`. `kernel`: only EDGES, with splines by SplineEdges, for a compiler of graphs. Raises InvalidKan for a
    weight that is too large."""
    g = Graph("edges", dtype, weights)
    g.small_values = False
    x = _steps(g, layer.pre_steps, g.input(name, width), ())
    total, parts = _edge_values(g, layer, x, kernel=kernel)
    shape: tuple[int, ...] = (layer.sources, layer.destinations)
    return g.build({name: (value, shape) for name, value in {EDGES: total, **parts}.items()})


FEWEST_EDGES = 2**15  # of a layer; an edge graph by SplineEdges saves less time for fewer than a request takes


def kernel_edge_graph(layer: Layer, name: str, width: int, dtype: str, weights: Weights | None = None) -> bytes | None:
    """A graph from the input vector of a layer [B, width], named `name`, and `custom_ops.STRONGEST` to the result of
    SplineEdges, named EDGES. None if other terms add to the edges, or if the layer has few edges. `weights`: as in
    `Graph`. Raises InvalidKan for a weight that is too large."""
    live = passes.live(layer)
    taken = kernel_forms.splines_only(live, dtype)
    if taken is None or layer.mask.size < FEWEST_EDGES:
        return None
    g = Graph("edges", dtype, weights)
    g.small_values = False
    x, count = g.input(name, width), g.input(custom_ops.STRONGEST, 1, batch=1)
    x = _steps(g, layer.pre_steps, x, ())
    values = taken.emit(g, live, x, count, spreads=bool(live.nan_spreads.all()), edges=True)
    return g.build({EDGES: (values, ("numbers",))})


def term_tensors(layer: Layer) -> tuple[str, ...]:
    """The name of the part of each term in the edge graph; "" for a term that adds nothing, and for a single part."""
    live = passes.live(layer)
    if len(live.terms) + bool(live.symbolic) < 2:
        return ("",) * len(layer.terms)
    return tuple(f"{EDGES}_term{at}" if term in live.terms else "" for at, term in enumerate(layer.terms))


def _edge_values(g: Graph, layer: Layer, x: Value, *, kernel: bool) -> tuple[Value, dict[str, Value]]:
    """[B, I] -> [B, I, O]: every edge by itself, and its parts by name. `kernel`: without parts, and with the terms of
    the custom operator by its form for edges."""
    live = passes.live(layer)
    taken = kernel_forms.splines(live, g.dtype) if kernel else None
    parts: list[Value] = []
    named: dict[str, Value] = {}
    if taken is not None:
        parts.append(taken.emit(g, live, x, g.const(live.bias[None]), spreads=False, edges=True))
    for name, term in zip(term_tensors(layer), layer.terms, strict=True):
        if term in live.terms and not (taken and term in (taken.spline, taken.base)):
            parts.append(terms.by_edge(g, live, term, x))
            named |= {name: parts[-1]} if name and not kernel else {}
    if live.symbolic:  # zero for an edge without a symbolic function
        columns, ordered = terms.symbolic_columns(g, live, x)
        place = np.full(layer.mask.shape, len(ordered), dtype=np.int64)
        for at, edge in enumerate(ordered):
            place[edge.source, edge.destination] = at
        parts.append(g.reshape(g.gather(columns, place.reshape(-1), axis=1), 0, layer.sources, layer.destinations))
    total = functools.reduce(g.add, parts or [g.const(np.zeros((1, layer.sources, layer.destinations)))])
    # NaN on the edges that become NaN for a source that is not finite.
    if live.nan_spreads.all():
        total = g.add(total, g.reshape(g.sub(x, x), 0, layer.sources, 1))
    elif live.nan_spreads.any():
        spoilt = g.op("And", g.reshape(terms.nonfinite(g, x), 0, layer.sources, 1), g.truth(live.nan_spreads[None]))
        total = g.op("Where", spoilt, g.nan(), total)
    return total, named
