"""The serving graph: from the input to the output, with the node vectors beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from kanexport.errors import InvalidKan
from kanexport.form.ir import Kan, Layer
from kanexport.lowering import cost, narrow, pruned, simplify, splines, terms
from kanexport.operators.graph import Graph, Value
from kanexport.operators.weights import Weights

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
    kernel: bool = False,
) -> bytes:
    """x [B, n] to y [B, m], with the input vector of every layer but the first as a further
    output, [B, width]. `names`: one for each layer, the first of which is not used; `dtype`:
    "float32" or "float64". `weights`: as of `Graph`. `whole`: nothing follows; else it is a part of a module, and a
    normalisation may follow. `rows`: of the runs that it shall be fast in. `kernel`: splines by the operator of
    `shared.kernel`. Raises InvalidKan, naming the layer, where a weight is too large."""
    g = Graph("kan", dtype, weights)
    following = [*(layer.mixes for layer in kan.layers[1:]), not whole]
    x = g.input(INPUT, kan.n_inputs)
    outputs: dict[str, tuple[Value, tuple[int, ...]]] = {}
    for at, (layer, width) in enumerate(zip(kan.layers, kan.widths()[1:], strict=True)):
        g.small_values = following[at] or any(step.mixes for step in layer.after)
        g.apart = cost.apart(layer, rows)
        with naming(at):
            for step in layer.before:
                x = step.emit(g, x)
            x = _sums(g, simplify.live(layer), x, kernel=kernel)
            for step in layer.after:
                x = step.emit(g, x)
        last = at == len(kan.layers) - 1
        name = OUTPUT if last else names[at + 1]
        x = g.rename(x, name)
        outputs[name] = (x, (width,))
    return g.build({OUTPUT: outputs.pop(OUTPUT), **outputs})


def _sums(g: Graph, layer: Layer, x: Value, *, kernel: bool) -> Value:
    """[B, I] -> [B, O]: the sum over the sources of every edge, plus the bias."""
    taken = splines.taken(layer, g.dtype) if kernel else None
    if taken is None:
        total = _terms(g, layer, x)
    else:
        total = splines.emit(g, layer, taken, x)
        for term in layer.terms:
            if term not in (taken.spline, taken.base):
                total = terms.summed(g, layer, term, x, total)
    if layer.symbolic:
        total = g.add(total, g.sum(_symbolic_table(g, layer, x), axis=1))
    if layer.nan_spreads.any() and not layer.nan_spreads.all():
        # Counted, because 0 * NaN would reach destinations that have no such edge.
        spoilt = g.gemm(g.cast(terms.nonfinite(g, x)), g.const(layer.nan_spreads))
        total = g.op("Where", g.op("Greater", spoilt, g.const(0.0)), g.nan(), total)
    return total


def _terms(g: Graph, layer: Layer, x: Value) -> Value:
    """[B, I] -> [B, O]: the bias and all terms, of the sources that add something."""
    total = _start(g, layer, x)
    layer, kept = pruned.without(layer)
    if kept is not None:
        x = g.gather(x, kept, axis=1)
    if narrow.fits(g, layer):
        return narrow.summed(g, layer, x, total)
    for term in layer.terms:
        total = terms.summed(g, layer, term, x, total)
    return total


def _start(g: Graph, layer: Layer, x: Value) -> Value:
    """What the sums start from, [B, 1], [1, O] or [B, O]: the bias, and NaN in every
    row with a non-finite source where that spreads (x - x is zero or NaN)."""
    bias = g.const(layer.bias[None])
    if layer.terms and not layer.nan_spreads.all():
        return bias
    spread = g.sum(g.sub(x, x), axis=1, keepdims=True, exact=True)
    if not layer.nan_spreads.all():  # no terms: only the batch axis is wanted
        spread = g.op("Where", g.op("IsNaN", spread), g.const(0.0), spread)
    return g.add(spread, bias) if simplify.has_bias(layer) or not layer.terms else spread


def _symbolic_table(g: Graph, layer: Layer, x: Value) -> Value:
    """[B, D, O]: the symbolic values of each destination, padded with zeros to D.

    A gather and a sum, not a matrix product: NaN on one edge must reach its own
    destination only.
    """
    columns, ordered = terms.symbolic_columns(g, layer, x)
    incoming: list[list[int]] = [[] for _ in range(layer.destinations)]
    for at, edge in enumerate(ordered):
        incoming[edge.destination].append(at)
    depth = max(len(column) for column in incoming)
    zero = len(ordered)
    table = [column + [zero] * (depth - len(column)) for column in incoming]
    flat = np.array(table, dtype=np.int64).T.reshape(-1)  # [D * O]
    return g.reshape(g.gather(columns, flat, axis=1), 0, depth, layer.destinations)


@contextlib.contextmanager
def naming(at: int) -> Iterator[None]:
    """Errors of a layer, such as a weight too large for float32, name it."""
    try:
        yield
    except InvalidKan as error:
        raise error.at(f"layer {at}") from error
