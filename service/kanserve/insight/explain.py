"""Explanations of a model's outputs: the values for `analysis/attribution.py` from its graph and its edge graphs.

The explained layers are a chain that ends at the output: each takes the output of the previous one. In a network that
was read as layers, all layers are in the chain. In a torch module, it is the KAN layers at the end, as far as their
values confirm it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kanexport.shared import step_rules
from kanexport.shared.manifest import HYBRID, LayerInfo, Manifest
from kanserve.analysis import attribution
from kanserve.analysis.attribution import Floats, LayerActivations, Part
from kanserve.errors import FailedPrecondition
from kanserve.insight.edge_queries import STEP_BYTES, LayerGraph
from kanserve.runtime.base import Session
from kanserve.sandbox import verify
from kanserve.scheduling import batching
from kanserve.types import DTYPES, Array, Explanation, LayerPath

RESCALE, GRADIENT = METHODS = ("rescale", "gradient_x_input")
KEPT = 16 * 2**20  # bytes of a named reference
ALIKE = 1e-3  # of the largest value: tolerance for the results of a layer and the inputs of the next one
SOME = 8  # rows on which these are compared
REACH = 1e-3  # of a node's magnitude: distance of the two points of a slope


@dataclass(frozen=True, slots=True)
class ExplainedLayer:
    """Layer of the chain, with the parts of its edges."""

    graph: LayerGraph
    parts: tuple[Part, ...]

    @property
    def layer(self) -> LayerInfo:
        return self.graph.layer

    def at(self, nodes: Array) -> LayerActivations:
        """The activations of the edges for node vectors [B, n] of the graphs."""
        names = [name for part in self.parts for name in part.tensors]
        total, *more = (values.astype(np.float64) for values in self.graph.parts(nodes, names))
        return LayerActivations(
            nodes.astype(np.float64), attribution.divided(self.parts, total, dict(zip(names, more, strict=True)))
        )


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """Forward pass over some rows: activations of each layer of the chain, and outputs [B, O]."""

    links: tuple[LayerActivations, ...]
    outputs: Floats


@dataclass(frozen=True, slots=True)
class Base:
    """Reference row: its forward pass, and the slopes of the edges of each part of each layer."""

    seen: ForwardPass
    slopes: Sequence[Sequence[Floats | None]]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        steep = (slope.nbytes for link in self.slopes for slope in link if slope is not None)
        return sum(steep) + sum(edges.nbytes for link in self.seen.links for edges in link.edges)


@dataclass(slots=True)
class Prepared:
    """Cache of the chain of a version, and of its named references. Only the thread of its queries uses it."""

    chain: tuple[ExplainedLayer, ...] = ()
    bases: dict[str, list[Base]] = field(default_factory=dict)


def compute(
    session: Session,
    graphs: tuple[LayerGraph, ...],
    manifest: Manifest,
    prepared: Prepared,
    rows: Mapping[str, Array],
    reference: tuple[str, Mapping[str, Array]],
    *,
    method: str,
    outputs: Sequence[int],
    chunk_bytes: int = STEP_BYTES,
    path: int = 0,
) -> Iterator[Explanation | None]:
    """Explanations of `rows` [B, ...] by input against a reference [R, ...], as the mean over its rows.

        reference  name and rows; a named reference must have the same rows each time
        method     one of METHODS
        path       number of edges per layer with the largest contributions; only for RESCALE

    Yields None after each step, and a piece of the rows now and then. Raises FailedPrecondition.
    """
    name, reference_rows = reference
    if not prepared.chain:
        # A single reference, such as zeros, may hide a layer that does not fit.
        own = verify.feeds(manifest) if manifest.reference.inputs else reference_rows
        finite_rows = {}
        for tensor in reference_rows:
            several = np.concatenate([part[tensor][:SOME] for part in (reference_rows, own)])
            finite = np.isfinite(several).reshape(len(several), -1).all(axis=1)
            finite_rows[tensor] = np.ascontiguousarray(several[finite])
        prepared.chain = _chain(session, graphs, manifest, finite_rows)
        yield None
    chain = prepared.chain
    bases = prepared.bases.get(name) or (yield from _bases(session, manifest, prepared, name, reference_rows))
    # Memory of one row at most: copies of its edge values, its multipliers, and for a path the contributions of each
    # edge to each output.
    widest = max(max(link.layer.sources, link.layer.destinations) for link in chain)
    of_path = 4 * len(outputs) if path else 0
    edges = sum(link.layer.sources * link.layer.destinations * (len(link.parts) + 3 + of_path) for link in chain)
    step = max(1, chunk_bytes // (8 * (edges + 4 * len(outputs) * widest)))
    for start in range(0, _count(rows), step):
        activations = _seen(session, manifest, chain, batching.select_rows(rows, start, start + step))
        if method == GRADIENT:
            yield None
            contributions, paths = _gradient_x_input(chain, activations, bases, outputs), list[Floats]()
        else:
            contributions, paths = yield from _shared(chain, activations, bases, outputs, path=path > 0)
        yield Explanation(
            layer=graphs.index(chain[0].graph),
            nodes_are_inputs=chain[0].layer.node_tensor in rows,
            contributions=contributions,
            base=np.mean([base.seen.outputs[0, list(outputs)] for base in bases], axis=0),
            predictions=activations.outputs[:, list(outputs)],
            path=tuple(
                LayerPath(graphs.index(link.graph), *attribution.strongest(values, path))
                for link, values in zip(chain, paths, strict=False)
            ),
        )


def _bases(
    session: Session, manifest: Manifest, prepared: Prepared, name: str, reference_rows: Mapping[str, Array]
) -> Generator[None, None, list[Base]]:
    """The reference rows, which are cached if the reference has a name."""
    bases = []
    for at in range(_count(reference_rows)):
        row = batching.select_rows(reference_rows, at, at + 1)
        activations = _seen(session, manifest, prepared.chain, row)
        # The first layer has no slopes: a row that equals the reference gets no contribution there.
        first, *others = zip(prepared.chain, activations.links, strict=True)
        slopes: list[list[Floats | None]] = [[None] * len(first[0].parts)]
        for link, before in others:
            slopes.append(attribution.slopes(link.parts, *_around(link, before.nodes, np.ones(()))))
        bases.append(Base(activations, slopes))
        yield None
    if name and sum(base.nbytes for base in bases) <= KEPT:
        prepared.bases[name] = bases
    return bases


def _count(rows: Mapping[str, Array]) -> int:
    return len(next(iter(rows.values())))


def _chain(
    session: Session, graphs: tuple[LayerGraph, ...], manifest: Manifest, rows: Mapping[str, Array]
) -> tuple[ExplainedLayer, ...]:
    """The explained layers from first to last, as the values of some rows confirm. Raises FailedPrecondition."""
    last = manifest.output
    if len(manifest.outputs) > 1 or len(last.shape) != 2:
        raise FailedPrecondition(
            f"model '{manifest.name}' has no explanations: they need exactly one output of shape [rows, numbers]",
            code="model-not-explainable",
            hint="query edge values (QueryEdges) instead",
        )
    names = [*(graph.layer.node_tensor for graph in graphs), last.name]
    values = _values(session, names, rows)
    node_values = [values[name].astype(np.float64) for name in names]
    chain: list[ExplainedLayer] = []
    for at in reversed(range(len(graphs))):
        # If sums are quantized, the results of a layer differ from the sum of its edges by the allowed error.
        link, why = _link(
            graphs[at], values[names[at]], node_values[at + 1], max(ALIKE, manifest.approximation.max_error)
        )
        if link is None:
            if chain and manifest.source.family == HYBRID:
                break
            raise FailedPrecondition(
                f"model '{manifest.name}' cannot be explained: layer {at} {why}",
                code="model-not-explainable",
                hint="export the model again; if the error stays, query edge values (QueryEdges) instead",
            )
        chain.insert(0, link)
    return tuple(chain)


def _values(session: Session, names: Sequence[str], rows: Mapping[str, Array]) -> dict[str, Array]:
    """Tensors of the graph by name, on some rows by input."""
    missing = [name for name in dict.fromkeys(names) if name not in rows]
    return dict(rows) | dict(zip(missing, session.run(missing, rows), strict=True))


def _link(graph: LayerGraph, nodes: Array, result: Floats, bound: float) -> tuple[ExplainedLayer | None, str]:
    """A layer whose results for the nodes [R, n] are `result` [R, m] within `bound` of the largest value; otherwise
    None and the reason."""
    layer = graph.layer
    if layer.positions:
        return None, "runs at several positions of a row"
    try:
        link = ExplainedLayer(graph, attribution.parts(layer))
        activations = link.at(nodes)
        outputs = attribution.apply_post_steps(layer, activations.sums(layer))
        for part in link.parts:  # whether each step before them is known
            attribution.read(part, activations.nodes)
    except attribution.NoParts:
        return None, "has bases with different inputs, which its export does not separate"
    except step_rules.UnknownStep as step:
        return None, f"has an unknown step: {str(step)[:80]}"
    except (IndexError, ValueError):
        return None, "has steps in its manifest that do not fit its nodes"
    if outputs.shape == result.shape:
        finite = np.isfinite(result).all(axis=1)
        with np.errstate(all="ignore"):
            difference = np.abs(outputs[finite] - result[finite]).max(initial=0.0)
            if difference <= bound * np.abs(result[finite]).max(initial=0.0):
                return link, ""
    return None, "has other results than the inputs of the next layer"


def _seen(
    session: Session, manifest: Manifest, chain: Sequence[ExplainedLayer], rows: Mapping[str, Array]
) -> ForwardPass:
    values = _values(session, [manifest.output.name, *(link.layer.node_tensor for link in chain)], rows)
    links = tuple(link.at(values[link.layer.node_tensor]) for link in chain)
    return ForwardPass(links, values[manifest.output.name].astype(np.float64))


def _around(link: ExplainedLayer, nodes: Floats, signs: Floats) -> tuple[LayerActivations, LayerActivations]:
    """The activations for nodes [B, n] a little below and above the nodes. `signs` [n]: which direction is above."""
    dtype = DTYPES[link.graph.node_input.datatype]
    reach = REACH * attribution.magnitudes(link.layer, nodes) * signs
    return link.at((nodes - reach).astype(dtype)), link.at((nodes + reach).astype(dtype))


def _shared(
    chain: Sequence[ExplainedLayer],
    activations: ForwardPass,
    bases: Sequence[Base],
    outputs: Sequence[int],
    *,
    path: bool,
) -> Generator[None, None, tuple[Floats, list[Floats]]]:
    """Contributions [B, n, O] as the mean over the reference rows; with `path` also the contributions of each edge of
    each layer."""
    total, paths = np.zeros(()), [np.zeros(()) for _ in chain if path]
    for at, base in enumerate(bases):
        if at:
            yield None
        contributions, carried = _contributions(chain, activations, base, outputs, path=path)
        total = total + contributions
        paths = [path_sum + more for path_sum, more in zip(paths, carried, strict=True)]
    return np.asarray(total / len(bases)), [np.asarray(path_sum / len(bases)) for path_sum in paths]


def _gradient_x_input(
    chain: Sequence[ExplainedLayer], activations: ForwardPass, bases: Sequence[Base], outputs: Sequence[int]
) -> Floats:
    """Contributions [B, n, O]: the slope of the outputs at each row, times its distance from the reference. For a row
    that equals its reference, the rules of `analysis/attribution.py` are the chain rule."""
    every = np.eye(activations.outputs.shape[1])[list(outputs)]
    multipliers = np.broadcast_to(every, (len(activations.outputs), *every.shape))
    for link, at in reversed(list(zip(chain, activations.links, strict=True))):
        # Every other node moves in the other direction: a norm would not change if all moved in the same one.
        signs = np.where(np.arange(at.nodes.shape[1]) % 2, -1.0, 1.0)
        below, above = _around(link, at.nodes, signs)
        steep = attribution.gradients(link.parts, below, above)
        multipliers = attribution.through(link.layer, link.parts, at, at, steep, multipliers)
    difference = activations.links[0].nodes - np.mean([base.seen.links[0].nodes for base in bases], axis=0)
    with np.errstate(all="ignore"):
        return np.asarray((multipliers * difference[:, None]).transpose(0, 2, 1))


def _contributions(
    chain: Sequence[ExplainedLayer], activations: ForwardPass, base: Base, outputs: Sequence[int], *, path: bool
) -> tuple[Floats, list[Floats]]:
    """Contributions [B, n, O] of each input node of the chain to the outputs, compared with one reference row; with
    `path` also the contributions [B, O, S, D] of the edges of each layer."""
    every, ways = np.eye(activations.outputs.shape[1])[list(outputs)], list[Floats]()
    multipliers = np.broadcast_to(every, (len(activations.outputs), *every.shape))
    for link, x, r, slope in reversed(list(zip(chain, activations.links, base.seen.links, base.slopes, strict=True))):
        if path:
            with np.errstate(all="ignore"):
                ways.insert(0, attribution.carried(link.layer, x, r, multipliers))
        multipliers = attribution.through(link.layer, link.parts, x, r, slope, multipliers)
    difference = activations.links[0].nodes - base.seen.links[0].nodes
    with np.errstate(all="ignore"):
        return np.asarray((multipliers * difference[:, None]).transpose(0, 2, 1)), ways
