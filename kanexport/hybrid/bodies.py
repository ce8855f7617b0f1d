"""What goes into each call of a layer, and the graphs of its edges."""

from __future__ import annotations

from collections.abc import Callable

from kanexport.form.ir import Kan
from kanexport.hybrid import conv_graphs, splice
from kanexport.hybrid.conv_read import Convolved
from kanexport.hybrid.lend import TYPES, lent
from kanexport.hybrid.plan import Plan, Use
from kanexport.hybrid.recognise import Whole
from kanexport.hybrid.sampled import Sampled
from kanexport.hybrid.sampled_graphs import EdgeGraphs
from kanexport.hybrid.trace import Hole
from kanexport.lowering.edges import edge_graph
from kanexport.lowering.serving import INPUT, serving_graph
from kanexport.operators.weights import Weights, share
from kanexport.packing.publish import Target


def of(
    whole: Whole, plan: Plan, target: Target, file: Weights | None
) -> tuple[list[splice.Body | splice.Tap], tuple[bytes, ...]]:
    """What goes into each call of a layer, and the edge graphs. `file`: the one for their large constants."""
    index = {name: at for at, name in enumerate(plan.modules)}
    sampled = _sampled(whole, plan, target)
    edges: list[bytes] = []
    bodies: list[splice.Body | splice.Tap] = []
    for use in plan.uses:
        if isinstance(use.kan, Convolved):
            tap, more = _tap(whole, use, use.kan, index[use.name], len(edges), target)
            bodies.append(tap)
            edges += [share(graph, file) for graph in more]
            continue
        nodes = []
        inner = [INPUT, *(f"layer{at}_in" for at in range(1, len(use.kan.layers)))]
        for layer, width, tensor in zip(use.kan.layers, use.kan.widths(), inner, strict=False):
            if use.axes is not None:
                name = f"layer{len(edges)}_in"
                nodes.append((tensor, name))
                by = plan.readings[use.name].by
                if by is None:
                    edges.append(edge_graph(layer, name, width, target.dtype, file))
                else:
                    edges.append(share(sampled(by, name), file))
        hole = Hole(index[use.name], use.kan.n_inputs, use.kan.n_outputs, use.form)
        model = _serving(plan.readings[use.name].by, use.kan, tuple(inner), target, file)
        bodies.append(splice.Body(hole, model, tuple(nodes), use.axes))
    return bodies, tuple(edges)


def _sampled(whole: Whole, plan: Plan, target: Target) -> Callable[[Sampled, str], bytes]:
    """From a layer that is known by its outputs and the name of its input tensor to its edge graph."""
    with lent(whole, TYPES[target.dtype]):
        graphs = EdgeGraphs(reading.by for reading in plan.readings.values() if isinstance(reading.by, Sampled))

    def edges(by: Sampled, name: str) -> bytes:
        with lent(whole, TYPES[target.dtype]):
            return graphs.edges(by, name, target.dtype, target.max_batch_size)

    return edges


def _tap(
    whole: Whole, use: Use, convolved: Convolved, index: int, first: int, target: Target
) -> tuple[splice.Tap, list[bytes]]:
    """What is looked at where a convolution runs, and its edge graphs, of which one is the `first`."""
    graphs, seen = [], []
    for at, (part, axes) in enumerate(zip(convolved.parts, use.places, strict=False), first):
        name = f"layer{at}_in"
        seen.append(conv_graphs.unfolded(part, name, axes, use.picture))
        with lent(whole, TYPES[target.dtype]):
            graphs.append(conv_graphs.edges(convolved, part, name, target.dtype, target.max_batch_size))
    hole = Hole(index, 0, 0, use.form)
    return splice.Tap(hole, tuple(seen), use.picture, target.dtype), graphs


def _serving(by: Sampled | None, kan: Kan, inner: tuple[str, ...], target: Target, file: Weights | None) -> bytes:
    if by is None:
        return serving_graph(kan, inner, target.dtype, file, whole=False)
    return splice.passing(kan.n_inputs, target.dtype)  # the traced module still computes the layer
